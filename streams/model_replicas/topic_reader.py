"""What folding a model and finding a score need of a log: the records of one topic, by their places.

Its adapters are Kafka's ``RangeReader`` and, over the log of a service of either mode, ``ServiceLogReader``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from weir.streams.kafka.consume.fetched_batch import Slice


class TopicReader(Protocol):
    """Reads partitions of one topic, one at a time."""

    @property
    def topic(self) -> str:
        """Its name, for messages."""

    def partitions(self) -> list[int]:
        """Numbers of the topic's partitions."""

    async def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset that is kept, and the one after the last that may be read now."""

    async def offset_at(self, partition: int, ts: float) -> int:
        """The first offset whose record was written at ``ts`` (epoch seconds) or later; the end without one."""

    def read(self, partition: int, start: int, stop: int) -> AsyncIterator[Slice]:
        """The records of ``[start, stop)``, in order; raises ``RecordsDeleted`` where retention deleted some."""


class OpensReader(Protocol):
    """Makes a reader, to be used as an async context."""

    def __call__(self) -> AbstractAsyncContextManager[TopicReader]:
        """A new one, not connected yet."""
