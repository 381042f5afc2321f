"""What a backtest did, for those who read of it: a report, a page, a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from weir.online.codec.accept import Reject
from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.alert_log import AlertLog
from weir.streams.backtest.event_files import SourceBatch
from weir.streams.backtest.notes import Note
from weir.streams.backtest.outcomes import Outcomes
from weir.streams.backtest.tables.opening import place
from weir.streams.model_replicas.explanation import Explanation

_SHOWN_REJECTS = 20
_MOST_POINTS = 200
"""Of the metrics over time, and of drifts, in a report: one of years stays small."""


@dataclass(kw_only=True)
class RunCounts:
    """What a run of any kind counts of its rows."""

    rows: int = 0
    seconds: float = 0.0
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)
    """The first few; ``index`` counts from 0 over all files."""
    sizes: Sequence[tuple[Path, int]] = ()
    """The rows of each file."""
    repeats: int = 0
    """Rows whose ``event_id`` came before: dropped, as live."""
    decisions: list[str] = field(default_factory=list)
    """What was decided of the input, and what a backtest leaves out."""
    stopped: bool = False
    """Whether it was asked to end before the data did."""

    def count(self, rows: SourceBatch) -> None:
        """Some rows were processed."""
        self.rows += rows.rows
        self.repeats += len(rows.batch) - len(rows.events)
        self.rejected += len(rows.rejects)
        # Only the first are kept: a file of a million bad rows would be in memory a second time.
        self.rejects += rows.rejects[: _SHOWN_REJECTS - len(self.rejects)]

    def told(self, reject: Reject) -> str:
        """A row that was refused, by its number, and by its file where there are several."""
        return f"{place(self.sizes, reject.index)}: {reject.reason}"


@dataclass
class BacktestResult(RunCounts):
    """What a run did; ``report()`` is what ``--report`` writes."""

    task: TaskSpec
    pipeline: TaskPipeline
    alert_records: int = 0
    detections: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0

    notes: list[Note] = field(default_factory=list)
    """What is odd, the gravest first."""
    labels: dict[str, int] = field(default_factory=dict)
    """What became of labels, by the end of the data; see `JoinStats`."""
    outcomes: Outcomes | None = None
    """Every scored row, where that was kept, or needed for a file."""
    judged: Outcomes | None = None
    """The same by which a run is judged: by `Keep.late_labels` those labels are there, too, that become known later."""
    alert_log: AlertLog | None = None
    """Every record of an alert, where that was kept or written."""
    explained: list[Explanation] = field(default_factory=list)
    """The score of the event that was to be explained, once for each entity that has it."""
    trainings: list[dict[str, Any]] = field(default_factory=list)
    """What became of each training of the full model, where one was trained."""
    features: pa.Table | None = None
    """What each score was made from, by `Keep.features`."""

    @property
    def remedy(self) -> str:
        """What to correct where rows are refused."""
        return "correct " + ("the records" if self.task.source is None else "[source] in the task file, or the rows")

    @property
    def alerts(self) -> dict[str, int]:
        """How many alerts opened and ended, rows that the budget kept from opening one, and records of all."""
        of = self.pipeline.book.stats
        return {"open": of.opened, "resolved": of.resolved, "refused": of.refused, "records": self.alert_records}

    def report(self) -> dict[str, Any]:
        """Everything a reader of the run may want, JSON-ready."""
        p = self.pipeline
        return {
            "task": self.task.name,
            "rows": self.rows,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(self.rows / self.seconds, 1) if self.seconds else None,
            "scored": p.scored,
            "labelled": p.labelled,
            "labels": self.labels,
            "rejected": self.rejected,
            "first_rejects": [
                {"row": r.index + 1, "where": place(self.sizes, r.index), "reason": r.reason} for r in self.rejects
            ],
            "repeats": self.repeats,
            "no_readings": dict(p.engine.readings.taken),
            "decisions": self.decisions,
            "notes": [asdict(note) for note in self.notes],
            "model_version": p.model.version,
            "features": list(p.features),
            "metrics": p.evaluation.get(),
            "metrics_over": self.task.labels.metrics_over,
            "metrics_over_time": _thinned(p.evaluation.points()),
            "alerts": self.alerts,
            "drift": self.detections[-_MOST_POINTS:],
            "drifts": len(self.detections),
            "retrain_requests": self.requests,
            "trainings": self.trainings,
        }


def _thinned(points: Sequence[Any]) -> list[Any]:
    """Points over time, evenly so many of them at most, and the last one."""
    step = -(-len(points) // _MOST_POINTS) or 1
    return [*reversed([*reversed(points)][::step])]
