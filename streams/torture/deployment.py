"""A deployment of its own on somebody's brokers and Redis: topics, keys and workers under one prefix."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.kafka.admin.unpacking import VIEW_LIMITS
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.records import Record


class StoredRecord(NamedTuple):
    """A record and where it is."""

    offset: int
    record: Record


@dataclass(frozen=True)
class Deployment:
    """Where it is, and the tasks that run on it, by name."""

    settings: Settings
    tasks: dict[str, TaskSpec]

    def read(self, topic: str) -> dict[int, list[StoredRecord]]:
        """Everything in one of Weir's topics now, by partition."""
        return asyncio.run(self._read(topic))

    async def _read(self, topic: str) -> dict[int, list[StoredRecord]]:
        found: dict[int, list[StoredRecord]] = defaultdict(list)
        async for partition, piece in self.pieces(topic):
            found[partition] += map(StoredRecord, piece.offsets, piece.records)
        return found

    async def pieces(self, topic: str) -> AsyncIterator[tuple[int, Slice]]:
        """Everything in one of Weir's topics now, partition after partition, as it is read."""
        options = self.settings.kafka.client_options("check")
        async with RangeReader(options, self.settings.topics.name(topic), limits=VIEW_LIMITS) as reader:
            for partition in reader.partitions():
                first, end = await reader.bounds(partition)
                async for piece in reader.read(partition, first, end):
                    yield partition, piece

    def ends(self, *names: str) -> Mapping[tuple[str, int], int]:
        """Where the partitions of these topics of Weir's end now; of all topics without a name."""
        return asyncio.run(self.ends_now(*names))

    async def ends_now(self, *names: str) -> Mapping[tuple[str, int], int]:
        """See `ends`."""
        found: dict[tuple[str, int], int] = {}
        for name in names or topics.ALL:
            options = self.settings.kafka.client_options("check")
            async with RangeReader(options, self.settings.topics.name(name)) as reader:
                for partition in reader.partitions():
                    found[name, partition] = (await reader.bounds(partition))[1]
        return found
