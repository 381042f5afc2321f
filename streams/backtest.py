"""Runs a task over files as it would have run live: one pass, in event time, labels never before their delay.

Run it with ``weir backtest``. It knows files and one task's pipeline, not the log or the broker.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from online.batch import LabelBatch
from online.decode import Reject
from online.pipeline import StepOutput, TaskPipeline
from online.task import SourceSpec, TaskSpec
from streams.errors import TooManyRejects
from streams.host.rejects import RejectLimit, RejectPolicy
from streams.scorefile import ScoreFile
from streams.sources import FileSource, SourceBatch
from streams.stores import MemoryFeatureStore

_SHOWN_REJECTS = 20


class _LabelQueue:
    """Labels of scored rows, held back until their delay has passed."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._held: deque[LabelBatch] = deque()

    def add(self, rows: SourceBatch, key: str) -> None:
        known = np.flatnonzero(rows.labelled)
        if rows.label is None or len(known) == 0:
            return
        b = rows.batch.take(known)
        entity = [k or "*" for k in (b.entities[key] if key != "*" else ["*"] * len(b))]
        ids = [f"{e}/label" for e in b.event_id]
        self._held.append(LabelBatch(ids, entity, list(b.event_id), b.ts, rows.label[known], np.ones(len(b))))

    def due(self, now: float) -> list[LabelBatch]:
        """Labels whose event is at least the delay older than ``now``."""
        out: list[LabelBatch] = []
        while self._held:
            labels = self._held[0]
            ripe = int(np.searchsorted(np.maximum.accumulate(labels.ts), now - self._delay_s, side="right"))
            if ripe == 0:
                break
            self._held.popleft()
            out.append(labels.slice(0, ripe))
            if ripe < len(labels):
                self._held.appendleft(labels.slice(ripe, len(labels)))
                break
        return out


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
) -> BacktestResult:
    """Run ``task`` over ``paths``; scores go to a Parquet file that is complete even when the run is interrupted.

    Parameters
    ----------
    task : with its ``[source]``.
    paths : CSV, CSV.gz, Parquet or JSONL files, merged by event time.
    scores : Parquet file of event_id, entity_id, ts, task, score, model_version.
    progress : called with rows done and rows in all.

    Raises
    ------
    UsageError
        When a file or column is missing.
    TooManyRejects
        When most rows do not fit the wire format, which means that the mapping is wrong.
    """
    pipeline = TaskPipeline(task, MemoryFeatureStore())
    source = FileSource(task, pipeline.columns, paths)
    spec = task.source or SourceSpec()
    held = _LabelQueue(spec.label_delay)
    result = BacktestResult(task, pipeline)
    limit = RejectLimit(RejectPolicy(share=0.5, window=1_000))
    writer = ScoreFile(scores, task.name) if scores is not None else None
    start = time.perf_counter()
    try:
        for rows in source.batches(spec.batch_size):
            if len(rows.batch):
                for labels in held.due(float(rows.batch.ts[0])):
                    _note(pipeline.labels(labels), result, None)
                _note(pipeline.events(rows.batch), result, writer)
            held.add(rows, task.key)
            result.rows += rows.rows
            result.rejected += len(rows.rejects)
            limit.update(rows.rows, len(rows.rejects), rows.rejects[-1].reason if rows.rejects else "")
            result.rejects += rows.rejects[: _SHOWN_REJECTS - len(result.rejects)]
            if progress is not None:
                progress(result.rows, len(source))
        if result.rejected and result.rejected == result.rows:
            raise TooManyRejects(
                f"{result.rejected} of {result.rows} rows were rejected; the first: {result.rejects[0].reason}. "
                "Correct [source] in the task file"
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
