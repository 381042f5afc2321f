"""How the thread of fetches ends where aiokafka ends half-way, by the cancelling of a fetch it was to try again."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchError
from aiokafka.errors import NoOffsetForPartitionError

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


LANES = [TopicPartition("user-events", p) for p in range(200)]


def failing() -> tuple[Any, Any]:
    """A thread, and a fetcher to which each partition failed; the thread is not started: a loop would be left open."""
    thread: Any = object.__new__(BatchConsumerThread)
    thread._readable = lambda _: [(lane, 1) for lane in LANES]
    records = {lane: FetchError(error=NoOffsetForPartitionError(lane), backoff=0.0) for lane in LANES}
    subscriptions = SimpleNamespace(reassignment_in_progress=None, fetch_context=nullcontext)
    held = SimpleNamespace(_records=records, _notify=id, _wait_consume_future=None, _closed=False)
    held._subscriptions = subscriptions
    return thread, held


def test_all_partitions_that_failed_are_told_at_once() -> None:
    """One a turn would have the others asked for again each time: minutes, where hundreds have no offset yet."""
    thread, fetcher = failing()
    drained, failed = thread._drain_now(fetcher)
    assert drained == []
    assert [lane for lane, _, _ in failed] == LANES


async def test_a_partition_that_was_placed_while_another_was_asked_about_stays_there() -> None:
    thread, fetcher = failing()
    thread.consumer, thread._wake, thread._used = SimpleNamespace(flow_active=True), asyncio.Event(), []
    thread._ensure_consumer = lambda: SimpleNamespace(_fetcher=fetcher, _closed=False)
    thread._epochs = dict.fromkeys(LANES, 1)
    resolved = []

    async def resolve(_: Any, lane: TopicPartition, error: FetchError) -> None:
        del error
        resolved.append(lane)
        thread._epochs[LANES[7]], thread.consumer.flow_active = 2, False

    thread._resolve = resolve
    await thread._pump(1.0)
    assert resolved == [lane for lane in LANES if lane.partition != 7]
