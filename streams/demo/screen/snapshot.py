"""What the demo shows at one moment. It knows numbers and words, not their source nor their looks."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from weir.online.decisions.alert_state import AlertState


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task: what it scored and learned, and how well."""

    name: str
    scored: int
    labels: int
    """Examples learned so far: the version of its model."""
    metrics: dict[str, float]
    """Prequential metrics by name (``auc``, ``ap``, ``log_loss``...); NaN while there are too few labels."""
    main_metric: str
    """The metric of ``metrics`` that ``history`` follows; shown first."""
    history: tuple[float, ...]
    """The main metric over time, oldest first."""
    threshold: float
    """Score from which an alert opens; NaN while it is not known yet."""
    alerts_open: int
    alerts_opened: int


class Finding(msgspec.Struct, frozen=True):
    """A drift, or what it led to: the request for a new model, and what became of that. Checkpoints hold them."""

    kind: str
    """``drift``, ``retrain_request``, or ``full``: what became of a full model."""
    ts: float
    """Event time, epoch seconds."""
    task: str
    words: str
    """What moved and by how much; the detector is named in them."""
    detector: str = ""


@dataclass(frozen=True, slots=True)
class FullRow:
    """The full model of one task: the one that is trained in the background."""

    task: str
    serving: int
    """Version; 0 for none."""
    shadow: int
    """Version that is scored beside it; 0 for none."""
    words: str
    """What happens with it now, or what was decided last."""
    busy: bool = False
    """Whether it is being trained or judged now."""
    metric: str = "AP"
    history: tuple[float, ...] = ()
    """``metric`` of the full model alone, on the newest labels of what it scored, oldest first."""


@dataclass(frozen=True, slots=True)
class DemoSnapshot:
    """Everything on the screen at one moment."""

    elapsed_s: float
    duration_s: float
    """How long the run is meant to take, seconds."""
    events: int
    events_per_s: float
    """Over the last seconds; the average so far in the last snapshot of a run."""
    event_ts: float
    """How far event time has come, epoch seconds."""
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    tasks: tuple[TaskRow, ...] = ()
    alerts: tuple[AlertState, ...] = ()
    """Open alerts, the most pressing first."""
    drifts: tuple[Finding, ...] = ()
    """Newest first."""
    dead_letters: int = 0
    duplicates: int = 0
    late: int = 0
    """Events too late for their windows."""
    rate_history: tuple[float, ...] = ()
    """Events per second over time, oldest first."""
    full: tuple[FullRow, ...] = ()
    paths: tuple[tuple[str, str], ...] = field(default=())
    """(what, where) for the footer."""
    console: str = ""
    """Link to the console; none without it."""

    @property
    def drifts_found(self) -> int:
        """Drifts among ``drifts``, without the requests they led to."""
        return sum(row.kind == "drift" for row in self.drifts)
