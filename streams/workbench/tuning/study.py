"""Searches for a better task with Optuna: each trial is a pass over the rows to tune on, broken off where it is worse.

The first trial is the task as it is, whole: all are measured by its labels, and the space of changes follows from its
rows. A trial is looked at after 1, 2 and 4 quarters of the rows that count, by the mean of the metric over the newer
half of the quarters so far; the worse half of those seen there goes no further (successive halving), but for the few
that are tried first.

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from weir.online.batch import FloatVector
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.notes import RunWatch
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.run_result import BacktestResult
from weir.streams.backtest.runner import run_backtest
from weir.streams.errors import UsageError, WeirError, in_words
from weir.streams.workbench.report.feature_parts import EveryNth
from weir.streams.workbench.tuning.reference import BLOCKS, RUNGS, Reference, TrialWatch, left_alone, reference_of, sign
from weir.streams.workbench.tuning.space import AS_IS, Document, Facts, Space, built
from weir.streams.workbench.tuning.time_cut import TimeCut

_IDLE: Final = 50
"""So many choices in a row that were looked at before end a search: it has seen what there is."""
_SPACE: Final = 3
"""One more for each change of what is varied or measured: trials of before lack choices, or have other values."""
_ENDED: Final = (TrialState.COMPLETE, TrialState.PRUNED)
OnTrial = Callable[[FrozenTrial], None]
Progress = Callable[[int, int], None]


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
    label_delay_s: float | None = None
    """How late labels of files become known."""

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
        if task is None:
            return None
        quiet: dict[str, Any] = {"alerting": False, "drift": None}  # which change no score, and take time
        if task.source is not None:
            quiet["source"] = task.source.model_copy(update=self.cut.source)
        return task.model_copy(update=quiet)

    def backtest(self, task: TaskSpec, progress: Progress | None, **more: Any) -> BacktestResult:
        """Run a task over the rows to tune on."""
        labels, delay_s = self.cut.labels, self.label_delay_s
        return run_backtest(task, [self.cut.path], None, progress, labels=labels, label_delay_s=delay_s, **more)

    def open(self, number: int = 0) -> optuna.Study:
        """The study; raises ``UsageError`` where the file is one of other data or another task."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # what depends on a learner is sampled for itself
        self.study.parent.mkdir(parents=True, exist_ok=True)
        try:
            study = optuna.create_study(
                storage=optuna.storages.JournalStorage(JournalFileBackend(str(self.study))),
                study_name="task",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=2),
            )
        except (ValueError, LookupError, TypeError) as exc:  # of a line that is no entry of a study
            raise UsageError(f"{self.study} is no study ({in_words(exc)}): name another file by --study") from None
        # Another seed for each run of a study, which would else draw the same trials again.
        seed = self.seed + len(study.trials) + 1_000 * number
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        about = self._about()
        if study.user_attrs.setdefault("about", about) != about:
            raise UsageError(
                f"{self.study} is a study of another task, other data, another metric or an earlier version: name "
                "another file by --study"
            )
        study.set_user_attr("about", about)
        return study

    def _about(self) -> str:
        """What tells a study from one of another task, rows to tune on, metric or space."""
        told = json.dumps([self.text, self.cut.digest, self.metric, self.seed, _SPACE, *self._delay()])
        return hashlib.sha256(told.encode()).hexdigest()

    def _delay(self) -> list[float]:
        return [] if self.label_delay_s is None else [self.label_delay_s]

    def reference(self, progress: Progress | None = None) -> Reference:
        """The measure of all trials: kept from the run before, or by the task as it is, which runs now."""
        path = self.folder / f"reference-{self._about()[:12]}.npz"
        if path.is_file():
            held = np.load(path)
            columns = {name: held[name] for name in ("ts", "label", "weight", "entity")}
            gap_s, span_s, delay_s, positive = held["facts"].tolist()
            facts = Facts(gap_s, span_s, delay_s, positive, tuple(held["telling"].tolist()))
            return Reference(**columns, facts=facts, start=int(held["start"]), seconds=float(held["seconds"]))
        task = self.task(self.document)
        assert task is not None
        sample = InputSample()
        done = self.backtest(task, progress, keep=Keep(outcomes=True), watcher=sample)
        assert done.outcomes is not None
        r = reference_of(done.outcomes, done.seconds, self.cut.at)
        # Of the older rows: by the newer ones trials are told apart.
        f = replace(r.facts, telling=tuple(sample.ranked(r.label[: r.edge(BLOCKS // 2)])))
        r = replace(r, facts=f)
        np.save(self.folder / "trial-0.npy", done.outcomes.score[: len(r)])
        np.savez(
            path, ts=r.ts, label=r.label, weight=r.weight, entity=r.entity, start=r.start, seconds=r.seconds,
            facts=[f.gap_s, f.span_s, f.delay_s, f.positive],
            telling=np.array(f.telling, dtype=np.str_),
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
            first.set_user_attr("task", _digest(space.suggest(first)))
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
        while time.monotonic() < until and finished(study) < trials and idle < _IDLE and not left_alone():
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
            value = sign(self.metric) * reference.value(score, blocks, self.metric)
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
            digest, ended = _digest(document), study.get_trials(deepcopy=False, states=_ENDED)
            same = next((t for t in ended if t.user_attrs.get("task") == digest), None)
            trial.set_user_attr("task", digest)
            task = None if same is not None else self.task(document)
            watch = TrialWatch(self.metric, trial, reference, until)
            if task is not None:
                self.backtest(task, progress, watcher=watch, stop=watch.stop)
        except WeirError as error:  # a change that the data does not allow is no end of the search
            trial.set_user_attr("error", str(error))
            task = None
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


def _digest(document: Document) -> str:
    """What tells the same changes made by other choices."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


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
    done = study.get_trials(deepcopy=False, states=_ENDED)
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


_MOST_ROWS: Final = 100_000
_TREES: Final[dict[str, Any]] = {"n_estimators": 100, "learning_rate": 0.1, "num_leaves": 15, "min_child_samples": 50}
_DRAWN: Final[dict[str, Any]] = {"subsample": 0.7, "subsample_freq": 1, "colsample_bytree": 0.5, "random_state": 1}
_SAME: Final[dict[str, Any]] = {
    "importance_type": "gain",
    "n_jobs": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}


class InputSample:
    """Keeps the inputs of every k-th row of a run; k doubles where that is too many.

    By them it ranks the inputs that tell something of the label: those by which boosted trees divide the rows. A search
    may leave out the others: most learners lose by what tells nothing, and learn a row in the time of the square of
    their inputs. Source: Breiman et al. 1984, CART (gain of splits).
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._held = EveryNth(_MOST_ROWS)

    def begin(self, pipeline: TaskPipeline, watch: RunWatch) -> None:
        """A run begins."""
        del watch
        self._names = pipeline.features

    def add(self, out: StepOutput) -> None:
        """Take in what a step scored."""
        if out.predictions is not None:
            self._held.add(out.predictions.features.astype(np.float32))

    def ranked(self, label: FloatVector) -> list[str]:
        """The inputs that tell something of labels ``(m,)``, NaN where not known, of the m rows that came first."""
        import lightgbm as lgb

        x = self._held.rows()
        rows = np.arange(len(x)) * self._held.step
        known = rows < len(label)
        known[known] = ~np.isnan(label[rows[known]])
        y = label[rows[known]] == 1.0
        if y.all() or not y.any():
            return []
        trees = lgb.LGBMClassifier(**_TREES, **_DRAWN, **_SAME).fit(x[known], y)
        gain = np.asarray(trees.feature_importances_, dtype=np.float64)
        return [self._names[k] for k in np.argsort(-gain, kind="stable") if gain[k] > 0.0]
