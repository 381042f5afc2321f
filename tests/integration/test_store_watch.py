"""A store that fills is noticed while there is time, and ids that nobody foresaw do not stop those that are known."""

from __future__ import annotations

import logging
import time

import pytest

from tests.integration.redis_server import RedisServer
from tests.integration.row_store import Worker
from weir.streams.config.settings import RedisSettings, SecretUrl
from weir.streams.ops.metrics import Metrics
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_store import LaneStore
from weir.streams.worker.links import StoreWatch

pytestmark = pytest.mark.integration
LANE = ("user-events", 0)


async def test_a_store_that_fills_is_measured_and_warned_of_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        link = RedisClient(RedisSettings(url=SecretUrl(redis_server.url)), prefix="watched")
        await link.start()
        used = int((await link.execute("INFO", "memory")).split(b"used_memory:")[1].split(b"\r")[0])
        metrics = Metrics()
        watch = StoreWatch(link, LaneStore(link, prefix="watched"), metrics)
        await watch.look()
        assert metrics.gauge("weir_store_limit_bytes").value == 0
        assert "Redis memory" not in caplog.text
        limit = int(used / 0.85)
        await link.execute("CONFIG", "SET", "maxmemory", str(limit))
        try:
            await watch.look()
            await watch.look()
        finally:
            await link.execute("CONFIG", "SET", "maxmemory", "0")
        assert metrics.gauge("weir_store_limit_bytes").value == limit
        assert 0.8 * limit < metrics.gauge("weir_store_used_bytes").value < limit
        await link.stop()
    assert [r.message.count("new entities are not kept") for r in caplog.records].count(1) == 1
    assert caplog.text.count("CVE-") <= 3, "known holes are said once"


async def test_a_worker_whose_clock_is_wrong_says_so_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = RedisClient(RedisSettings(url=SecretUrl(redis_server.url)), prefix="clock")
    await link.start()
    watch, right = StoreWatch(link, LaneStore(link, prefix="clock"), Metrics()), time.time
    await watch.look()
    assert "clock" not in caplog.text
    monkeypatch.setattr(time, "time", lambda: right() - 4 * 3_600)
    await watch.look()
    await watch.look()
    await link.stop()
    assert [r.message.count("this machine's clock is 4h behind that of Redis") for r in caplog.records].count(1) == 1


async def test_entities_that_nobody_knew_are_counted(redis_server: RedisServer) -> None:
    link = RedisClient(RedisSettings(url=SecretUrl(redis_server.url)), prefix="fresh")
    await link.start()
    store = LaneStore(link, prefix="fresh")
    store.create("t", 16, 1, 60.0)
    await store.open(LANE)
    await store.prefetch(LANE, {"t": [f"random-{i}" for i in range(500)]})
    await store.prefetch(LANE, {"t": ["random-1", "one-more"]})
    assert store.new == 501
    await link.stop()


async def test_in_a_store_that_is_nearly_full_known_entities_are_kept_and_new_ones_are_not(
    redis_server: RedisServer,
) -> None:
    """A flood of random ids filled Redis; then no row, position or journal could be written, and workers ended."""

    link = RedisClient(RedisSettings(url=SecretUrl(redis_server.url)), prefix="full")
    await link.start()
    worker = Worker(link, "full")
    await worker.open()
    await worker.write(known=1)
    watch = StoreWatch(link, worker.store, Metrics())
    used = int((await link.execute("INFO", "memory")).split(b"used_memory:")[1].split(b"\r")[0])
    await link.execute("CONFIG", "SET", "maxmemory", str(int(used / 0.95)))
    try:
        await watch.look()
        for flood in range(20):
            await worker.write(**{"known": 2 + flood, f"random-{flood}": 7})
        assert await worker.values("known", "random-0") == [21, 7], "what is cached still counts"
    finally:
        await link.execute("CONFIG", "SET", "maxmemory", "0")
    assert worker.store.unkept == 20
    other = Worker(link, "full")
    record = await other.open()
    assert record is not None
    assert record.next_offset == 21, "the position goes on"
    assert await other.values("known", "random-0") == [21, 0]
    await watch.look()
    await worker.write(late=5)
    third = Worker(link, "full")
    await third.open()
    assert await third.values("late") == [5]
    await link.stop()
