"""What happens to valid events before any task sees them: repeats, stragglers and broken clocks are taken out.

It knows event ids and times. Everything it takes out is counted and handed back, so a host can put it where a person
can find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from weir.online.batch import EventBatch, FloatVector, IntVector, all_of
from weir.online.codec.decode import (
    DecodedEvents,
    DecodedLabels,
    decode_device_events,
    decode_labels,
    decode_user_events,
)
from weir.online.codec.limits import InputLimits
from weir.online.durations import format_duration
from weir.online.errors import stored
from weir.online.event_time import Claim, EventTime, extremes
from weir.online.frozen import dataclass
from weir.online.intake_policy import IntakePolicy
from weir.online.jit import plain
from weir.online.stages.dedupe import FIXED_KEY, MOST_BYTES, Deduper, OldIds, bytes_for
from weir.online.stages.digest_table import Rows

DECODERS: Final = {"user-events": decode_user_events, "device-events": decode_device_events}
"""By stream."""
_SENDERS: Final = ("user_id", "device_id")
"""Keys of the streams: whose clock an event was stamped by."""


@dataclass(frozen=True, slots=True)
class SidelinedEvent:
    """An event that was side-lined, with the reason."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class AdmissionResult:
    """What came through, and what did not."""

    batch: EventBatch
    rows: IntVector
    """Row of the input each admitted event was."""
    duplicates: int
    refused: list[SidelinedEvent]


_CLOCK: Final = "correct the clock that gave its ts, or raise"


def refuse_ahead(ts: FloatVector, arrived: FloatVector | float, max_ahead: float) -> list[SidelinedEvent]:
    """Rows whose time is more than ``max_ahead`` after they ``arrived``, with the reason.

    >>> [r.reason for r in refuse_ahead(np.array([5.0, 9000.0]), 10.0, 3600.0)]
    ['ahead: 8990 s after its arrival, allowed 1h; correct the clock that gave its ts, or raise max_ahead']
    """
    apart = ts - arrived
    rows = (apart > max_ahead).nonzero()[0].tolist()
    if not rows:
        return []
    limit = format_duration(max_ahead)
    return [
        SidelinedEvent(i, f"ahead: {apart[i]:.0f} s after its arrival, allowed {limit}; {_CLOCK} max_ahead")
        for i in rows
    ]


def decode_labels_in_time(
    raw: Sequence[bytes], arrived: FloatVector | float, policy: IntakePolicy, limits: InputLimits
) -> DecodedLabels:
    """Decode labels; those too far ahead of their arrival are among the rejects, see `labels_in_time`."""
    return labels_in_time(decode_labels(raw, limits=limits), raw, arrived, policy)


def labels_in_time(
    labels: DecodedLabels, raw: Sequence[bytes], arrived: FloatVector | float, policy: IntakePolicy
) -> DecodedLabels:
    """The same with each label whose time is too far ahead among the rejects: what it told would stand until then.

    Parameters
    ----------
    labels : what decoding ``raw`` gave.
    raw : n records.
    arrived : when they were there, of each ``(n,)`` or of all.
    """
    refused = refuse_ahead(labels.batch.ts, _of(arrived, labels.index), policy.max_ahead)
    return labels.without({r.row: r.reason for r in refused}, raw) if refused else labels


def _of(arrived: FloatVector | float, index: IntVector) -> FloatVector | float:
    """When the records at ``index`` arrived; as it is where these are all."""
    return arrived if isinstance(arrived, float) or len(index) == len(arrived) else arrived[index]


class _Mark(msgspec.Struct, kw_only=True, omit_defaults=True):
    watermark: float | None
    duplicates: int
    late: int
    ahead: int
    claims: list[Claim] = []
    alone: Claim | None = None
    key: bytes = b""
    """Of the memory of ids; absent in marks of before there was one."""


class _State(_Mark):
    dedupe: bytes


