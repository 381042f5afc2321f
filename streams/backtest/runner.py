"""Runs a task over files as it would have run live: one pass, in event time, labels never before their delay.

Run it with ``weir backtest``. It knows files and one task's pipeline, not the log or the broker.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

from weir.online.batch import EventBatch, FloatVector, LabelBatch
from weir.online.codec.columns import ColumnRequest
from weir.online.decisions.threshold_policy import FixedThreshold
from weir.online.durations import format_duration
from weir.online.stages.dedupe import Deduper, bytes_for
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.stages.scoring import seen_by
from weir.online.task.column_plan import columns_of, union
from weir.online.task.full_spec import FullScorer
from weir.online.task.spec import SourceSpec, TaskSpec
from weir.streams.backtest.distinct_ids import distinct, within
from weir.streams.backtest.event_files import FileSource, SourceBatch
from weir.streams.backtest.held_labels import LabelInput, LabelsBetween
from weir.streams.backtest.notes import Note, RunWatch
from weir.streams.backtest.outcomes import Keep, Outcomes
from weir.streams.backtest.run_outputs import OutputFiles, Outputs
from weir.streams.backtest.run_result import BacktestResult
from weir.streams.backtest.wire_files import WireSource
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.errors import TooManyRejects, UsageError
from weir.streams.model_replicas.explanation import ScoreExplainer

_MANY_ROWS = 1_000
NOTHING: Final = Keep()


class Watcher(Protocol):
    """Who looks on while a run goes, such as its page."""

    def begin(self, pipeline: TaskPipeline, watch: RunWatch) -> None:
        """The run begins: this pipeline will do it, and this counts its columns."""

    def add(self, out: StepOutput) -> None:
        """Look at what a step made."""


class FullTrainer(Protocol):
    """Trains the full model of a run's task on the way; called by the run alone, in the order of its steps.

    Who trains is beyond this package: ``weir.streams.workbench.full_training``.
    """

    columns: ColumnRequest
    """Of the events, what a training wants beside what the task reads."""

    def scorer(self) -> FullScorer | None:
        """The full model, as the pipeline uses it."""

    def begin(self, pipeline: TaskPipeline) -> None:
        """The run that follows is of this pipeline."""

    def observe(self, out: StepOutput, batch: EventBatch | None, now: float) -> None:
        """Take in what one step made of ``batch``, at event time ``now``."""

    def step(self, now: float) -> None:
        """Go on at event time ``now``, between two batches: what is trained, or swapped, counts from the next one."""

    def report(self) -> list[dict[str, Any]]:
        """What became of each training, oldest first, JSON-ready."""


def run_backtest(
    task: TaskSpec,
    paths: Sequence[Path],
    scores: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    labels: Sequence[Path] = (),
    label_delay_s: float | None = None,
    started: Callable[[Sequence[str]], None] | None = None,
    keep: Keep = NOTHING,
    alerts: Path | None = None,
    features: Path | None = None,
    explain: str | None = None,
    stop: Callable[[], bool] | None = None,
    full: FullTrainer | None = None,
    watcher: Watcher | None = None,
) -> BacktestResult:
    """Run ``task`` over ``paths``; every file that it writes is complete up to there even when it is interrupted.

    Parameters
    ----------
    task : with a ``[source]`` for files of any layout; without one ``paths`` are JSONL in wire format.
    paths : CSV, Parquet, Arrow or JSON files, plain or packed, or folders of them, merged by event time.
    scores : Parquet file of every score with its label and decision (`run_outputs.SCORE_SCHEMA`), written at the end.
    progress : called with rows done and rows in all.
    labels : JSONL dumps of the ``labels`` topic, for labels that are not a column.
    label_delay_s : how long after the time it speaks of a label becomes known; the source's own when not given.
    started : called before the first row with what was decided of the input.
    keep : what the result holds beside the metrics.
    alerts : file of every record of an alert with its outcome, written at the end; Parquet or JSONL.
    features : Parquet file of what each score was made from.
    explain : id of an event whose score is explained: ``result.explained``.
    stop : asked between batches; once it is true the run ends there, and ``result.stopped`` says so.
    full : trains the full model of a task with ``[full]`` on the way; without one its columns are 0.
    watcher : sees every step.

    Raises
    ------
    UsageError
        When a file or column is missing, or labels would come after their predictions were let go.
    TooManyRejects
        When most rows do not fit the wire format, which means that the mapping is wrong.
    """
    _check_mapping(task)
    # The run scores by the task as it is: a field that is kept for slices, or what a full model's training reads, must
    # not become an input or a note of the run.
    own, watched = task, columns_of(task)
    columns = watched
    if keep.field is not None:
        task, columns = _with_field(task, columns, keep.field)
    if full is not None:
        columns = union([columns, full.columns])
    kind = WireSource if task.source is None else FileSource
    source = kind(task, columns, paths)
    if task.source is not None and task.source.label_known is not None and label_delay_s is not None:
        raise UsageError(f"the column {task.source.label_known!r} says when labels became known: drop --label-delay")
    # The longest delay says how long predictions wait, the median how short batches are: by one label of years all
    # others would be seen late.
    own_s, latest_s = (isinstance(source, FileSource) and source.label_delays_s) or (label_delay_s, None)
    given = LabelInput(task, labels, own_s, latest_s)
    labelled = given.task.labels
    scorer = None if full is None else full.scorer()
    pipeline = TaskPipeline(own.model_copy(update={"labels": labelled}), MemoryFeatureStore(), scorer)
    if full is not None:
        full.begin(pipeline)
    explainer = None if explain is None else ScoreExplainer(pipeline, explain)
    result = BacktestResult(pipeline.task, pipeline, sizes=source.sizes)
    if (keep_s := labelled.join.keep_s) > own.labels.join.keep_s:
        result.decisions.append(f"[labels.join] keep_s = {format_duration(keep_s)}, by the delay of the labels")
    if isinstance(source, FileSource):
        result.decisions += source.decisions
    if task.full is not None and full is None:
        result.decisions.append("[full]: no full model is trained in this run; scores are the online model's alone")
    if started is not None:
        started(result.decisions)
    batches = within(_batches(source, given.spec), given.span_s)
    outputs = Outputs(task.name, pipeline.features, labelled, keep, OutputFiles(scores, alerts, features))
    run = _Run(result, given, RunWatch(task, watched), outputs, keep.field, full, watcher)
    start = time.perf_counter()
    try:
        for rows in batches:
            if stop is not None and stop():
                result.stopped = True
                break
            run.take(rows)
            _check_rejects(result, paths, len(source))
            if progress is not None:
                progress(result.rows, len(source))
        # No further event comes that would fire the timers that are due by now.
        if pipeline.timers is not None:
            run.note(pipeline.advance(pipeline.timers.watermark), pipeline.timers.watermark)
    finally:
        result.seconds = time.perf_counter() - start
        # In the finally, so that an interrupt, or a row that cannot be processed, leaves whole files.
        result.outcomes = result.judged = outputs.close()
    result.trainings = [] if full is None else full.report()
    result.explained = [] if explainer is None else explainer.found
    result.alert_log = outputs.alerts
    result.features = None if outputs.features is None else outputs.features.table()
    result.notes = sorted(run.notes(source), key=lambda note: note.rank)
    result.labels = asdict(pipeline.joiner.stats)
    if keep.late_labels and not result.stopped and result.outcomes is not None:
        result.judged = run.judged(result.outcomes)
    return result


UNKNOWN: Final = 0.5
"""The score of every event before a model has learned anything."""


class _Run:
    """What happens to each batch of one run."""

    def __init__(
        self, result: BacktestResult, given: LabelInput, watch: RunWatch, outputs: Outputs, field: str | None,
        full: FullTrainer | None, watcher: Watcher | None,
    ) -> None:  # fmt: skip
        self.result, self.pipeline, self.outputs = result, result.pipeline, outputs
        self.given, self.watch = given, watch
        self._refused: Counter[str] = Counter()
        task = result.task
        self._fixed = isinstance(task.threshold, FixedThreshold) and task.model.kind != "column"
        self._early = set[str]()
        """Alerts of rows that were scored before anything was learned."""
        self._field, self._full, self._watcher = field, full, watcher
        if watcher is not None:
            watcher.begin(self.pipeline, watch)

    def take(self, rows: SourceBatch) -> None:
        """Score rows, after learning what is known before the first of them."""
        batch = rows.events
        if self.given.between_rows:
            known = self.given.between(rows)
            # All at once gives the same bits as row by row (tests/streams/test_between_rows.py), 10 to 30 times as
            # fast.
            together = (
                len(batch) > 0 and self._full is None and not self.given.any_order and self.pipeline.learns_between
            )
            if together:
                # No next row bounds when these labels became known: each has its time, or its delay.
                back = 0.0 if self.given.held.timed else self.given.delay_s, math.inf
                self.note(self.pipeline.interleave(batch, *known), float(batch.ts.max()), batch, back)
            for start, stop in pairwise(self._cuts(batch, known) if not together else []):
                self._score(batch.slice(start, stop), [known.at(start)])
        else:
            # As live: what is known before the first of some rows is learned before any of them is scored.
            for start, stop in pairwise(self.given.turns(batch.ts)):
                self._score(batch.slice(start, stop), self.given.held.due(float(batch.ts[start])))
            self.given.read(rows)
        self.watch.update(batch, rows.labelled if rows.fresh is None else rows.labelled[rows.fresh])
        self.result.count(rows)
        self._refused.update(reject.reason.partition(":")[0] for reject in rows.rejects)

    def judged(self, outcomes: Outcomes) -> Outcomes:
        """The outcomes with the labels that become known after the last row, at the very end: the join takes them."""
        delay_s = 0.0 if self.given.held.timed else self.given.delay_s
        # Met, not learned: the join says which row each is of, and no score follows that could know of it.
        met = [self.pipeline.labelling.met(*known) for known in self.given.held.due(math.inf)]
        return self.outputs.later(outcomes, [each.where(each.new) for each in met], delay_s)

    def _cuts(self, batch: EventBatch, known: LabelsBetween) -> list[int]:
        """Where a batch is cut for what is learned between its rows."""
        labels, pipeline, rows = self.pipeline.task.labels, self.pipeline, len(batch)
        # What is learned of time that passes, or of a label that waits for its event, comes between any two rows.
        timed = pipeline.timers is not None or labels.join.negative_after_s is not None or labels.matures
        if timed or self.given.any_order or labels.join.match != "event" or self._full is not None:
            return [*range(rows + 1)]
        cuts = {0, rows, *known.before.tolist()}
        if (drift := pipeline.labelling.drift) is not None:  # what it finds asks for training at its row
            own = [row + 1 for row, _ in seen_by(pipeline.task, batch)]
            cuts.update(own[drift.room - 1 :: drift.policy.block_events])
        return sorted(cuts)

    def _score(self, batch: EventBatch, known: Sequence[tuple[LabelBatch, FloatVector | None]]) -> None:
        """Score rows, after learning the labels that are known before the first of them."""
        now, delay_s = float(batch.ts[0]), 0.0 if self.given.held.timed else self.given.delay_s
        for labels, known_at in known:
            if len(labels):
                self.note(self.pipeline.labels(labels, known_at), now, held_back=(delay_s, now))
        if self._full is not None:
            # A training that begins here reads what was logged before this batch, and its model scores from this batch
            # on.
            self._full.step(now)
        self.note(self.pipeline.events(batch), float(batch.ts.max()), batch)

    def note(
        self, out: StepOutput, now: float, batch: EventBatch | None = None,
        held_back: tuple[float, float] = (0.0, math.inf),
    ) -> None:  # fmt: skip
        """Count what a step made at event time ``now``, and hand it to the outputs."""
        result = self.result
        self.given.learned(out)
        if self._watcher is not None:
            self._watcher.add(out)
        if self._full is not None:
            self._full.observe(out, batch, now)
        if (p := out.predictions) is not None and self._fixed:
            # By the score, too: before anything is learned a task of silence says its prior, and nothing else than .5
            # is meant here.
            unlearned = (row for row in out.decided if p.model_version[row] == 0 and p.score[row] == UNKNOWN)
            self._early.update(out.decided[row].alert_id for row in unlearned)
        result.alert_records += len(out.alerts)
        result.requests += len(out.requests)
        result.detections += [{"ts": d.ts, "what": d.words} for d in out.detections]
        values = None if self._field is None or batch is None else _values_of(result.task, batch, self._field)
        self.outputs.add(out, values, held_back)

    def notes(self, source: FileSource | WireSource) -> Iterator[Note]:
        """What is odd of the whole run."""
        yield from self.watch.notes(self.pipeline.scored)
        yield from _of_rows(self.result, self._refused)
        if isinstance(source, FileSource):
            fix = "they count as missing: correct them, or list their words in `missing` of [source]"
            yield from (Note("missing", what, fix) for what in source.unreadable())
        yield from self.given.notes(self.pipeline.joiner, self.watch) if self.pipeline.scored else []
        if self._early:
            alerts = "1 alert" if len(self._early) == 1 else f"{len(self._early):,} alerts"
            what = f"{alerts} opened before anything was learned, when every score is {UNKNOWN}"
            yield Note("early alerts", what, f"set value above {UNKNOWN} in [threshold]")


def _batches(source: FileSource | WireSource, spec: SourceSpec) -> Iterator[SourceBatch]:
    """The rows of a source as they are scored together, repeats marked."""
    size = spec.batch_size
    if isinstance(source, FileSource) and spec.event_id is None:  # its ids are the numbers of rows
        source.check_once()
        return source.batches(size)
    # No horizon: an overlap of two exports may be months wide, and the number of rows bounds the memory. Live the
    # window is short.
    return distinct(source.batches(size), size, Deduper(math.inf, most_bytes=bytes_for(len(source))))


def _with_field(task: TaskSpec, columns: ColumnRequest, field: str) -> tuple[TaskSpec, ColumnRequest]:
    """The task and its columns with ``field`` among them, as text where no feature takes it for a number.

    A name that [source] does not feed is taken for that of a column of the files.
    """
    known = field == "type" or field in (*columns.entities, *columns.numbers, *columns.texts)
    source = task.source
    if source is not None and field not in {*source.columns, *source.constants}:
        fed = source.model_copy(update={"columns": {**source.columns, field: field}})
        task = task.model_copy(update={"source": fed})
    return task, columns if known else replace(columns, texts=(*columns.texts, field))


def _values_of(task: TaskSpec, batch: EventBatch, field: str) -> Mapping[tuple[str, str], str | None]:
    """The value of ``field`` in each event, by entity and event id; ``None`` where it is missing."""
    values: Sequence[str | None]
    if field == "type":
        values = batch.type
    elif field in batch.numbers:
        values = [f"{value:.15g}" if value == value else None for value in batch.numbers[field].tolist()]
    else:
        values = (batch.texts if field in batch.texts else batch.entities)[field]
    # By entity and event, as predictions are told: rows of timers and of other types stand between those of the batch.
    owners = ["*"] * len(batch) if task.key == "*" else batch.entities[task.key]
    return dict(zip(((owner or "", event) for owner, event in zip(owners, batch.event_id, strict=True)), values,
                    strict=True))  # fmt: skip


def _check_mapping(task: TaskSpec) -> None:
    """Each entity's key is fed by [source], for otherwise its features are missing in every row."""
    if task.source is None:
        return
    fed = {*task.source.columns, *task.source.constants}
    for entity in task.entities:
        if entity.key != "*" and entity.key not in fed:
            raise UsageError(
                f"nothing in [source] feeds {entity.key!r}, the key of entity {entity.name!r}: its features would be "
                f'missing in all rows. Add {entity.key} = "COLUMN" to columns in [source], or remove the entity'
            )


