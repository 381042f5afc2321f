"""The record batch as it arrives from Kafka: what an agent receives, one message for each fetched partition batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from online.batch import FloatVector
from streams.log import Record
from streams.transport.completed import Ticket


@dataclass(frozen=True, slots=True)
class FetchedBatch:
    """A `streams.log.RecordBatch` of records fetched together.

    ``next_offset`` can be larger than ``base_offset + len(records)``, because compaction and transaction markers leave
    gaps. Across partitions Kafka has no order, so there is no ``seq``.
    """

    topic: str
    partition: int
    base_offset: int
    next_offset: int
    """Where reading goes on; what a commit of this batch says."""
    records: Sequence[Record]
    """A record without key or value (a tombstone) has ``b""`` there."""
    ticket: Ticket
    offsets: Sequence[int] | None = None
    """Offset of each record; ``None`` when there are no gaps, which is nearly always."""
    appended: bool = False
    """Whether the records' times are the broker's, of when it took them; else producers said them."""

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
