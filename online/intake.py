"""What happens to valid events before any task sees them: repeats, stragglers and broken clocks are taken out.

It knows event ids and times. Everything it takes out is counted and handed back, so a host can put it where a person
can find it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from pydantic import Field

from online.batch import EventBatch, FloatVector, IntVector
from online.dedupe import Deduper
from online.durations import Seconds, format_duration
from online.features.spec import Frozen


class IntakePolicy(Frozen):
    """What a stream accepts."""

    dedupe_window: Seconds = 7 * 86_400.0
    """A repeated ``event_id`` within this much event time is dropped."""
    dedupe_capacity: int = Field(default=1_000_000, ge=2)
    allowed_lateness: Seconds = 86_400.0
    """An event older than the newest one by more than this is side-lined: windows that held it may have moved on."""
    max_ahead: Seconds = 3600.0
    """An event further ahead of its record's arrival has a broken clock; admitting it would make the rest late."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that was side-lined, with the reason."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """What came through, and what did not."""

    batch: EventBatch
    rows: IntVector
    """Row of the input each admitted event was."""
    duplicates: int
    refused: list[Refused]


class _State(msgspec.Struct):
    watermark: float | None
    duplicates: int
    late: int
    ahead: int
    dedupe: bytes


class Intake:
    """Dedupe and lateness of one stream (one partition, when distributed).

    >>> intake = Intake(IntakePolicy(allowed_lateness="1h"))
    >>> batch = EventBatch(["a", "b", "a", "c"], np.array([9e3, 9e3, 9e3, 5e3]), ["view"] * 4)
    >>> admitted = intake.admit(batch, np.full(4, 9e3))
    >>> admitted.batch.event_id, admitted.duplicates, admitted.refused[0].reason
    (['a', 'b'], 1, 'late: 4000 s behind the newest event, allowed 1h')
    """

    def __init__(self, policy: IntakePolicy) -> None:
        self.policy = policy
        self.duplicates = self.late = self.ahead = 0
        self.watermark = -np.inf
        """The newest event time so far, broken clocks aside."""
        self._dedupe = Deduper(policy.dedupe_capacity, policy.dedupe_window)

    def admit(self, batch: EventBatch, arrived: FloatVector) -> Admitted:
        """Split a batch; ``arrived (n,)`` is when each record reached the log, epoch seconds."""
        p, ts = self.policy, batch.ts
        ahead = ts > arrived + p.max_ahead
        sane = np.where(ahead, -np.inf, ts)
        newest = np.maximum.accumulate(np.append(self.watermark, sane))[:-1]
        late = ~ahead & (ts < newest - p.allowed_lateness)
        refused: list[Refused] = []
        for i in np.flatnonzero(ahead).tolist():
            limit = format_duration(p.max_ahead)
            refused.append(Refused(i, f"ahead: {ts[i] - arrived[i]:.0f} s ahead of its record, allowed {limit}"))
        for i in np.flatnonzero(late).tolist():
            limit = format_duration(p.allowed_lateness)
            refused.append(Refused(i, f"late: {newest[i] - ts[i]:.0f} s behind the newest event, allowed {limit}"))
        rows = np.flatnonzero(~ahead & ~late)
        candidate = batch if len(rows) == len(batch) else batch.take(rows)
        fresh = self._dedupe.keep(candidate.event_id, candidate.ts)
        if not fresh.all():
            rows = rows[fresh]
            candidate = batch.take(rows)
        if len(batch):  # repeats too: the row behind one must not depend on where the batch was cut
            self.watermark = max(self.watermark, float(sane.max()))
        duplicates = int(len(fresh) - fresh.sum())
        self.duplicates += duplicates
        self.late += int(late.sum())
        self.ahead += int(ahead.sum())
        refused.sort(key=lambda r: r.row)
        return Admitted(candidate, rows, duplicates, refused)

    def snapshot(self) -> bytes:
        """The whole state."""
        mark = None if np.isinf(self.watermark) else self.watermark
        return msgspec.msgpack.encode(_State(mark, self.duplicates, self.late, self.ahead, self._dedupe.snapshot()))

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``."""
        held = msgspec.msgpack.decode(state, type=_State)
        self.watermark = -np.inf if held.watermark is None else held.watermark
        self.duplicates, self.late, self.ahead = held.duplicates, held.late, held.ahead
        self._dedupe.restore(held.dedupe)
