"""What the embedded log and Kafka have in common: records, and batches of them, the unit of work (decision 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple, Protocol


class Record(NamedTuple):
    """One record to append."""

    key: bytes
    value: bytes
    ts: float
    """The time the record became available (the broker's timestamp), epoch seconds."""


TS: Final[Callable[[Record], float]] = attrgetter("ts")


class RefusedRecord(NamedTuple):
    """A record that cannot be used, or a stretch of offsets whose batch cannot be read."""

    offset: int
    reason: str
    record: Record
    """Its value may be only the first bytes; of a batch that cannot be read it is the batch as it is in the log."""
    last_offset: int | None = None
    """Of the stretch; ``None`` for a single record."""
    size: int | None = None
    """Bytes of the whole value, where ``record`` holds only the first of them."""
    sha256: str | None = None
    """Of the whole value, likewise."""

    @property
    def offsets(self) -> int:
        """How many it stands for."""
        return 1 if self.last_offset is None else self.last_offset - self.offset + 1


def oversized(size: int, allowed: int, what: str = "bytes") -> str:
    """Why a record is refused for its size."""
    return f"oversized: {size} {what}, allowed {allowed}; send smaller records or raise [limits] record_bytes"


class RecordBatch(Protocol):
    """Consecutive records of one partition, as `LoggedBatch` (embedded) and `FetchedBatch` (Kafka) are.

    A partition's batches come in the order of their offsets, and the next one begins at ``next_offset`` or, where
    compaction or transactions left gaps, behind it. How records are cut into batches means nothing.
    """

    @property
    def topic(self) -> str:
        """Where it is from."""

    @property
    def partition(self) -> int:
        """Its number."""

    @property
    def base_offset(self) -> int:
        """Offset of the first record."""

    @property
    def next_offset(self) -> int:
        """Where reading goes on; what a commit of this batch says."""

    @property
    def records(self) -> Sequence[Record]:
        """At least one. A record without key or value has ``b""`` there."""

    def offset_of(self, index: int) -> int:
        """Offset of ``records[index]``."""
