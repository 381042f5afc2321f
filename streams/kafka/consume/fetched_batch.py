"""The record batch as it arrives from Kafka: what an agent receives, one message for each fetched partition batch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from weir.online.batch import FloatVector
from weir.streams.kafka.consume.offset_tracker import Ticket
from weir.streams.records import Record, RefusedRecord


class Slice(NamedTuple):
    """Records of one partition in order, each with its offset, and what was refused; offsets may have gaps."""

    offsets: Sequence[int]
    records: Sequence[Record]
    refused: Sequence[RefusedRecord] = ()
    appended: bool = False
    """Whether the records' times are the broker's, of when it took them; else producers said them."""

    def __bool__(self) -> bool:
        """Whether it holds anything."""
        return bool(self.records or self.refused)

    @property
    def start(self) -> int:
        """Its first offset; it must hold something."""
        return min([*self.offsets[:1], *(r.offset for r in self.refused[:1])])

    @property
    def stop(self) -> int:
        """The offset behind everything in it; it must hold something."""
        return max([*(offset + 1 for offset in self.offsets[-1:]), *(r.offset + r.offsets for r in self.refused[-1:])])

    def total(self) -> int:
        """Records, and offsets that were refused."""
        return len(self.records) + sum(r.offsets for r in self.refused)

    def split(self, offset: int) -> tuple[Slice, Slice]:
        """What is before an offset, and the rest."""
        at, bad = bisect_left(self.offsets, offset), bisect_left([r.offset for r in self.refused], offset)
        before = Slice(self.offsets[:at], self.records[:at], self.refused[:bad], self.appended)
        return before, Slice(self.offsets[at:], self.records[at:], self.refused[bad:], self.appended)

    @staticmethod
    def concat(parts: Sequence[Slice]) -> Slice:
        """Consecutive slices as one."""
        if len(parts) == 1:
            return parts[0]
        return Slice(
            list(chain.from_iterable(part.offsets for part in parts)),
            list(chain.from_iterable(part.records for part in parts)),
            list(chain.from_iterable(part.refused for part in parts)),
            # A part that holds nothing says nothing of its times.
            all(part.appended for part in parts if part),
        )


@dataclass(frozen=True, slots=True)
class FetchedBatch:
    """A `weir.streams.records.RecordBatch` of records fetched together.

    ``next_offset`` can be larger than ``base_offset + len(records)``, because compaction, transaction markers and what
    was refused leave gaps. Across partitions Kafka has no order, so there is no ``seq``.
    """

    topic: str
    partition: int
    base_offset: int
    next_offset: int
    """Where reading goes on; what a commit of this batch says."""
    records: Sequence[Record]
    """A record without key or value (a tombstone) has ``b""`` there. None where all were refused."""
    ticket: Ticket
    offsets: Sequence[int] | None = None
    """Offset of each record; ``None`` when there are no gaps, which is nearly always."""
    appended: bool = False
    """Whether the records' times are the broker's, of when it took them; else producers said them."""
    refused: Sequence[RefusedRecord] = ()
    """What could not be read or is too large, in order; it is not among ``records``."""

    tick: float | None = None
    """Set where it holds no records: event time passes without any, up to here."""

    def arrived(self, times: FloatVector, now: float) -> FloatVector | float:
        """When records were there at the latest, given their ``times``: nothing in them can be of a later time.

        The broker's time where it stamped them; a producer's clock may be as wrong as that of its events, so else it is
        ``now``, when they are processed.
        """
        return times if self.appended else now

    def offset_of(self, index: int) -> int:
        """Offset of ``records[index]``."""
        return self.base_offset + index if self.offsets is None else self.offsets[index]

    @property
    def count(self) -> int:
        """Records, and offsets that were refused."""
        return len(self.records) + sum(r.offsets for r in self.refused)
