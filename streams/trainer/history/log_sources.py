"""Logs that histories are read from: the embedded one, its directory, and Kafka."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np

from weir.online.batch import FloatVector
from weir.streams.embedded.embedded_log import LoggedBatch, read_directory
from weir.streams.errors import UsageError
from weir.streams.records import Record

if TYPE_CHECKING:
    from weir.streams.config.settings import Settings
    from weir.streams.kafka.consume.range_reader import RangeReader


class Piece(NamedTuple):
    """Consecutive records of a partition, each with its offset; offsets may have gaps."""

    offsets: Sequence[int]
    records: Sequence[Record]


class LogSource(Protocol):
    """A log of topics, under Weir's own names of them."""

    async def spans(self, topic: str, since: float | None, until: float | None) -> dict[int, tuple[int, int]]:
        """By partition the offsets ``[start, stop)`` of what was written in ``[since, until)``, epoch seconds."""

    def read(self, topic: str, partition: int, start: int, stop: int) -> AsyncIterator[Piece]:
        """The records of an offset range, in order."""

    async def identity(self, topic: str) -> str:
        """What tells this topic from one of its name that is made later; empty where nothing does."""


async def monotonic(pieces: AsyncIterator[Piece]) -> AsyncIterator[tuple[Piece, FloatVector]]:
    """Pieces of one partition, and when their records were written: the clocks of writers differ, the order counts."""
    last = -np.inf
    async for piece in pieces:
        times = np.array([record.ts for record in piece.records], np.float64)
        times = np.maximum(np.maximum.accumulate(times), last)
        if len(times):
            last = float(times[-1])
            yield piece, times


class EmbeddedSource:
    """The embedded log as a `LogSource`.

    Parameters
    ----------
    batches : of the log, in its order, such as ``log.read(topics.ALL, 0)``: labels and events may carry times that
        the log's own order does not follow, and that order is what the host knew.
    """

    def __init__(self, batches: Iterable[LoggedBatch]) -> None:
        self._lanes: dict[tuple[str, int], list[_OrderedBatch]] = {}
        newest = -math.inf
        for batch in batches:
            floor, newest = newest, max(newest, *(record.ts for record in batch.records))
            self._lanes.setdefault((batch.topic, batch.partition), []).append(_OrderedBatch(batch, floor, newest))

    @classmethod
    def of_directory(cls, directory: Path) -> Self:
        """The log in a directory, which another process may be writing; it is not changed."""
        return cls(read_directory(directory))

    async def spans(self, topic: str, since: float | None, until: float | None) -> dict[int, tuple[int, int]]:
        """See `LogSource`; an unknown topic has no partitions."""
        return {
            partition: (_offset_at(lane, since, 0), _offset_at(lane, until, lane[-1].batch.next_offset))
            for (name, partition), lane in sorted(self._lanes.items())
            if name == topic
        }

    async def read(self, topic: str, partition: int, start: int, stop: int) -> AsyncIterator[Piece]:
        """See `LogSource`."""
        for placed in self._lanes.get((topic, partition), ()):
            base = placed.batch.base_offset
            low, high = max(start, base), min(stop, placed.batch.next_offset)
            if low < high:
                yield Piece(range(low, high), placed.records()[low - base : high - base])

    async def identity(self, topic: str) -> str:  # noqa: ARG002 - the same of all its topics
        """See `LogSource`; an embedded log has none."""
        return ""


class _OrderedBatch(NamedTuple):
    """A batch in the one order that an embedded log has: no record of it was written before what stands before it."""

    batch: LoggedBatch
    floor: float
    """The latest time of writing before it, in any topic."""
    newest: float
    """And with it."""

    def records(self) -> list[Record]:
        """Its records, none written before the floor."""
        return [r if r.ts >= self.floor else r._replace(ts=self.floor) for r in self.batch.records]


def _offset_at(lane: list[_OrderedBatch], ts: float | None, otherwise: int) -> int:
    """Offset of the first record written at ``ts`` or later; the end without one."""
    if ts is None:
        return otherwise
    for placed in lane:
        at = next((k for k, r in enumerate(placed.records()) if r.ts >= ts), None) if placed.newest >= ts else None
        if at is not None:
            return placed.batch.offset_of(at)
    return lane[-1].batch.next_offset


class KafkaSource:
    """Topics on Kafka as a `LogSource`; use it as an async context. It commits nothing and joins no group.

    Parameters
    ----------
    settings : where the brokers are, what the topics are called there, and how large their records may be.
    client : the name of this client.
    """

    def __init__(self, settings: Settings, client: str) -> None:
        self._settings, self._options = settings, settings.kafka.client_options(client)
        self._readers: dict[str, RangeReader] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *about: Any) -> None:
        await self._stack.__aexit__(*about)

    async def spans(self, topic: str, since: float | None, until: float | None) -> dict[int, tuple[int, int]]:
        """See `LogSource`. Raises ``BrokerError``, and ``UsageError`` where there is no such topic."""
        reader = await self._reader(topic)
        found = {}
        for partition in reader.partitions():
            first, end = await reader.bounds(partition)
            start = first if since is None else max(first, await reader.offset_at(partition, since))
            stop = end if until is None else await reader.offset_at(partition, until)
            found[partition] = (start, min(stop, end))
        return found

    async def read(self, topic: str, partition: int, start: int, stop: int) -> AsyncIterator[Piece]:
        """See `LogSource`. Raises ``RecordsDeleted`` when retention takes what is being read."""
        reader = await self._reader(topic)
        async for offsets, records, *_ in reader.read(partition, start, stop):
            yield Piece(offsets, records)

    async def identity(self, topic: str) -> str:
        """See `LogSource`: the id that the brokers gave the topic. Raises ``BrokerError``."""
        from weir.streams.kafka.admin.clients import admin_client
        from weir.streams.kafka.admin.cluster import read_identities

        def ask() -> str:
            name = self._settings.topics.name(topic)
            with admin_client(self._settings.kafka) as admin:
                found = read_identities(admin, [name])
            return found[name].id if name in found else ""

        return await asyncio.to_thread(ask)

    async def _reader(self, topic: str) -> RangeReader:
        try:
            from weir.streams.kafka.consume.range_reader import RangeReader
        except ImportError as error:
            raise UsageError(f"reading from Kafka needs {error.name}; run: pip install 'weir[kafka]'") from error
        if topic not in self._readers:
            name, limits = self._settings.topics.name(topic), self._settings.limits_of(topic)
            reader = RangeReader(self._options, name, limits=limits)
            self._readers[topic] = await self._stack.enter_async_context(reader)
        return self._readers[topic]


Advance = Callable[[str, int, int], None]
"""``advance(what, done, of)``."""
