"""As much of a worker's context as one lane needs."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from faust.types import TP

from weir.streams.config.settings import Settings
from weir.streams.errors import StateError
from weir.streams.ops.metrics import Metrics
from weir.streams.redis.stored_rows import Lane, place_of
from weir.streams.worker.scoring.misplaced import Placement


class TopicIdentities:
    """Of topics, of which none is made anew until a test says so."""

    anew = False

    async def look_again(self, lane: Lane) -> None:
        if self.anew:
            raise StateError(f"{place_of(lane)}: the stored position is of a topic that is gone")


class Context:
    """Takes everything, and raises what a lane could not bear."""

    def __init__(self) -> None:
        self.settings, self.metrics = Settings(), Metrics()
        self.store: Any = None
        self.id_bytes = 1 << 20
        self.opening = asyncio.Semaphore()
        self.lanes = 0  # nothing is gathered
        self.storing = asyncio.Semaphore(1)
        self.records: Any = None
        self.consumer: Any = None
        self.partitions, self.silent = 0, None  # nobody is asked whose a record is
        self.placement = Placement(cast(Any, self))
        self.failed: list[Exception] = []
        self.topics = TopicIdentities()

    def now(self) -> float:
        return 1.7e9

    def new_key(self) -> bytes:
        return bytes(16)

    def name(self, topic: str) -> str:
        return topic

    def topic_partition(self, lane: tuple[str, int]) -> TP:
        return TP(*lane)

    def fail(self, lane: tuple[str, int], error: Exception) -> None:
        del lane
        self.failed.append(error)
