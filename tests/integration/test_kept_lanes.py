"""Lanes whose partitions go and come back: memory is kept where it is what is stored, and nobody else had the lane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from tests.integration.redis_server import RedisServer
from tests.streams.score_lanes import Lanes
from tests.streams.test_worker_scoring import START, TASKS, records_of
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.label_journal import OffsetRange as Taken
from weir.streams.redis.partitions.label_journal import StepLog
from weir.streams.redis.partitions.partition_store import LaneStore
from weir.streams.worker.lanes.step_writer import PendingWrite

pytestmark = pytest.mark.integration


@asynccontextmanager
async def lanes_on(server: RedisServer) -> AsyncIterator[Lanes]:
    link = RedisClient(server.settings(), patience_s=10.0, prefix=f"w{uuid4().hex[:8]}")
    await link.start()
    try:
        lanes = Lanes(TASKS[:1], 2, link=link)
        lanes.ctx.store.prefix = link.prefix
        yield await lanes.open()
    finally:
        await link.stop()


async def process(lanes: Lanes, *numbers: int) -> None:
    for lane in lanes.lanes:
        events = [(number, (lane.lane[1], 0, 1.0, True)) for number in numbers]
        await lane.run_alone(lanes.batch(lane.lane[1], records_of(events, START)))


async def test_a_lane_that_comes_back_goes_on_without_reading_its_journal(redis_server: RedisServer) -> None:
    async with lanes_on(redis_server) as lanes:
        lane = lanes.lanes[0]
        assert await lane.let_go()  # of which nothing was ever stored
        assert await lane.take_up()
        await process(lanes, 1, 2)
        assert await lane.let_go()
        intake = lane.intake
        assert await lane.take_up()
        assert lane.intake is intake
        await process(lanes, 2, 3)
        assert lane.intake.duplicates == 1
        assert lanes.ctx.store.written(lane.lane) == lane.next_offset == 4


async def test_a_lane_that_another_worker_wrote_meanwhile_is_opened_anew(redis_server: RedisServer) -> None:
    async with lanes_on(redis_server) as lanes:
        lane = lanes.lanes[0]
        await process(lanes, 1, 2)
        assert await lane.let_go()
        other = LaneStore(lanes.ctx.store._link, prefix=lanes.ctx.store.prefix)
        record = await other.open(lane.lane)
        assert record is not None
        await other.flush(lane.lane, [], other.record(lane.lane, 2, record.mark), 2)  # the very same position
        assert not await lane.take_up()


async def test_a_lane_that_had_computed_what_is_not_written_is_opened_anew(redis_server: RedisServer) -> None:
    async with lanes_on(redis_server) as lanes:
        await process(lanes, 1, 2)
        unwritten, half = lanes.lanes
        (step,) = await lanes.compute([lanes.batch(0, records_of([(3, (0, 0, 1.0, True))], START))])
        assert isinstance(step, PendingWrite)
        unwritten.made(step)
        assert not await unwritten.let_go()
        batch = lanes.batch(1, records_of([(3, (1, 0, 1.0, True))], START))
        half.admit(batch, half.decode([batch.records[0].value]))
        assert not await half.let_go()
        assert await half.open() == 2
        assert await half.let_go()


async def test_a_label_lane_knows_whether_anybody_else_had_it(redis_server: RedisServer) -> None:
    link = RedisClient(redis_server.settings(), patience_s=10.0, prefix=f"w{uuid4().hex[:8]}")
    await link.start()
    mine, other = StepLog(link, "label-0"), StepLog(link, "label-0")
    assert not await mine.claim()
    await mine.load()
    await mine.append(1, [Taken("labels", 0, 5)])
    assert await mine.claim()
    await mine.append(2, [Taken("labels", 5, 9)])
    assert not await other.claim()
    assert not await mine.claim()
    assert len((await mine.load()).steps) == 2
    await link.stop()