def _check_rejects(result: BacktestResult, paths: Sequence[Path], rows: int) -> None:
    """Raise where most of ``rows`` do not fit, or none of a few: the mapping is wrong."""
    # Against all rows, not those so far: a bad head of a good file goes on, and what passes half of all can only end
    # so.
    if not result.rejected or result.rejected <= (rows / 2 if rows >= _MANY_ROWS else rows - 1):
        return
    first = result.rejects[0]
    raise TooManyRejects(
        f"{', '.join(map(str, paths))}: {result.rejected:,} of {rows:,} rows were rejected, the limit is 50%; "
        f"the first, {result.told(first)}; {result.remedy}"
    )


def _of_rows(result: BacktestResult, refused: Counter[str]) -> Iterator[Note]:
    """What is odd of rows that were not scored; ``refused`` counts them by the field that was wrong."""
    if refused:
        fields, first = ", ".join(f"{n:,} x {name}" for name, n in refused.most_common(4)), result.rejects[0]
        rows = "1 row was" if result.rejected == 1 else f"{result.rejected:,} rows were"
        what = f"{rows} refused ({fields}); the first: {result.told(first)}"
        yield Note("rows refused", what, result.remedy)
    odd = {name: n for name, n in result.pipeline.engine.readings.taken.items() if name not in result.task.ranges}
    if odd and not result.task.missing:  # where the task declares them they are not odd
        what = f"{', '.join(f'{name}: {n:,}' for name, n in odd.items())} numbers that no sensor reads, such as 3.4e38"
        yield Note("no readings", f"{what}, were taken as missing", "if so, say it: missing = [3.4e38] in the task")
    if result.repeats:
        what = f"{result.repeats:,} rows repeat an event_id and were dropped, as live"
        yield Note("repeats", what, "remove the overlap; where rows share an id on purpose, leave `event_id` out")
