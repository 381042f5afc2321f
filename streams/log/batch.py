"""What the embedded log and Kafka have in common: records, and batches of them, the unit of work (decision 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One record to append."""

    key: bytes
    value: bytes
    ts: float
    """The time the record became available (the broker's timestamp), epoch seconds."""


class RecordBatch(Protocol):
    """Consecutive records of one partition, as `streams.log.LoggedBatch` and `streams.transport.FetchedBatch` are.

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
