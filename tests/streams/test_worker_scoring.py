"""Batches of several lanes scored together: each lane keeps and sends what it would alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams.score_lanes import NOW, Lanes
from weir.online.codec.row_updates import block_as_json
from weir.online.intake_policy import IntakePolicy
from weir.online.stages.admission import Admission
from weir.online.stages.scoring import FeaturedBatch, PreparedBatch, ScoringStage
from weir.online.task.full_spec import columns
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.errors import StateError
from weir.streams.records import Record
from weir.streams.redis.partitions.partition_record import LaneRecord, encode_record
from weir.streams.redis.store_errors import LaneMoved, StoreUnavailable
from weir.streams.worker.inference.remote_models import Rows
from weir.streams.worker.lanes.lane import MOST_REFUSALS
from weir.streams.worker.lanes.step_writer import PendingWrite

START = 1.7e9
LANES = 3


def task_of(name: str, more: str, ops: str = '["count"]') -> TaskSpec:
    """A task with one aggregate of the user, and ``more``."""
    return TaskSpec.from_toml(f"""
name = "{name}"
stream = "user-events"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "seen"
value = "amount"
ops = {ops}
windows = ["1h"]
[model]
kind = "logistic"
{more}
""")


SPEND = task_of(
    "spend",
    """
[[entities]]
name = "merchant"
key = "merchant_id"
[[entities.aggregates]]
name = "sold"
ops = ["count"]
windows = ["1h"]
""",
    '["count", "mean"]',
)
SILENT = task_of("silent", '[labels.silence]\nobserve_s = "1m"\nhorizon_s = "5m"')
REMOTE = task_of("far", "[full]\nremote = true")
TASKS = [SPEND.model_copy(update={"types": ("purchase",)}), SILENT]


ELSEWHERE = encode_record(LaneRecord(next_offset=18, mark=Admission(IntakePolicy(), journal=True).mark()))
"""The record of a lane that another worker wrote, or that lost its end."""
Event = tuple[int, int, float, bool]
"""Lane, user of the lane, seconds since the event before, whether it is a purchase."""
Round = list[Event]


class Answers:
    """In the place of inference workers: says of every row the entity's number and the partition that asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    async def ask(self, partition: int, asks: Sequence[Rows], now: float) -> tuple[list[Any], asyncio.Future[Any]]:
        del now
        self.asked.append((partition, len(asks[0].event_id)))
        made = [np.zeros((len(rows.entity_id), len(columns(rows.spec)))) for rows in asks]
        for rows, into in zip(asks, made, strict=True):
            assert len(rows.ts) == len(rows.x) == len(rows.event_id) == len(rows.entity_id)
            into[:, 0] = [float(entity.split("-")[1]) for entity in rows.entity_id]
            into[:, 1] = 1.0
        await asyncio.sleep(0)
        done = asyncio.get_running_loop().create_future()
        done.set_result([])
        return made, done


def records_of(events: Sequence[tuple[int, Event]], at: float, user: str = "u{lane}-{user}") -> list[Record]:
    """``events``: number and event; a merchant is one lane's own, whose rows others may not see."""
    made = []
    for number, (lane, who, after, bought) in events:
        at += after
        event = {
            "v": 1,
            "event_id": f"e{number}",
            "type": "purchase" if bought else "view",
            "ts": at,
            "amount": 1.5 + number,
            "user_id": user.format(lane=lane, user=who),
            "merchant_id": f"m{lane}",
        }
        made.append(Record(b"", orjson.dumps(event) if number % 7 else b"{}", at))
    return made


def kept(step: PendingWrite | LaneMoved) -> tuple[Any, ...]:
    """What a step will write."""
    assert isinstance(step, PendingWrite)
    writes = step.writes
    rows = [
        (c.table, [c.cache.frames[slot] for slot in c.slots], c.rows.tobytes(), c.updated.tolist())
        for c in writes.changes
    ]
    return step.batch.partition, step.expected, rows, step.mark, step.journal, step.drop


def said(records: Sequence[Record]) -> Iterator[str]:
    """What records say, however updates of rows are cut into blocks."""
    for record in records:
        block = block_as_json(record.value)
        yield from (repr(record),) if block is None else (repr((block["table"], row)) for row in block["updates"])


