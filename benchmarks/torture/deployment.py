"""A deployment of its own on somebody's brokers and Redis: topics, keys and workers under one prefix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.kafka.admin.unpacking import VIEW_LIMITS
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.consume.range_reader import RangeReader


@dataclass(frozen=True)
class Deployment:
    """Where it is, and the tasks that run on it, by name."""

    settings: Settings
    tasks: dict[str, TaskSpec]

    async def pieces(self, topic: str) -> AsyncIterator[tuple[int, Slice]]:
        """Everything in one of Weir's topics now, partition after partition, as it is read."""
        options = self.settings.kafka.client_options("check")
        async with RangeReader(options, self.settings.topics.name(topic), limits=VIEW_LIMITS) as reader:
            for partition in reader.partitions():
                first, end = await reader.bounds(partition)
                async for piece in reader.read(partition, first, end):
                    yield partition, piece

    async def ends_now(self, *names: str) -> Mapping[tuple[str, int], int]:
        """Where the partitions of these topics of Weir's end now; of all topics without a name."""
        found: dict[tuple[str, int], int] = {}
        for name in names or topics.ALL:
            options = self.settings.kafka.client_options("check")
            async with RangeReader(options, self.settings.topics.name(name)) as reader:
                for partition in reader.partitions():
                    found[name, partition] = (await reader.bounds(partition))[1]
        return found
