"""A label lane takes each prediction once and in order: handed over, read again, or left by a dead worker."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams.label_lanes import TASK, FarSteps, ForgetfulHistory, Partition, Stage
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.redis.partitions.label_journal import OffsetRange
from weir.streams.worker.labelling.publisher import PendingStep

Part = tuple[int, int]
"""Records of somebody else, then ours."""


@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=3), max_size=6),
       st.integers(0, 6), st.booleans())  # fmt: skip
@settings(deadline=None, max_examples=60)
async def test_a_label_lane_takes_every_prediction_once_and_in_order_whoever_wrote_it(
    calls: list[list[Part]], reopened_at: int, clean: bool
) -> None:
    at = Partition()
    at.append(2)  # of a worker that died
    await at.open()
    for number, parts in enumerate(calls):
        if number == reopened_at:
            if clean:
                at.append(1)
                await at.hand_over([at.append(1)])
            await at.lane.close()
            await at.open()
        sent = []
        for others, ours in parts:
            at.append(others)
            sent.append(at.append(ours))
        await at.hand_over(sent)
    await at.hand_over([at.append(1)])
    await at.processed()
    await at.lane.close()
    assert not at.ctx.failed
    assert at.stage.seen == at.log
    assert [at.log[offset] for offset in at.stage.offsets] == at.log[-len(at.stage.offsets) :]


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 12)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=60)
async def test_every_decision_is_sent_and_repeats_after_a_kill_say_what_the_first_said(
    calls: list[tuple[int, bool, int]],
) -> None:
    """Killed after any number of turns of the loop: before the journal, between it and sending, or after both."""
    at = Partition(FarSteps())
    at.ctx.settings = Settings.model_validate({"worker": {"decisions": True, "snapshot_every_s": 0.001}})
    await at.open()
    for count, killed, turns in calls:
        await at.hand_over([at.append(count)])
        for _ in range(turns):
            await asyncio.sleep(0)
        if killed:
            await at.kill()
            await at.open()
    await at.hand_over([at.append(1)])
    await at.processed()
    await at.lane.close()
    found = at.decided()
    assert list(dict(found).items()) == [(event, float(i)) for i, event in enumerate(at.log)]
    assert set(found) == {*dict(found).items()}
    if not any(killed for _, killed, _ in calls):
        assert len(found) == len(at.log)


async def test_nothing_is_sent_to_a_topic_that_a_deployment_of_before_lacks() -> None:
    at = Partition()
    await at.open()
    await at.hand_over([at.append(3)])
    await at.processed()
    await at.lane.close()
    assert at.ctx.records.sent == {}


async def test_what_is_handed_over_without_a_gap_is_not_read_again() -> None:
    at = Partition()
    await at.open()
    for _ in range(20):
        await at.hand_over([at.append(3)])
    await at.processed()
    await at.lane.close()
    assert at.stage.seen == at.log
    assert at.reader.reads <= 1  # a lane looks once whether a dead worker left something, as it begins


@pytest.mark.parametrize("count", [3, 50])
async def test_predictions_of_a_topic_made_anew_are_not_taken_for_those_that_were_read(count: int) -> None:
    at = Partition()
    await at.open()
    first = at.append(20)
    await at.hand_over([first])
    await at.hand_over([first])  # the brokers know it already, and so does the lane
    await at.processed()
    assert at.stage.seen == at.log
    at.ctx.topics.anew = True
    del at.log[:]
    await at.hand_over([at.append(count)])
    assert "is of a topic that is gone" in str(at.ctx.failed)
    await at.kill()
    assert len(at.stage.seen) == 20


@pytest.mark.parametrize("busy", [0, 1, 3])
async def test_the_versions_of_a_step_are_there_when_it_is_computed_whatever_was_waited_for(busy: int) -> None:
    at = Partition()
    at.history = at.reader.history = ForgetfulHistory(busy)
    await at.open()
    await at.hand_over([at.append(3)])
    await at.processed()
    await at.lane.close()
    assert at.stage.seen == at.log


async def test_what_was_handed_over_to_nobody_is_found_without_a_hand_over() -> None:
    at = Partition()
    at.append(7)
    await at.open()
    await at.processed()
    await at.lane.close()
    assert at.stage.seen == at.log


async def test_time_that_passed_without_records_is_a_step_in_its_place() -> None:
    """The next lane takes it again between the same predictions; no offset moves by it."""

    partition = Partition()
    await partition.open()
    await partition.hand_over([partition.append(2)])
    await partition.processed()
    partition.lane.pass_time(1_700_000_000.25)
    await partition.steps.until(2)
    await partition.hand_over([partition.append(1)])
    await partition.steps.until(3)
    expected = ["e0", "e1", "time 1700000000.25", "e2"]
    assert partition.stage.seen == expected
    assert partition.lane.positions == {topics.PREDICTIONS: 3}
    assert [step.topic for step in partition.steps.steps] == [topics.PREDICTIONS, "tick", topics.PREDICTIONS]
    await partition.lane.close()
    partition.steps.blob, partition.steps.first, partition.steps.done_through = None, 1, 0
    tick = OffsetRange("tick", 1_700_000_000_250, 1_700_000_000_250)
    partition.steps.steps = [OffsetRange(topics.PREDICTIONS, 0, 2), tick, OffsetRange(topics.PREDICTIONS, 2, 3)]
    await partition.open()
    await partition.processed()
    assert partition.stage.seen == expected
    assert partition.lane.positions == {topics.PREDICTIONS: 3}
    await partition.lane.close()


async def test_a_lane_is_settled_where_a_worker_was_killed_and_stored_as_what_it_becomes() -> None:
    at = Partition(FarSteps())
    at.ctx.settings = Settings.model_validate({"worker": {"decisions": True}})
    await at.open()
    await at.hand_over([at.append(3)])
    await asyncio.sleep(0)
    await at.kill()
    at.append(4)  # sent, and no lane has come to take it
    lane = await at.unstarted()
    await lane.settle()
    assert at.stage.seen == at.log
    assert list(dict(at.decided())) == at.log, "each is published"
    other = Stage()
    other.seen = ["moved", "here"]
    await lane.become({TASK: cast(Any, other)})
    await lane.close()
    lane = await at.unstarted()
    await lane.settle()
    assert at.stage.seen == ["moved", "here"], "nothing is taken again"
    assert lane.positions == {topics.PREDICTIONS: 7}


async def test_a_lane_that_was_being_filled_when_its_rebuild_was_killed_is_blank() -> None:
    """Else what was taken in silence would be published by whoever opens it next, as steps that nobody has done."""
    at = Partition()
    at.append(2)
    lane = await at.unstarted()
    at.reader.decode_step = lambda step, _: PendingStep(step, at.reader._at(step.start, step.stop))  # type: ignore[attr-defined]
    await lane.take_alone(OffsetRange(topics.PREDICTIONS, 0, 2), Slice((), ()))
    assert (await at.unstarted()).blank
    await lane.finish_alone()
    lane = await at.unstarted()
    assert not lane.blank
    await lane.settle()
    assert at.stage.seen == at.log
    assert at.ctx.records.sent == {}
