"""What the tests of the lane store share: a worker's part of it, one lane of rows in a real Redis."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.integration.redis_server import NamedRedis, RedisServer
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.flush import Writes
from weir.streams.redis.partitions.partition_store import Lane, LaneRecord, LaneStore

LANE, SIDE = ("user-events", 3), "entity-updates"
WIDTH, SCHEMA, TTL_S = 16, 7, 3600.0
NewRedis = Callable[..., RedisServer]
Server = RedisServer | NamedRedis
_names = itertools.count()


def fresh_prefix() -> str:
    """Tests share a server; each has keys of its own."""
    return f"t{os.getpid()}-{next(_names)}"


@asynccontextmanager
async def linked(server: Server, **options: Any) -> AsyncIterator[RedisClient]:
    link = RedisClient(options.pop("settings", server.settings()), **options)
    try:
        await link.start()
        yield link
    finally:
        await link.stop()


class Worker:
    """What a host does with one lane of a store: compute steps, flush them."""

    def __init__(self, link: RedisClient, prefix: str, lane: Lane = LANE, **options: Any) -> None:
        self.link, self.lane = link, lane
        self.store = LaneStore(link, prefix=prefix, **options)
        self.store.create("user", WIDTH, SCHEMA, TTL_S)
        self.expected: int | None = None
        self.computed = 0

    async def open(self) -> LaneRecord | None:
        record = await self.store.open(self.lane)
        self.expected = record.next_offset if record else None
        self.computed = self.expected or 0
        return record

    async def step(self, **fill: int) -> Writes:
        """One record that sets rows to a byte."""
        keys = list(fill)
        await self.store.prefetch(self.lane, {"user": keys})
        self.store.use(self.lane)
        self.store.save("user", keys, rows(*fill.values()), float(self.computed))
        self.computed += 1
        return self.store.end_step(self.lane, self.computed - 1)

    async def flush(self, *writes: Writes, journal: Sequence[bytes] = (), drop: int = 0, mark: bytes = b"") -> None:
        after = writes[-1].offset + 1
        record = self.store.record(self.lane, after, mark)
        await self.store.flush(self.lane, writes, record, self.expected, journal, drop)
        self.expected = after

    async def write(self, **fill: int) -> None:
        await self.flush(await self.step(**fill))

    async def values(self, *keys: str, table: str = "user") -> list[int]:
        await self.store.prefetch(self.lane, {table: keys})
        self.store.use(self.lane)
        return [int(row[0]) for row in self.store.load(table, keys)]


def rows(*fill: int) -> NDArray[np.uint8]:
    return np.repeat(np.array(fill, dtype=np.uint8)[:, None], WIDTH, axis=1)


@asynccontextmanager
async def worker_on(server: Server, **options: Any) -> AsyncIterator[Worker]:
    """A worker on a new lane."""
    async with linked(server, **options) as link:
        worker = Worker(link, fresh_prefix())
        assert await worker.open() is None
        yield worker