rounds = st.lists(
    st.lists(
        st.tuples(st.integers(0, LANES - 1), st.integers(0, 3), st.floats(0.0, 200.0), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    min_size=1,
    max_size=6,
)


@given(rounds)
@settings(deadline=None, max_examples=25)
async def test_lanes_together_keep_and_send_what_each_does_alone(given_rounds: list[Round]) -> None:
    together, alone = await Lanes(TASKS, LANES).open(), await Lanes(TASKS, LANES).open()
    number, at = 1, START
    for events in given_rounds:
        numbered = list(enumerate(events, number))
        number += len(events)
        of_lane = [[e for e in numbered if e[1][0] == lane] for lane in range(LANES)]
        records = {lane: records_of(some, at) for lane, some in enumerate(of_lane) if some}
        at += 1000.0
        batches = [[lanes.batch(lane, some) for lane, some in records.items()] for lanes in (together, alone)]
        made = await together.compute(batches[0])
        apart = [step for batch in batches[1] for step in await alone.compute([batch])]
        assert [kept(step) for step in made] == [kept(step) for step in apart]
        for lanes, steps in ((together, made), (alone, apart)):
            for step in steps:
                assert isinstance(step, PendingWrite)
                lanes.lanes[step.batch.partition].next_offset = step.batch.next_offset
    for key, records_alone in alone.ctx.records.sent.items():
        assert sorted(said(together.ctx.records.sent.pop(key))) == sorted(said(records_alone))
    assert not any(together.ctx.records.sent.values())


async def test_predictions_of_each_lane_are_in_the_order_of_its_events() -> None:
    lanes = await Lanes(TASKS[:1], LANES).open()
    records = [records_of([(10 * lane + i, (lane, i % 2, 1.0, True)) for i in (1, 2, 3)], START) for lane in range(3)]
    await lanes.compute([lanes.batch(lane, some) for lane, some in enumerate(records)])
    for lane in range(LANES):
        sent = [orjson.loads(r.value) for r in lanes.ctx.records.sent[topics.PREDICTIONS, lane]]
        assert [p["event_id"] for p in sent] == [f"e{10 * lane + i}" for i in (1, 2, 3) if (10 * lane + i) % 7]


async def test_an_entity_in_two_partitions_has_a_row_in_each() -> None:
    together, alone = await Lanes(TASKS[:1], LANES).open(), await Lanes(TASKS[:1], LANES).open()
    for first, at in ((1, START), (20, START + 60.0)):
        records = [
            records_of([(first + i, (lane, 0, 1.0, True)) for i in range(3)], at, "same") for lane in range(LANES)
        ]
        made = await together.compute([together.batch(lane, some) for lane, some in enumerate(records)])
        apart = [step for lane, some in enumerate(records) for step in await alone.compute([alone.batch(lane, some)])]
        assert [kept(step)[2] for step in made] == [kept(step)[2] for step in apart]


@pytest.mark.parametrize("moved", [{0}, {1, 2}, {0, 1, 2}])
async def test_lanes_that_have_moved_are_told_and_the_others_are_scored(moved: set[int]) -> None:
    lanes = await Lanes(TASKS[:1], LANES).open()
    lanes.ctx.link.stored = dict.fromkeys(moved, ELSEWHERE)
    records = [records_of([(lane + 1, (lane, 0, 1.0, True))], START) for lane in range(LANES)]
    made = await lanes.compute([lanes.batch(lane, some) for lane, some in enumerate(records)])
    assert {lane for lane, step in enumerate(made) if isinstance(step, LaneMoved)} == moved
    assert {p for topic, p in lanes.ctx.records.sent if topic == topics.PREDICTIONS} == set(range(LANES)) - moved


async def test_each_partition_asks_inference_workers_for_its_own() -> None:
    lanes = await Lanes([REMOTE], LANES, remote=Answers()).open()
    of_lane = [[(10 * lane + i, (lane, i, 1.0, True)) for i in range(1, lane + 2)] for lane in range(LANES)]
    batches = [lanes.batch(lane, records_of(some, START)) for lane, some in enumerate(of_lane)]
    await lanes.compute(batches)
    assert lanes.ctx.remote is not None
    answered = [len([n for n, _ in some if n % 7]) for some in of_lane]
    assert lanes.ctx.remote.asked == list(enumerate(answered))
    for lane in range(LANES):
        for record in lanes.ctx.records.sent[topics.PREDICTIONS, lane]:
            prediction = orjson.loads(record.value)
            assert prediction["features"]["full.logit"] == float(prediction["entity_id"].split("-")[1])


async def running(lanes: Lanes) -> Lanes:
    """Open and started."""
    await lanes.open()
    lanes.scoring.start()
    for lane in lanes.lanes:
        lane.start()
    return lanes


async def stop(lanes: Lanes) -> None:
    await lanes.scoring.stop()
    for lane in lanes.lanes:
        await lane.close()


def one_event(lane: int) -> list[Record]:
    return records_of([(lane + 1, (lane, 0, 1.0, True))], START)


def computations(lanes: Lanes) -> int:
    return sum(lanes.ctx.metrics.histogram("weir_stage_seconds", lane="score", stage="decode").counts)


async def test_what_arrives_together_is_computed_together() -> None:
    lanes = await running(Lanes(TASKS, LANES))
    for lane in range(LANES):
        lanes.lanes[lane].put(lanes.batch(lane, one_event(lane)))
        await asyncio.sleep(0)  # as Faust's stream hands them over
    await lanes.ctx.consumer.until([0, 1, 2])
    assert computations(lanes) == 1
    await stop(lanes)


async def test_a_lane_that_waits_for_a_broker_holds_up_no_other() -> None:
    lanes = await running(Lanes(TASKS[:1], LANES))
    lanes.ctx.records.held[0] = asyncio.Event()
    lanes.lanes[0].put(lanes.batch(0, one_event(0)))
    while computations(lanes) == 0:
        await asyncio.sleep(0)
    for lane in (0, 1, 2):
        lanes.lanes[lane].put(lanes.batch(lane, one_event(lane)))
    await lanes.ctx.consumer.until([1, 2])
    assert computations(lanes) == 2
    lanes.ctx.records.held[0].set()
    await lanes.ctx.consumer.until([0, 0, 1, 2])
    await stop(lanes)


async def test_stopped_in_the_middle_it_completes_nothing_more() -> None:
    lanes = await running(Lanes(TASKS[:1], LANES))
    lanes.ctx.records.held[0] = asyncio.Event()
    for lane in range(LANES):
        lanes.lanes[lane].put(lanes.batch(lane, one_event(lane)))
    while computations(lanes) == 0:
        await asyncio.sleep(0)
    lanes.lanes[1].put(lanes.batch(1, one_event(1)))
    await stop(lanes)
    assert lanes.ctx.consumer.complete_ == []
    assert not any(lane.lock.locked() for lane in lanes.lanes)


async def test_a_lane_that_has_moved_goes_on_where_the_store_is_and_takes_nothing_fetched_before() -> None:
    lanes = await running(Lanes(TASKS[:1], 2))
    consumer, first = lanes.ctx.consumer, [lanes.batch(lane, one_event(lane)) for lane in (0, 1)]
    fetched_before = lanes.batch(0, records_of([(8, (0, 0, 1.0, True))], START))
    lanes.ctx.link.stored[0] = ELSEWHERE
    for batch in [*first, fetched_before]:
        lanes.lanes[batch.partition].put(batch)
    await consumer.until([1])
    while not consumer.rewound:
        await asyncio.sleep(0)
    assert consumer.rewound == [(0, 18)]
    lanes.next[0] = 18
    lanes.lanes[0].put(lanes.batch(0, records_of([(9, (0, 0, 1.0, True))], START)))
    await consumer.until([0, 1])
    sent = [orjson.loads(r.value)["event_id"] for r in lanes.ctx.records.sent[topics.PREDICTIONS, 0]]
    assert sent == ["e9"]
    assert lanes.lanes[0].next_offset == 19
    await stop(lanes)


class Poisoned(ScoringStage):
    """Cannot compute the features of one user."""

    def features_of(self, prepared: PreparedBatch) -> FeaturedBatch:
        if "u1-3" in prepared.batch.entities["user_id"]:
            raise ZeroDivisionError("of user 3")
        return super().features_of(prepared)


async def test_a_batch_that_cannot_be_computed_is_found_among_others_and_pauses_its_own_partition() -> None:
    lanes = await running(Lanes(TASKS[:1], LANES, stage=Poisoned))
    consumer = lanes.ctx.consumer
    records = [records_of([(lane + 1, (lane, 3 * (lane == 1), 1.0, True))], START) for lane in range(LANES)]
    for lane in range(LANES):
        lanes.lanes[lane].put(lanes.batch(lane, records[lane]))
    while len(consumer.rewound) < LANES:
        await asyncio.sleep(0)
    assert consumer.rewound == [(lane, None) for lane in range(LANES)]  # nothing was stored yet
    lanes.next = [0] * LANES
    for lane in range(LANES):  # they come again
        lanes.lanes[lane].put(lanes.batch(lane, records[lane]))
    await consumer.until([0, 2])
    while not lanes.ctx.failed:
        await asyncio.sleep(0)
    assert [(lane, str(error)) for lane, error in lanes.ctx.failed.items()] == [(1, "of user 3")]
    assert computations(lanes) == 1 + LANES, "each by itself"
    for lane in (0, 2):
        lanes.lanes[lane].put(lanes.batch(lane, one_event(lane)))
    await consumer.until([0, 0, 2, 2])
    assert computations(lanes) == 2 + LANES, "and then together again"
    await stop(lanes)


async def test_what_is_wrong_with_the_store_is_wrong_with_the_process() -> None:
    class Gone(ScoringStage):
        def features_of(self, prepared: PreparedBatch) -> FeaturedBatch:
            del prepared
            raise StoreUnavailable("it is away")

    lanes = await running(Lanes(TASKS[:1], 2, stage=Gone))
    for lane in (0, 1):
        lanes.lanes[lane].put(lanes.batch(lane, one_event(lane)))
    while not lanes.ctx.crashed:
        await asyncio.sleep(0)
    assert [type(error) for error in lanes.ctx.crashed] == [StoreUnavailable]
    assert not lanes.ctx.failed
    assert not lanes.ctx.consumer.rewound
    await stop(lanes)


async def test_a_lane_that_is_refused_again_and_again_pauses() -> None:
    lane = (await Lanes(TASKS[:1], 1).open()).lanes[0]
    moved = LaneMoved((topics.USER_EVENTS, 0), 18_626, 18_582)
    for _ in range(MOST_REFUSALS):
        lane._note_refusal(moved)
    lane._note_refusal(LaneMoved((topics.USER_EVENTS, 0), 7, 5))
    for _ in range(MOST_REFUSALS):
        lane._note_refusal(moved)
    with pytest.raises(StateError, match="went back each time: see whether another worker"):
        lane._note_refusal(moved)


@pytest.mark.parametrize("appended", [False, True])
async def test_a_clock_ahead_is_judged_by_the_brokers_time_or_ours_never_by_its_own(appended: bool) -> None:
    """The producer's record time has the clock of its events: 30 days ahead, too, where the broker did not stamp it."""

    lanes = await Lanes([SPEND], 1).open()
    lane, now, ahead = lanes.lanes[0], NOW, NOW + 30 * 86_400.0
    good = records_of([(i, (0, i, 1.0, True)) for i in range(1, 5)], now - 60.0)
    bad = records_of([(8 + i, (0, i, 1.0, True)) for i in range(1, 5)], ahead)
    behind = records_of([(15 + i, (0, i, 1.0, True)) for i in range(1, 5)], now - 50.0)
    stamped = [Record(r.key, r.value, now if appended else r.ts) for r in (*good, *bad, *behind)]
    batch = replace(lanes.batch(0, stamped), appended=appended)
    lane.admit(batch, lane.decode([r.value for r in batch.records]))
    assert (lane.intake.ahead, lane.intake.late) == (4, 0)
    assert lane.intake.watermark == now - 46.0
