"""How the thread of fetches ends where aiokafka ends half-way, by the cancelling of a fetch it was to try again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import pytest

from weir.streams.kafka.consume.app import BatchApp
from weir.streams.kafka.consume.fetch_thread import BatchConsumerThread
from weir.streams.kafka.transport_settings import LinkSecurity, TransportSettings


class Interrupted:
    """A consumer of aiokafka's whose stop is cancelled from inside."""

    def __init__(self) -> None:
        self.closed = False
        self._client = self

    async def stop(self) -> None:
        fetch = asyncio.ensure_future(asyncio.sleep(3600))
        await asyncio.sleep(0)
        fetch.cancel()
        await fetch

    async def close(self) -> None:
        self.closed = True


async def ended(held: Interrupted) -> BatchConsumerThread:
    """The thread of an app, after it ran and stopped."""
    app = BatchApp(TransportSettings(group="g"), LinkSecurity(), loop=asyncio.get_running_loop())
    thread = app.batch_consumer._thread
    cast(Any, thread)._consumer = held

    def run() -> None:
        with suppress(asyncio.CancelledError):
            thread._start_thread()

    cast(Any, thread)._serve = thread.on_thread_stop
    await asyncio.to_thread(run)
    return thread


async def test_a_fetch_that_is_cancelled_does_not_hold_up_the_end() -> None:
    held = Interrupted()
    await ended(held)
    assert held.closed


async def test_whoever_waits_for_the_thread_is_told_however_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weir.streams.kafka.consume.fetch_thread.disconnect", Interrupted.stop)
    thread = await ended(Interrupted())
    async with asyncio.timeout(10):
        await thread._shutdown.wait()
