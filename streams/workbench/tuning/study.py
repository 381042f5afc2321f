"""Searches for a better task with Optuna: each trial is a pass over the rows to tune on, broken off where it is worse.

The first trial is the task as it is, whole: its labels are those by which all are measured, and the space of changes
follows from its rows. A trial is looked at after 2, 4 and 8 eighths of the rows that count, by the mean of the
metric over the newer half of the eighths so far; the worse half of those seen there goes no further (successive
halving), but for the few that are tried first. What counts begins when a tenth of the labels is known, and ends where
too few are known yet. Of newer rows the labels that come soon are there and others are not: each counts for as many as
its value and its age stand for, by the delays of old rows (inverse probability of censoring; Robins and Finkelstein
2000).

A study is a journal file: with the same file a search goes on. Sources: Akiba et al. 2019, Optuna; Bergstra et al. 2011
(TPE); Li et al. 2020, A system for massively parallel hyperparameter tuning (asynchronous successive halving).
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.notes import RunWatch
from weir.streams.backtest.outcomes import Keep, Outcomes
from weir.streams.backtest.runner import run_backtest
from weir.streams.errors import UsageError
from weir.streams.workbench.measures import LOWER_IS_BETTER, MIN_UNITS, measure
from weir.streams.workbench.tuning.space import AS_IS, Document, Facts, Space, built
from weir.streams.workbench.tuning.time_cut import TimeCut

BLOCKS: Final = 8
RUNGS: Final = (2, 4, BLOCKS)
_MIN_OF_EACH: Final = 10
_IDLE: Final = 50
"""So many choices in a row that were looked at before end a search: it has seen what there is."""
_EARLY: Final = 0.3
"""Share of the rows whose labels tell how late labels are."""
_LEAST_KNOWN: Final = 0.3
"""Rows count that are so old that this share of either label is known."""
OnTrial = Callable[[FrozenTrial], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Reference:
    """The n rows by which trials are measured, in the order of scoring; those from ``start`` on count."""

    ts: FloatVector
    label: FloatVector
    """NaN where it is not known."""
    weight: FloatVector
    """How many rows each stands for: labels of its value are seldom known so soon."""
    entity: IntVector
    """What intervals are drawn by."""
    facts: Facts
    start: int
    seconds: float
    """The task as it is took so long for all rows to tune on."""

    def __len__(self) -> int:
        return len(self.ts)

    def edge(self, blocks: int) -> int:
        """The row at which so many blocks end."""
        return self.start + (len(self) - self.start) * blocks // BLOCKS

    def later(self) -> IntVector:
        """The rows with a label in the newer half of the blocks: by these trials are told apart in the end."""
        at = np.arange(self.edge(BLOCKS // 2), len(self))
        return at[~np.isnan(self.label[at])]

    def value(self, score: FloatVector, blocks: int, metric: str) -> float:
        """The mean of a metric over the newer half of the first ``blocks``; of all their rows where a block has few."""
        edges = [self.edge(k) for k in range(blocks // 2, blocks + 1)]
        found = [self._of(score, slice(a, b), metric) for a, b in pairwise(edges)]
        held = [each for each in found if not np.isnan(each)]
        return float(np.mean(held)) if held else self._of(score, slice(edges[0], edges[-1]), metric)

    def _of(self, score: FloatVector, rows: slice, metric: str) -> float:
        known = ~np.isnan(self.label[rows])
        y: BoolVector = self.label[rows][known] == 1.0
        if min(y.sum(), (~y).sum()) < _MIN_OF_EACH:
            return float("nan")
        return measure(y, score[rows][known], weight=self.weight[rows][known])[metric]


def reference_of(outcomes: Outcomes, seconds: float) -> Reference:
    """What the task as it is says of rows, labels and spans.

    Raises ``UsageError`` where too few labels are known to tell tasks apart.
    """
    known = np.flatnonzero(outcomes.labelled)
    positives = int(outcomes.label[known].sum())
    if min(positives, len(known) - positives) < 4 * _MIN_OF_EACH:
        told = f"{len(known):,} labels are known before the cut, {positives:,} of them 1"
        raise UsageError(f"{told}; a search needs {4 * _MIN_OF_EACH} of either: give more data, or lower --judge")
    ts = np.maximum.accumulate(outcomes.ts)
    early = known[known < np.quantile(known, _EARLY)]  # of newer rows those that wait long for a label have none yet
    delay = outcomes.known_at - outcomes.ts
    usual = float(np.quantile(delay[early], 0.9))
    share = _known_by(ts[-1] - outcomes.ts, delay[early], outcomes.label[early])
    rows = max(int(np.flatnonzero(share.min(axis=0) >= _LEAST_KNOWN)[-1]) + 1, len(ts) // 4)
    told = outcomes.label[:rows] == 1.0
    weight = 1.0 / np.maximum(np.where(told, share[1, :rows], share[0, :rows]), _LEAST_KNOWN)
    first = float(np.quantile(outcomes.known_at[known], 0.1))
    start = min(max(int(np.searchsorted(ts, first)), rows // BLOCKS), rows // 2)
    entity = np.asarray(outcomes.entity_ids.combine_chunks().dictionary_encode().indices, dtype=np.int64)
    order = np.lexsort((outcomes.ts, entity))
    gaps = np.diff(outcomes.ts[order])[np.diff(entity[order]) == 0]
    gap = float(np.median(gaps)) if len(gaps) else 0.0
    if entity.max() + 1 < MIN_UNITS:
        entity = np.floor(outcomes.ts / 86_400.0).astype(np.int64)  # days are drawn, where there is no entity to draw
    facts = Facts(gap, float(ts[-1] - ts[0]), usual, positives / len(known))
    return Reference(outcomes.ts[:rows], outcomes.label[:rows], weight, entity[:rows], facts, start, seconds)


def _known_by(age: FloatVector, delay: FloatVector, label: FloatVector) -> FloatMatrix:
    """Of labels 0 and 1 the share that is known at each age: ``(k,)`` delays and labels of old rows to ``(2, n)``."""
    out = np.ones((2, len(age)))
    for y in (0, 1):
        own = np.sort(delay[label == y])
        if len(own) >= _MIN_OF_EACH:
            out[y] = np.searchsorted(own, age, "right") / len(own)
    return out


@dataclass(frozen=True, slots=True)
class Search:
    """What every process of a search knows.

    Parameters
    ----------
    text : of the task file.
    cut : the rows to tune on.
    study : journal file, made when it is not there; beside it a folder keeps scores.
    metric : one of ``measures.MEASURES``.
    seed : of the search.
    """

    text: str
    cut: TimeCut
    study: Path
    metric: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where scores and the cut are kept."""
        return work_folder(self.study)

    @property
    def document(self) -> Document:
        """The task as it is."""
        return tomllib.loads(self.text)

    def task(self, document: Document) -> TaskSpec | None:
        """The task of a document over the rows to tune on; ``None`` where there can be none."""
        task = built(document)
        if task is None or task.source is None:
            return None
        quiet = {"alerting": False, "drift": None}  # which change no score, and take time
        return task.model_copy(update=quiet | {"source": task.source.model_copy(update=self.cut.source)})

    def sign(self) -> int:
        """What makes more be better."""
        return -1 if self.metric in LOWER_IS_BETTER else 1

    def open(self, number: int = 0) -> optuna.Study:
        """The study; raises ``UsageError`` where the file is one of other data or another task."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # what depends on a learner is sampled for itself
        self.study.parent.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(self.study))),
            study_name="task",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=2),
        )
        # Another seed for each run of a study, which would else draw the same trials again.
        seed = self.seed + len(study.trials) + 1_000 * number
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        about = self._about()
        if study.user_attrs.setdefault("about", about) != about:
            raise UsageError(
                f"{self.study} is a study of another task, other data or another metric: name another file"
            )
        study.set_user_attr("about", about)
        return study

    def _about(self) -> str:
        """What tells a study from one of another task, other rows to tune on, or another metric."""
        told = json.dumps([self.text, self.cut.digest, self.metric, self.seed])
        return hashlib.sha256(told.encode()).hexdigest()

    def reference(self, progress: Progress | None = None) -> Reference:
        """The measure of all trials: kept from the run before, or by the task as it is, which runs now."""
        path = self.folder / f"reference-{self._about()[:12]}.npz"
        if path.is_file():
            held = np.load(path)
            facts = Facts(*held["facts"].tolist())
            return Reference(
                held["ts"],
                held["label"],
                held["weight"],
                held["entity"],
                facts,
                int(held["start"]),
                float(held["seconds"]),
            )
        task = self.task(self.document)
        assert task is not None
        done = run_backtest(task, [self.cut.path], None, progress, keep=Keep(outcomes=True))
        assert done.outcomes is not None
        r = reference_of(done.outcomes, done.seconds)
        f = r.facts
        np.save(self.folder / "trial-0.npy", done.outcomes.score[: len(r)])
        np.savez(
            path, ts=r.ts, label=r.label, weight=r.weight, entity=r.entity, start=r.start, seconds=r.seconds,
            facts=[f.gap_s, f.span_s, f.delay_s, f.positive],
        )  # fmt: skip
        return r

    def prepare(self, progress: Progress | None = None) -> tuple[optuna.Study, Reference]:
        """The study with its first trial, by one process alone; trials of processes that were killed come again."""
        study, reference = self.open(), self.reference(progress)
        for left in study.get_trials(states=(TrialState.RUNNING,)):
            give_up(study, left)
        if not study.trials:
            space = Space(self.document, reference.facts)
            for choices in space.first():
                study.enqueue_trial(choices, skip_if_exists=True)
            first = study.ask()
            space.suggest(first)
            self._tell_first(study, first, reference)
        return study, reference

    def run(
        self, until: float, trials: int, on_trial: OnTrial, progress: Progress | None = None, number: int = 0
    ) -> None:
        """Run trials until ``until`` (``time.monotonic``) or until the study has ``trials`` that ended.

        Processes of several have each a ``number``: they would else draw the same trials.
        """
        study, reference = self.open(number), self.reference()
        space, idle = Space(self.document, reference.facts), 0
        while time.monotonic() < until and finished(study) < trials and idle < _IDLE:
            before = finished(study)
            trial = self._trial(study, space, reference, until, progress)
            idle = 0 if finished(study) > before else idle + 1
            if not idle:
                on_trial(trial)

    def run_all(self, until: float, trials: int, processes: int, on_trial: OnTrial, tick: Callable[[], None]) -> None:
        """The same in several processes; ``tick`` is called now and then while they run."""
        if processes == 1:
            self.run(until, trials, on_trial, lambda *_: tick())
            return
        spawn, study = multiprocessing.get_context("spawn"), self.open()
        told = {t.number for t in study.get_trials(deepcopy=False) if t.state.is_finished()}
        left = until - time.monotonic()  # clocks of processes differ
        workers = [spawn.Process(target=_work, args=(self, left, trials, k)) for k in range(processes)]
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # workers inherit it: Ctrl-C is for this process
        for worker in workers:
            worker.start()
        signal.signal(signal.SIGINT, handler)
        try:
            while any(worker.is_alive() for worker in workers):
                workers[0].join(0.5)
                tick()
                for trial in study.get_trials(deepcopy=False):
                    if trial.state.is_finished() and trial.number not in told:
                        told.add(trial.number)
                        on_trial(trial)
        except BaseException:
            for worker in workers:
                worker.terminate()  # their trials come again when the search goes on
            raise
        finally:
            for worker in workers:
                worker.join()
        if failed := [worker.exitcode for worker in workers if worker.exitcode]:
            raise UsageError(f"{len(failed)} of {processes} processes ended with {failed[0]}; their words stand above")

    def _tell_first(self, study: optuna.Study, trial: optuna.Trial, reference: Reference) -> None:
        score = np.load(self.folder / "trial-0.npy")
        for blocks in RUNGS:
            value = self.sign() * reference.value(score, blocks, self.metric)
            trial.report(value, blocks)
            trial.should_prune()  # which notes the value among those to be compared with
        trial.set_user_attr("seconds", reference.seconds)
        study.tell(trial, value)

    def _trial(
        self, study: optuna.Study, space: Space, reference: Reference, until: float, progress: Progress | None
    ) -> FrozenTrial:
        trial = study.ask()
        try:
            document = space.suggest(trial)
            digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
            same = next((t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("task") == digest), None)
            trial.set_user_attr("task", digest)
            task = None if same is not None else self.task(document)
            watch = _Watch(self, trial, reference, until)
            if task is not None:
                run_backtest(task, [self.cut.path], None, progress, watcher=watch, stop=watch.stop)
        except BaseException:  # also Ctrl-C: the trial is run again when the search goes on
            give_up(study, study.trials[trial.number])
            raise
        if watch.late:
            give_up(study, study.trials[trial.number])
        elif same is not None and same.state == TrialState.COMPLETE:
            trial.set_user_attr("again", same.number)
            study.tell(trial, same.value)  # so that the sampler knows; it is not counted, nor shown
        elif task is None or watch.value is None:
            study.tell(trial, state=TrialState.FAIL if task is None else TrialState.PRUNED)
        else:
            np.save(self.folder / f"trial-{trial.number}.npy", watch.scores()[: len(reference)])
            trial.set_user_attr("seconds", time.monotonic() - watch.began)
            study.tell(trial, watch.value)
        return study.trials[trial.number]


def _work(search: Search, left_s: float, trials: int, number: int) -> None:
    """What a process of its own does."""
    search.run(time.monotonic() + left_s, trials, lambda _: None, number=number)


class _Watch:
    """Looks at a trial while it runs."""

    def __init__(self, search: Search, trial: optuna.Trial, reference: Reference, until: float) -> None:
        self._search, self._trial, self._reference, self._until = search, trial, reference, until
        self._held: list[tuple[FloatVector, FloatVector]] = []
        self._rows, self._blocks = 0, RUNGS[0]
        self._first = "fixed_params" in trial.storage.get_trial_system_attrs(trial._trial_id)
        self._pruned = self.late = False
        self.value: float | None = None
        """Once all rows that count are scored."""
        self.began = time.monotonic()

    def scores(self) -> FloatVector:
        """Those so far; raises ``UsageError`` where they are not of the rows of the task as it is."""
        ts, score = (np.concatenate(each) for each in zip(*self._held, strict=True))
        n = min(len(ts), len(self._reference))
        if not np.array_equal(ts[:n], self._reference.ts[:n]):
            raise UsageError(
                "a trial scored other rows than the task as it is: change what is scored by hand, not here"
            )
        return np.asarray(score)

    def begin(self, pipeline: TaskPipeline, watch: RunWatch) -> None:
        """A run begins; there is nothing to know of it."""

    def add(self, out: StepOutput) -> None:
        """Take in what a step scored; at the end of some blocks tell the pruner."""
        if out.predictions is None or self.stop():
            return
        self._held.append((out.predictions.ts, out.predictions.score))
        self._rows += len(out.predictions)
        while self._blocks <= BLOCKS and self._rows >= self._reference.edge(self._blocks):
            value = self._reference.value(self.scores(), self._blocks, self._search.metric)
            if not np.isnan(value):
                value *= self._search.sign()
                self._trial.report(value, self._blocks)
                worse = self._trial.should_prune()
                self._pruned = worse and self._blocks < BLOCKS and not self._first
            if self._blocks == BLOCKS:
                self.value = value
            self._blocks *= 2

    def stop(self) -> bool:
        """Whether nothing more is to be learned of it."""
        self.late = self.value is None and not self._pruned and time.monotonic() > self._until
        return self._pruned or self.late or self.value is not None


def work_folder(study: Path) -> Path:
    """The folder beside a study."""
    return study.with_name(f"{study.name}.work")


def give_up(study: optuna.Study, trial: FrozenTrial) -> None:
    """Fail a trial that was broken off, and put its choices first in line."""
    study.tell(trial.number, state=TrialState.FAIL)
    if trial.params:
        study.enqueue_trial(trial.params)


def finished(study: optuna.Study) -> int:
    """Configurations that were looked at; of what was tried before, and of what is no task, nothing was run."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sum("again" not in t.user_attrs for t in done)


def changes(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial changed."""
    return {name: value for name, value in trial.params.items() if value != AS_IS}


def best_of(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ran to the end, the best first; of equal ones the first: nothing is changed for nothing."""
    done = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if "again" not in t.user_attrs]
    return sorted(done, key=lambda t: (-(t.value if t.value is not None else -np.inf), t.number))


def document_of(search: Search, trial: FrozenTrial, facts: Facts) -> Document:
    """The task that a trial tried."""
    return Space(search.document, facts).suggest(optuna.trial.FixedTrial(trial.params))
