"""A partition that cannot go on pauses with its reason, is tried again ever more rarely, and holds up no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, cast

import pytest
from faust.types import TP

from weir.streams.config.settings import Settings
from weir.streams.errors import BrokerError, StateError, TooManyRejects, UsageError
from weir.streams.kafka.kafka_errors import DeliveryError, RecordsDeleted
from weir.streams.ops.metrics import Metrics
from weir.streams.redis.partitions.label_journal import StepsTaken
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.redis.store_errors import StoreRefused, StoreUnavailable
from weir.streams.worker.pauses import QUICK_S, QUICK_TRIES, TELL_S, Pauses

LANE: Lane = ("user-events", 1)
TP1 = TP("user-events", 1)


class Host:
    """Opens lanes where ``stored`` says, or cannot; remembers what was asked of it."""

    def __init__(self) -> None:
        self.stored: dict[Lane, int] = {LANE: 40}
        self.broken: Exception | None = None
        self.calls: list[str] = []

    def partitions_of(self, lane: Lane) -> list[TP]:
        return [TP(*lane)]

    async def shut(self, lane: Lane) -> None:
        await asyncio.sleep(0)
        self.calls.append(f"shut {lane[1]}")

    async def reopen(self, lane: Lane) -> Mapping[TP, int]:
        await asyncio.sleep(0)
        if self.broken is not None:
            raise self.broken
        self.calls.append(f"open {lane[1]}")
        return {TP(*lane): self.stored[lane]} if lane in self.stored else {}

    def begin(self, lane: Lane) -> None:
        self.calls.append(f"begin {lane[1]}")


class Consumer:
    """Stands at offset 42 of everything."""

    def __init__(self) -> None:
        self.halted: set[TP] = set()
        self.resumed: list[tuple[TP, int | None]] = []

    def hold(self, tp: TP) -> None:
        self.halted.add(tp)

    def halt(self, tp: TP) -> int | None:
        assert tp in self.halted, "hold it first"
        return 42

    def resume(self, tp: TP, offset: int | None) -> bool:
        self.halted.discard(tp)
        self.resumed.append((tp, offset))
        return True


class Context:
    def __init__(self) -> None:
        self.settings, self.metrics, self.consumer = Settings(), Metrics(), Consumer()
        self.crashed: list[Exception] = []

    async def crash(self, error: Exception) -> None:
        self.crashed.append(error)


class World:
    """Pauses with a clock that a test sets."""

    def __init__(self) -> None:
        self.now, self.ctx, self.host = 1000.0, Context(), Host()
        self.pauses = Pauses(cast(Any, self.ctx), lambda: self.now)
        self.pauses.host = cast(Any, self.host)

    async def after(self, seconds: float) -> None:
        """So much later everything that is due was done."""
        self.now += seconds
        self.pauses.look()
        await self.pauses.settled(LANE)
        self.pauses.look()

    def gauge(self, reason: str) -> float:
        return self.ctx.metrics.gauge("weir_partitions_paused", reason=reason).value


async def test_a_fault_stops_its_partition_at_once_and_the_lane_is_closed() -> None:
    w = World()
    w.pauses.fault(LANE, TooManyRejects("6000 of the last 10000 records were rejected"))
    assert w.ctx.consumer.halted == {TP1}
    await w.after(0)
    assert w.host.calls == ["shut 1"]
    told = cast(dict[str, Any], w.pauses.describe()["user-events-1"])
    assert (told["kind"], told["offset"], told["retry_in_s"] is not None) == ("rejects", 42, True)
    assert "6000 of the last" in told["reason"]
    assert (w.gauge("rejects"), w.gauge("fault")) == (1, 0)
    assert not w.ctx.crashed


async def test_it_is_tried_again_where_the_store_is_and_ever_more_rarely_while_it_fails() -> None:
    w = World()
    for wait_s in (60.0, 120.0, 240.0):
        w.pauses.fault(LANE, TooManyRejects("again"))
        await w.after(wait_s - 1)
        assert TP1 in w.ctx.consumer.halted
        await w.after(2)
        assert w.ctx.consumer.resumed[-1] == (TP1, 40)
        assert w.host.calls[-3:] == ["shut 1", "open 1", "begin 1"]
        assert w.gauge("rejects") == 0
    await w.after(241)  # it went well for longer than the pause was
    w.pauses.fault(LANE, TooManyRejects("a new burst"))
    assert w.pauses.paused[LANE].wait_s == 60.0


async def test_an_error_of_a_moment_is_over_in_a_second_and_one_that_stays_is_not_met_every_second() -> None:
    w = World()
    waits = []
    for _ in range(QUICK_TRIES + 2):
        w.pauses.fault(LANE, ZeroDivisionError("of record 7"))
        pause = w.pauses.paused[LANE]
        waits.append(pause.wait_s)
        assert pause.reason == "ZeroDivisionError: of record 7"
        await w.after(waits[-1] or 0)
    assert waits == [QUICK_S] * QUICK_TRIES + [60.0, 120.0]


async def test_a_lane_that_cannot_be_opened_stays_paused_with_the_reason_of_now() -> None:
    w = World()
    w.host.broken = StateError("its journal is not whole")
    assert await w.pauses.open_or_pause([LANE]) == {}
    await w.after(61)
    pause = w.pauses.paused[LANE]
    assert (pause.kind, pause.tries, pause.wait_s, pause.offset) == ("state", 2, 120.0, 42)
    w.host.broken = None
    await w.after(121)
    assert not w.pauses.paused
    assert w.host.calls[-2:] == ["open 1", "begin 1"]


async def test_what_was_never_stored_goes_on_where_it_stood() -> None:
    w = World()
    w.host.stored.clear()
    w.pauses.fault(LANE, RecordsDeleted("offset 42 is gone"))
    assert w.pauses.paused[LANE].kind == "deleted"
    await w.after(61)
    assert w.ctx.consumer.resumed == [(TP1, 42)]


async def test_what_a_person_paused_waits_for_a_person_and_what_failed_may_be_tried_at_once() -> None:
    w = World()
    w.pauses.by_hand(LANE, "by ann: a broken producer", 1.7e9)
    await w.after(1e6)
    assert w.ctx.consumer.halted == {TP1}
    w.pauses.resume(LANE)
    await w.after(0)
    assert w.ctx.consumer.resumed == [(TP1, 40)]
    w.pauses.fault(LANE, StateError("still"))
    assert w.pauses.paused[LANE].tries == 1
    w.pauses.resume(LANE)
    await w.after(0)
    assert not w.pauses.paused


async def test_a_partition_that_goes_is_forgotten_whatever_is_under_way() -> None:
    w = World()
    w.pauses.fault(LANE, StateError("no"))
    w.pauses.resume(LANE)
    await w.pauses.forget({LANE})
    assert not w.pauses.paused
    await w.after(1e4)
    assert "begin 1" not in w.host.calls


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("a"), StoreRefused("b"), DeliveryError("c"), BrokerError("d"), UsageError("e"), MemoryError()],
)
def test_errors_of_links_settings_and_memory_are_not_of_a_partition(error: Exception) -> None:
    assert not Pauses.takes(error)


async def test_a_lane_that_another_worker_claimed_is_not_claimed_back() -> None:
    w = World()
    w.pauses.fault(LANE, StepsTaken("by another"))
    await w.after(1e6)
    assert w.host.calls == ["shut 1"]


async def test_a_paused_partition_is_in_the_log_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        w = World()
        w.pauses.by_hand(LANE, "by ann", 1.7e9)
        caplog.clear()
        for _ in range(3 * int(TELL_S)):
            await w.after(1)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert all(line.startswith("user-events-1 is paused at offset 42 since") for line in lines)
    assert all(line.endswith("by ann") for line in lines)
