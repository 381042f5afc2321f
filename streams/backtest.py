"""Runs a task over files as it would have run live: one pass, in event time, labels never before their delay.

Run it with ``weir backtest``. It knows files and one task's pipeline, not the log or the broker.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from online.batch import FloatVector, LabelBatch
from online.decode import Reject
from online.pipeline import StepOutput, TaskPipeline
from online.task import SourceSpec, TaskSpec
from streams.errors import TooManyRejects, UsageError
from streams.host.rejects import RejectLimit, RejectPolicy
from streams.scorefile import ScoreFile
from streams.sources import FileSource, SourceBatch
from streams.stores import MemoryFeatureStore
from streams.wirefiles import WireSource, read_labels

_SHOWN_REJECTS = 20
_CUTS_A_DELAY = 8
"""A batch spans at most this part of the label delay, so that on a thin stream labels are not seen much too late."""


class _LabelQueue:
    """Labels held back until they become known."""

    def __init__(self) -> None:
        self._held: deque[tuple[FloatVector, LabelBatch]] = deque()

    def add(self, known_at: FloatVector, labels: LabelBatch) -> None:
        """Hold labels back; a label waits for those before it, so ``known_at`` never steps back."""
        if len(labels):
            self._held.append((np.maximum.accumulate(known_at), labels))

    def due(self, now: float) -> list[LabelBatch]:
        """Labels that are known at ``now``, in order."""
        out: list[LabelBatch] = []
        while self._held:
            known_at, labels = self._held[0]
            ripe = int(np.searchsorted(known_at, now, side="right"))
            if ripe == 0:
                break
            self._held.popleft()
            out.append(labels.slice(0, ripe))
            if ripe < len(labels):
                self._held.appendleft((known_at[ripe:], labels.slice(ripe, len(labels))))
                break
        return out


def _within(batches: Iterator[SourceBatch], span_s: float) -> Iterator[SourceBatch]:
    """The batches, cut where one spans more event time than ``span_s`` (0 for no limit)."""
    for rows in batches:
        ts = np.maximum.accumulate(rows.batch.ts)
        start = 0
        while span_s > 0 and len(ts) and ts[-1] - ts[start] > span_s:
            stop = int(np.searchsorted(ts, ts[start] + span_s, side="right"))
            yield rows.slice(start, stop)
            start = stop
        yield rows.slice(start, None) if start else rows


def _row_labels(rows: SourceBatch, key: str) -> LabelBatch:
    """The labels that rows of a file bring with them."""
    known = np.flatnonzero(rows.labelled)
    b = rows.batch.take(known)
    entity = [k or "*" for k in (b.entities[key] if key != "*" else ["*"] * len(b))]
    value = rows.label[known] if rows.label is not None else np.zeros(0, dtype=np.bool_)
    return LabelBatch([f"{e}/label" for e in b.event_id], entity, list(b.event_id), b.ts, value, np.ones(len(b)))


@dataclass
class BacktestResult:
    """What a run did; ``report()`` is what ``--report`` writes."""

    task: TaskSpec
    pipeline: TaskPipeline
    rows: int = 0
    seconds: float = 0.0
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)
    """The first few."""
    alerts: Counter[str] = field(default_factory=Counter)
    """Alert records by status."""
    detections: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0

    @property
    def labels_lost(self) -> int:
        """Labels that met no prediction: its features were let go before the label was handed over."""
        return self.pipeline.joiner.stats.unmatched

    def report(self) -> dict[str, Any]:
        """Everything a reader of the run may want, JSON-ready."""
        p = self.pipeline
        return {
            "task": self.task.name,
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(self.rows / self.seconds, 1) if self.seconds else None,
            "scored": p.scored,
            "labelled": p.labelled,
            "labels": asdict(p.joiner.stats),
            "rejected": self.rejected,
            "first_rejects": [{"row": r.index, "reason": r.reason} for r in self.rejects],
            "model_version": p.model.version,
            "features": list(p.features),
            "metrics": p.evaluation.get(),
            "metrics_over_time": p.evaluation.points(),
            "alerts": dict(self.alerts),
            "drift": self.detections,
            "retrain_requests": self.requests,
        }


def run_backtest(
    task: TaskSpec,
    paths: Sequence[Path],
    scores: Path | None,
    progress: Callable[[int, int], None] | None = None,
    *,
    labels: Sequence[Path] = (),
    label_delay_s: float | None = None,
) -> BacktestResult:
    """Run ``task`` over ``paths``; scores go to a Parquet file that is complete even when the run is interrupted.

    Parameters
    ----------
    task : with a ``[source]`` for files of any layout; without one ``paths`` are JSONL in wire format.
    paths : CSV, CSV.gz, Parquet or JSONL files, merged by event time.
    scores : Parquet file of event_id, entity_id, ts, task, score, model_version.
    progress : called with rows done and rows in all.
    labels : JSONL dumps of the ``labels`` topic, for labels that are not a column.
    label_delay_s : how long after the time it speaks of a label becomes known; the source's own when not given.

    Raises
    ------
    UsageError
        When a file or column is missing.
    TooManyRejects
        When most rows do not fit the wire format, which means that the mapping is wrong.
    """
    pipeline = TaskPipeline(task, MemoryFeatureStore())
    kind = WireSource if task.source is None else FileSource
    source = kind(task, pipeline.columns, paths)
    spec = task.source or SourceSpec()
    delay_s = spec.label_delay if label_delay_s is None else label_delay_s
    held = _LabelQueue()
    if labels:
        if spec.label is not None:
            raise UsageError(f"labels come from the column {spec.label!r} and from files: drop one of the two")
        if label_delay_s is None and task.source is None:
            raise UsageError("labels become known late: say how late with --label-delay, such as 7d (0s for at once)")
        from_files = read_labels(task.name, labels, delay_s)
        held.add(from_files.known_at, from_files.labels)
    result = BacktestResult(task, pipeline)
    limit = RejectLimit(RejectPolicy(share=0.5, window=1_000))
    writer = ScoreFile(scores, task.name) if scores is not None else None
    start = time.perf_counter()
    try:
        for rows in _within(source.batches(spec.batch_size), delay_s / _CUTS_A_DELAY):
            if len(rows.batch):
                for known in held.due(float(rows.batch.ts[0])):
                    _note(pipeline.labels(known), result, None)
                _note(pipeline.events(rows.batch), result, writer)
            if rows.label is not None:
                told = _row_labels(rows, task.key)
                held.add(told.ts + delay_s, told)
            result.rows += rows.rows
            result.rejected += len(rows.rejects)
            limit.update(rows.rows, len(rows.rejects), rows.rejects[-1].reason if rows.rejects else "")
            result.rejects += rows.rejects[: _SHOWN_REJECTS - len(result.rejects)]
            if progress is not None:
                progress(result.rows, len(source))
        if result.rejected and result.rejected == result.rows:
            raise TooManyRejects(
                f"{result.rejected} of {result.rows} rows were rejected; the first: {result.rejects[0].reason}. "
                "Correct [source] in the task file, or the records"
            )
        if pipeline.timers is not None:
            _note(pipeline.advance(pipeline.timers.watermark), result, writer)
    finally:
        result.seconds = time.perf_counter() - start
        if writer is not None:
            writer.close()
    return result


def _note(out: StepOutput, result: BacktestResult, writer: ScoreFile | None) -> None:
    """Count what a step made and write its scores."""
    result.alerts.update(alert.status for alert in out.alerts)
    result.requests += len(out.requests)
    result.detections += [{"ts": d.ts, "what": d.words} for d in out.detections]
    if out.predictions is not None and writer is not None:
        writer.add(out.predictions)