class Admission:
    """Dedupe and lateness of one stream (one partition, when distributed).

    The state is kept in one of two ways: whole, by ``snapshot`` and ``restore``; or bit by bit with each batch, where
    the memory of ids would be too much to write: ``mark`` and ``take_journal``, then ``resume`` and ``rebuild``.

    Parameters
    ----------
    policy : what the stream accepts.
    journal : whether to note which ids are remembered, for ``take_journal``.
    key : of the memory of ids, 16 bytes; a mark brings its own.
    most_bytes : what the memory of ids may take.

    >>> intake = Admission(IntakePolicy(allowed_lateness="1h"))
    >>> batch = EventBatch(["a", "b", "a", "c"], np.array([9e3, 9e3, 9e3, 5e3]), ["view"] * 4)
    >>> admitted = intake.admit(batch, np.full(4, 9e3))
    >>> admitted.batch.event_id, admitted.duplicates, admitted.refused[0].reason.partition(";")[0]
    (['a', 'b'], 1, 'late: 4000 s behind the newest event, allowed 1h')
    """

    def __init__(
        self, policy: IntakePolicy, *, journal: bool = False, key: bytes = FIXED_KEY, most_bytes: int = MOST_BYTES
    ) -> None:
        self.policy = policy
        self.duplicates = self.late = self.ahead = 0
        self.time = EventTime(policy.max_step)
        self._journalled, self._most_bytes = journal, most_bytes
        self._window_s = float(np.ceil(policy.dedupe_window))
        self.ids = self._memory(key)
        """The memory of ids."""

    def _memory(self, key: bytes) -> Deduper:
        most, capacity = self._most_bytes, self.policy.dedupe_capacity
        most = most if capacity is None else min(most, bytes_for(capacity))
        return Deduper(self.policy.dedupe_window, key=key, most_bytes=most, journal=self._journalled)

    @property
    def remembered_from(self) -> float:
        """Epoch seconds; ids of before are of no use: what could repeat one is too late, or memory had no room."""
        return max(self._useful_from(self.watermark), self.ids.forced)

    def _useful_from(self, watermark: float) -> float:
        # In whole seconds, as the memory counts: rounded down, the last part of the window would be forgotten too
        # early.
        return watermark - self.policy.allowed_lateness - self._window_s

    @property
    def window_s(self) -> float:
        """How far back a repeat of the newest event is recognised: ``dedupe_window``, or less for lack of memory."""
        return min(self.policy.dedupe_window, max(self.watermark - self.ids.forced, 0.0))

    def limit(self, most_bytes: int) -> None:
        """Set what the memory of ids may take."""
        capacity = self.policy.dedupe_capacity
        self.ids.limit(most_bytes if capacity is None else min(most_bytes, bytes_for(capacity)))

    @property
    def watermark(self) -> float:
        """The newest event time so far, broken clocks aside."""
        return self.time.watermark

    def set_watermark(self, ts: float) -> None:
        """Say what time it is, where a person knows better; it may step back."""
        self.time.set_watermark(ts)

    def admit(self, batch: EventBatch, arrived: FloatVector | float) -> AdmissionResult:
        """Split a batch; ``arrived``, of each row ``(n,)`` or of all, is when it reached the log, epoch seconds."""
        n, before = len(batch), self.watermark
        if n and self._in_time(batch.ts, arrived):
            rows: IntVector = np.arange(n)
            refused: list[SidelinedEvent] = []
            candidate = batch
        else:
            rows, refused = self._judge(batch, arrived)
            candidate = batch if len(rows) == n else batch.take(rows)
        # The watermark may step back within a batch, where one entity alone had moved it too far.
        floor = self._useful_from(min(before, self.watermark))
        fresh = self.ids.keep(candidate.event_id, candidate.ts, entities_of(candidate), floor)
        duplicates = 0
        if not all_of(fresh):
            duplicates = int(len(fresh) - fresh.sum())
            rows = rows[fresh]
            candidate = batch.take(rows)
        self.duplicates += duplicates
        return AdmissionResult(candidate, rows, duplicates, refused)

    def admit_decoded(
        self, decoded: DecodedEvents, arrived: FloatVector | float
    ) -> tuple[AdmissionResult, list[tuple[int, str]]]:
        """`admit` what was decoded of a batch, whose records ``(n,)`` ``arrived`` then.

        Returns
        -------
        What came through, and all that did not: the place of a record and why, rejects of the codec first.
        """
        admitted = self.admit(decoded.batch, _of(arrived, decoded.index))
        refused = [(r.index, r.reason) for r in decoded.rejects]
        return admitted, refused + [(int(decoded.index[r.row]), r.reason) for r in admitted.refused]

    def _in_time(self, ts: FloatVector, arrived: FloatVector | float) -> bool:
        """Whether nothing can be ahead or late, as nearly always; then the newest time is taken note of."""
        p, (least, newest) = self.policy, extremes(plain(ts))
        newest_ever = max(self.watermark, newest)
        first = arrived if isinstance(arrived, float) else extremes(plain(arrived))[0]
        # Stricter than each row's own judgement: what passes needs none.
        if newest > first + p.max_ahead or least < newest_ever - p.allowed_lateness:
            return False
        return self.time.follow(ts)

    def _judge(self, batch: EventBatch, arrived: FloatVector | float) -> tuple[IntVector, list[SidelinedEvent]]:
        """Rows that are neither ahead nor late, and the others with their reasons; counts them."""
        p = self.policy
        refused = refuse_ahead(batch.ts, arrived, p.max_ahead)
        self.ahead += len(refused)
        sane = np.ones(len(batch), dtype=np.bool_)
        sane[[r.row for r in refused]] = False
        rows = np.flatnonzero(sane)
        before = self.watermark
        # Repeats too: the row behind one must not depend on where the batch was cut.
        marks = self.time.advance(batch.ts[rows], _senders(batch, rows))
        newest = np.minimum(np.append(before, marks)[:-1], marks)  # where this row sets it back, it is not late
        behind = newest - batch.ts[rows]
        late = np.flatnonzero(behind > p.allowed_lateness)
        limit = format_duration(p.allowed_lateness)
        for i in late.tolist():
            reason = f"late: {behind[i]:.0f} s behind the newest event, allowed {limit}; {_CLOCK} allowed_lateness"
            refused.append(SidelinedEvent(int(rows[i]), reason))
        self.late += len(late)
        refused.sort(key=lambda r: r.row)
        return np.delete(rows, late), refused

    def snapshot(self) -> bytes:
        """The whole state."""
        ids = self.ids.snapshot(self._useful_from(self.watermark))
        return msgspec.msgpack.encode(_State(**self._counted(), dedupe=ids))

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``."""
        held = msgspec.msgpack.decode(state, type=_State)
        self._count_from(held)
        self.ids.restore(held.dedupe)

    def take_journal(self) -> Rows:
        """The ids remembered since the journal was last taken; needs ``journal``."""
        return self.ids.take_journal()

    def mark(self) -> bytes:
        """The state without the memory of ids: the newest time and the counters, some 50 bytes."""
        return msgspec.msgpack.encode(_Mark(**self._counted()))

    def resume(self, mark: bytes) -> None:
        """Replace the state, but for the memory of ids, by a ``mark``; raises ``StateError`` where it is not one."""
        held = stored(mark, _Mark, "an Intake", "rebuild the state")
        self._count_from(held)

    def rebuild(self, kept: Sequence[Rows], old: Iterable[OldIds] = ()) -> None:
        """Replace the memory of ids by what a journal says: all that was taken of it since ``remembered_from``."""
        self.ids.rebuild(kept, old, self._useful_from(self.watermark))

    def _counted(self) -> dict[str, Any]:
        counts = {"duplicates": self.duplicates, "late": self.late, "ahead": self.ahead}
        return {**counts, **self.time.state(), "key": b"" if self.ids.key == FIXED_KEY else self.ids.key}

    def _count_from(self, held: _Mark) -> None:
        self.time.set_state(held.watermark, held.claims, held.alone)
        self.duplicates, self.late, self.ahead = held.duplicates, held.late, held.ahead
        if held.key:
            self.ids = self._memory(held.key)


def entities_of(batch: EventBatch) -> Sequence[str | None] | None:
    """Whose events they are: the user's or the device's, whoever the stream is about; ``None`` where nobody knows."""
    for column in _SENDERS:
        if column in batch.entities:
            return batch.entities[column]
    return None


def _senders(batch: EventBatch, rows: IntVector) -> Sequence[str | None]:
    """Whose clock told the time of each row: the user's or the device's, whoever the stream is about."""
    # Without anybody's name each event speaks for itself: three of them are three witnesses.
    names: Sequence[str | None] = batch.event_id
    for column in (*_SENDERS, *batch.entities):
        if column in batch.entities:
            names = batch.entities[column]
            break
    return [names[i] for i in rows.tolist()]
