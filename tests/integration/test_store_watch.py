"""A store that fills is noticed while there is time: gauges, one warning, and the entities that nobody knew."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.integration.redis_server import RedisServer
from weir.streams.config.settings import RedisSettings, SecretUrl
from weir.streams.ops.metrics import Metrics
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_store import LaneStore
from weir.streams.worker.store_watch import StoreWatch

pytestmark = pytest.mark.integration
LANE = ("user-events", 0)


def test_a_store_that_fills_is_measured_and_warned_of_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        link = RedisClient(RedisSettings(url=SecretUrl(redis_server.url)), prefix="watched")
        await link.start()
        used = int((await link.execute("INFO", "memory")).split(b"used_memory:")[1].split(b"\r")[0])
        metrics = Metrics()
        watch = StoreWatch(link, metrics)
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

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert [r.message.count("a full store stops workers") for r in caplog.records].count(1) == 1
    assert caplog.text.count("CVE-") <= 3, "known holes are said once"


def test_entities_that_nobody_knew_are_counted(redis_server: RedisServer) -> None:
    async def run() -> None:
        link = RedisClient(RedisSettings(url=SecretUrl(redis_server.url)), prefix="fresh")
        await link.start()
        store = LaneStore(link, prefix="fresh")
        store.create("t", 16, 1, 60.0)
        await store.open(LANE)
        await store.prefetch(LANE, {"t": [f"random-{i}" for i in range(500)]})
        await store.prefetch(LANE, {"t": ["random-1", "one-more"]})
        assert store.new == 501
        await link.stop()

    asyncio.run(run())
