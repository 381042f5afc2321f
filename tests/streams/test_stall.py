"""A reply that is late because this process stood still is not taken for a Redis that is away."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from weir.streams.config.settings import RedisSettings
from weir.streams.ops.watchdog import LoopStall
from weir.streams.redis.client import RedisClient


@pytest.mark.parametrize("busy", [True, False])
async def test_a_redis_is_called_away_only_where_it_is(busy: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        link = RedisClient(RedisSettings(), timeout_s=0.2)
        link.stall = LoopStall()
        link.stall.start()
        await asyncio.sleep(0.1)
        asked = 0

        async def ask() -> str:
            nonlocal asked
            asked += 1
            if asked <= 3:
                if busy:
                    time.sleep(0.5)
                async with asyncio.timeout(0.2):
                    await asyncio.sleep(1.0 if not busy else 0.0)
                    raise TimeoutError
            return "there"

        assert await link._patiently(ask) == "there"
        link.stall.stop()
    assert ("is away" in caplog.text) != busy
    assert ("this process stood still for 0." in caplog.text) == busy


async def test_a_stall_is_measured() -> None:
    stall = LoopStall()
    stall.start()
    await asyncio.sleep(0.15)
    assert stall.longest() < 0.3
    before = time.monotonic()
    time.sleep(0.6)
    await asyncio.sleep(0.1)
    assert 0.4 < stall.since(before) == stall.longest() < 2.0
    assert stall.since(time.monotonic()) == 0.0
    stall.stop()
