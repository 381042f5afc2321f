"""Connections to Redis: what a command does that is cancelled."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from weir.streams.config.settings import RedisSettings
from weir.streams.redis.nodes import Nodes


class Connection:
    """One of redis-py's, which sends as that does, and answers at once."""

    def __init__(self) -> None:
        self.room, self.closed = asyncio.Event(), False

    async def connect_check_health(self) -> None:
        """It is connected."""

    async def send_packed_command(self, payload: bytes) -> None:
        del payload
        await asyncio.wait_for(self.room.wait(), 60.0)

    async def read_response(self, *, disable_decoding: bool) -> bytes:
        del disable_decoding
        return b"OK"

    async def disconnect(self, *, nowait: bool) -> None:
        del nowait
        self.closed = True


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_is_not_lost_though_the_command_went_out_in_the_same_turn(turns: int) -> None:
    """In Python 3.11 `asyncio.wait_for` loses it: whoever cancelled the task would wait for it for ever."""
    nodes, connection = Nodes(RedisSettings(), 1.0), Connection()
    home = nodes.address_of(b"")
    nodes._idle[home] = [cast(Any, connection)]
    asking = asyncio.create_task(nodes.ask(home, b"PING", 1))
    while not connection.room._waiters:
        await asyncio.sleep(0)
    connection.room.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    cancelled = asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled() == connection.closed == cancelled
