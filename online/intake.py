"""What happens to valid events before any task sees them: repeats, stragglers and broken clocks are taken out.

It knows event ids and times. Everything it takes out is counted and handed back, so a host can put it where a person
can find it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from pydantic import Field

from online.batch import EventBatch, FloatVector, IntVector
from online.dedupe import Deduper, Kept
from online.durations import Seconds, format_duration
from online.errors import StateError
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


class _Mark(msgspec.Struct, kw_only=True):
    watermark: float | None
    duplicates: int
    late: int
    ahead: int


class _State(_Mark):
    dedupe: bytes


class Intake:
    """Dedupe and lateness of one stream (one partition, when distributed).

    The state is kept in one of two ways: whole, by ``snapshot`` and ``restore``; or bit by bit with each batch, where
    the memory of ids would be too much to write: ``mark`` and ``take_journal``, then ``resume`` and ``rebuild``.

    Parameters
    ----------
    policy : what the stream accepts.
    journal : whether to note which ids are remembered, for ``take_journal``.

    >>> intake = Intake(IntakePolicy(allowed_lateness="1h"))
    >>> batch = EventBatch(["a", "b", "a", "c"], np.array([9e3, 9e3, 9e3, 5e3]), ["view"] * 4)
    >>> admitted = intake.admit(batch, np.full(4, 9e3))
    >>> admitted.batch.event_id, admitted.duplicates, admitted.refused[0].reason
    (['a', 'b'], 1, 'late: 4000 s behind the newest event, allowed 1h')
    """

    def __init__(self, policy: IntakePolicy, *, journal: bool = False) -> None:
        self.policy = policy
        self.duplicates = self.late = self.ahead = 0
        self.watermark = -np.inf
        """The newest event time so far, broken clocks aside."""
        self._dedupe = Deduper(policy.dedupe_capacity, policy.dedupe_window, journal=journal)

    @property
    def generation(self) -> int:
        """Of the ids remembered next; parts of a journal older than the one before it are of no use any more."""
        return self._dedupe.generation

    def admit(self, batch: EventBatch, arrived: FloatVector) -> Admitted:
        """Split a batch; ``arrived (n,)`` is when each record reached the log, epoch seconds."""
        n = len(batch)
        if n and self._in_time(batch.ts, arrived):
            rows: IntVector = np.arange(n)
            candidate, refused = batch, list[Refused]()
        else:
            rows, refused = self._judge(batch.ts, arrived)
            candidate = batch if len(rows) == n else batch.take(rows)
        fresh = self._dedupe.keep(candidate.event_id, candidate.ts)
        duplicates = 0
        if not fresh.all():
            duplicates = int(len(fresh) - fresh.sum())
            rows = rows[fresh]
            candidate = batch.take(rows)
        self.duplicates += duplicates
        return Admitted(candidate, rows, duplicates, refused)

    def _in_time(self, ts: FloatVector, arrived: FloatVector) -> bool:
        """Whether nothing can be ahead or late, as nearly always; then the newest time is taken note of."""
        p, newest = self.policy, float(ts.max())
        newest_ever = max(self.watermark, newest)
        if newest > float(arrived.min()) + p.max_ahead or float(ts.min()) < newest_ever - p.allowed_lateness:
            return False
        self.watermark = newest_ever
        return True

    def _judge(self, ts: FloatVector, arrived: FloatVector) -> tuple[IntVector, list[Refused]]:
        """Rows that are neither ahead nor late, and the others with their reasons; counts them."""
        p = self.policy
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
        if len(ts):  # repeats too: the row behind one must not depend on where the batch was cut
            self.watermark = max(self.watermark, float(sane.max()))
        self.late += int(late.sum())
        self.ahead += int(ahead.sum())
        refused.sort(key=lambda r: r.row)
        return np.flatnonzero(~ahead & ~late), refused

    def snapshot(self) -> bytes:
        """The whole state."""
        return msgspec.msgpack.encode(_State(**self._counted(), dedupe=self._dedupe.snapshot()))

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``."""
        held = msgspec.msgpack.decode(state, type=_State)
        self._count_from(held)
        self._dedupe.restore(held.dedupe)

    def take_journal(self) -> list[Kept]:
        """The ids remembered since the journal was last taken; needs ``journal``."""
        return self._dedupe.take_journal()

    def mark(self) -> bytes:
        """The state without the memory of ids: the newest time and the counters, some 50 bytes."""
        return msgspec.msgpack.encode(_Mark(**self._counted()))

    def resume(self, mark: bytes) -> None:
        """Replace the state, but for the memory of ids, by a ``mark``; raises ``StateError`` where it is not one."""
        try:
            held = msgspec.msgpack.decode(mark, type=_Mark)
        except msgspec.MsgspecError as error:
            raise StateError(f"not a mark of an Intake ({error}); rebuild the state") from error
        self._count_from(held)

    def rebuild(self, kept: Iterable[Kept]) -> None:
        """Replace the memory of ids by what a journal says; it has to hold all of the newest two generations."""
        self._dedupe.rebuild(kept)

    def _counted(self) -> dict[str, Any]:
        mark = None if np.isinf(self.watermark) else self.watermark
        return {"watermark": mark, "duplicates": self.duplicates, "late": self.late, "ahead": self.ahead}

    def _count_from(self, held: _Mark) -> None:
        self.watermark = -np.inf if held.watermark is None else held.watermark
        self.duplicates, self.late, self.ahead = held.duplicates, held.late, held.ahead
