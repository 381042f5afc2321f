"""Events and labels in partitions that do not own their keys: seen, counted, passed on once, counted once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, cast

import orjson
import pytest

from tests.streams.score_lanes import NOW, Context, Lanes, Outbox
from weir.online.batch import IntVector
from weir.online.codec.predictions import ScoredShape
from weir.online.stages.labelling import LabelOutput
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.kafka_errors import RecordTooLarge
from weir.streams.kafka.partitioners import partitions_of
from weir.streams.kafka.produce.producer import Sent
from weir.streams.kafka.produce.record_batches import Columns
from weir.streams.records import Record
from weir.streams.redis.partitions.label_journal import OffsetRange as TakenStep
from weir.streams.redis.partitions.label_journal import StoredLane
from weir.streams.worker.labelling.publisher import Made, StepPublisher
from weir.streams.worker.labelling.step_reader import LaneReader
from weir.streams.worker.lanes.step_writer import PendingWrite

START = 1.7e9
LANES = 3
TASK = TaskSpec.from_toml("""
name = "spend"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "seen"
value = "amount"
ops = ["count", "sum"]
windows = ["1h"]
[model]
kind = "logistic"
""")


def event(number: int, user: str) -> Record:
    value = {"v": 1, "event_id": f"e{number}", "type": "buy", "ts": START + number, "amount": 1.0, "user_id": user}
    return Record(b"", orjson.dumps(value), START + number)


def owner(user: str) -> int:
    return int(partitions_of([user.encode()], LANES)[0])


USERS = [f"user-é{n}" if n % 4 == 0 else f"user-{n}" for n in range(12)]


async def lanes_of(misplaced: str = "forward") -> Lanes:
    lanes = Lanes([TASK], LANES)
    lanes.ctx.settings = Settings.model_validate({"topics": {"misplaced": misplaced}})
    lanes.ctx.partitions = lanes.ctx.records.partitions = LANES
    return await lanes.open()


async def put(lanes: Lanes, at: dict[int, list[Record]]) -> list[PendingWrite]:
    """A batch for each of some lanes."""
    made = await lanes.compute([lanes.batch(lane, records) for lane, records in at.items()])
    steps = [step for step in made if isinstance(step, PendingWrite)]
    assert len(steps) == len(made)
    for step in steps:
        lanes.lanes[step.batch.partition].next_offset = step.batch.next_offset
    return steps


def features(lanes: Lanes) -> dict[str, tuple[int, Any]]:
    """By event, the partition that scored it and what from; each is there once."""
    found: dict[str, tuple[int, Any]] = {}
    for (topic, partition), records in lanes.ctx.records.sent.items():
        for record in records if topic == topics.PREDICTIONS else ():
            made = orjson.loads(record.value)
            assert made["event_id"] not in found
            found[made["event_id"]] = partition, made["features"]
    return found


def copies(lanes: Lanes, topic: str = topics.USER_EVENTS) -> list[Record]:
    """What was passed on, partition after partition."""
    sent = lanes.ctx.records.sent
    return [record for at in range(LANES) for record in sent.get((topic, at), ())]


def by_owner(records: Sequence[Record]) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = {}
    for record in records:
        found.setdefault(int(partitions_of([record.key], LANES)[0]), []).append(record)
    return found


async def test_events_without_keys_are_scored_once_by_their_owners_as_if_they_had_been_sent_there() -> None:
    events = [event(n, USERS[n % len(USERS)]) for n in range(48)]
    right, spread = await lanes_of(), await lanes_of()
    await put(right, by_owner([r._replace(key=orjson.loads(r.value)["user_id"].encode()) for r in events]))
    for start in range(0, 48, 12):
        part = events[start : start + 12]
        await put(spread, {lane: part[lane::LANES] for lane in range(LANES)})
        passed_on = copies(spread)
        for at in range(LANES):
            spread.ctx.records.sent.pop((topics.USER_EVENTS, at), None)
        await put(spread, by_owner(passed_on))
        assert not copies(spread), "what was passed on is where it belongs"
    scored = features(spread)
    assert scored.keys() == features(right).keys() == {f"e{n}" for n in range(48)}
    assert all(at == owner(USERS[int(e[1:]) % len(USERS)]) for e, (at, _) in scored.items())
    last = {e: found for e, found in features(right).items() if int(e[1:]) >= 36}
    assert {e: scored[e] for e in last} == last, "the windows hold the same events"


async def test_a_copy_has_the_value_and_the_entity_as_its_key_and_what_it_waits_for_is_waited_for() -> None:
    lanes = await lanes_of()
    user = next(u for u in USERS if owner(u) == 1)
    sent = event(1, user)
    (step,) = await put(lanes, {0: [Record(b"", b"{}", START), sent]})
    assert copies(lanes) == [Record(user.encode(), sent.value, NOW)]
    assert await asyncio.wait_for(step.acknowledged, 1) is not None
    assert lanes.ctx.metrics.counter("weir_misplaced_total", topic=topics.USER_EVENTS).value == 1
    (letter,) = lanes.ctx.records.sent[topics.DEAD_LETTERS, -1]
    assert orjson.loads(letter.value)["offset"] == 0, "what cannot be read stays where it is"


async def test_a_batch_that_is_repeated_after_a_crash_passes_its_copy_on_again_and_it_is_a_repeat_there() -> None:
    lanes = await lanes_of()
    user = next(u for u in USERS if owner(u) == 1)
    for _ in range(2):  # nothing of it was written, so it comes again
        await put(lanes, {0: [event(1, user)]})
    await put(lanes, {1: copies(lanes)})
    assert features(lanes).keys() == {"e1"}
    assert lanes.ctx.metrics.counter("weir_duplicates_total", topic=topics.USER_EVENTS).value == 1


@pytest.mark.parametrize(
    ("misplaced", "count", "why"),
    [("refuse", LANES, 'misplaced = "refuse"'), ("forward", 2 * LANES, f"{2 * LANES} partitions by now")],
)
async def test_what_may_not_be_passed_on_is_a_dead_letter_that_says_why(misplaced: str, count: int, why: str) -> None:
    lanes = await lanes_of(misplaced)
    lanes.ctx.records.partitions = count
    user = next(u for u in USERS if owner(u) == 1)
    await put(lanes, {0: [event(1, user)]})
    assert not copies(lanes)
    assert not features(lanes)
    (letter,) = lanes.ctx.records.sent[topics.DEAD_LETTERS, -1]
    reason = orjson.loads(letter.value)["reason"]
    assert reason.startswith(f"misplaced: {user!r} belongs to partition 1 of user-events, not 0")
    assert why in reason
    refused = lanes.ctx.metrics.counter("weir_dead_letters_total", topic=topics.USER_EVENTS, reason="misplaced")
    assert refused.value == 1


async def test_producers_that_all_use_another_partitioner_can_be_left_alone() -> None:
    lanes = await lanes_of("keep")
    await put(lanes, {0: [event(n, user) for n, user in enumerate(USERS)]})
    assert {at for at, _ in features(lanes).values()} == {0}
    assert not copies(lanes)


async def test_one_record_that_does_not_fit_with_its_key_keeps_no_other_back() -> None:
    class Narrow(Outbox):
        async def send_parts(
            self, topic: str, columns: Columns, parts: Sequence[tuple[int, IntVector]]
        ) -> list[asyncio.Future[list[Sent]]]:
            for index in range(len(columns)):
                if b'"e2"' in columns.record(index).value and topic == topics.USER_EVENTS:
                    raise RecordTooLarge("too large", index)
            return await super().send_parts(topic, columns, parts)

    lanes = await lanes_of()
    lanes.ctx.records = Narrow()
    lanes.ctx.records.partitions = LANES
    user = next(u for u in USERS if owner(u) == 1)
    await put(lanes, {0: [event(n, user) for n in range(4)]})
    assert [orjson.loads(r.value)["event_id"] for r in copies(lanes)] == ["e0", "e1", "e3"]
    (letter,) = lanes.ctx.records.sent[topics.DEAD_LETTERS, -1]
    assert "too large" in orjson.loads(letter.value)["reason"]


async def test_a_topic_is_warned_of_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        lanes, clock = await lanes_of(), [100.0]
        lanes.ctx.metrics.now = lambda: clock[0]
        user = next(u for u in USERS if owner(u) == 1)
        for number in range(4):
            await put(lanes, {0: [event(number, user)]})
            clock[0] += 25.0
        told = [r.getMessage() for r in caplog.records if "does not own" in r.getMessage()]
        assert len(told) == 2
        assert repr(user) in told[0]
        assert "partition 0 and belongs to 1" in told[0]
        assert "murmur2_random" in told[0]
        assert "3 records" in told[1], "those in between are counted"


# -- labels ------------------------------------------------------------------------------------------------------------


class Steps:
    """A journal that takes everything."""

    async def append(self, first_number: int, steps: Sequence[TakenStep]) -> None:
        """It is not looked at."""

    async def done(self, number: int) -> None:
        """It is not looked at."""


def label(number: int, user: str, task: str = "spend") -> Record:
    value = {"v": 1, "task": task, "entity_id": user, "event_id": f"e{number}", "ts": START, "value": 1}
    return Record(user.encode(), orjson.dumps(value), START)


def decoded(ctx: Context, partition: int, records: Sequence[Record]) -> Any:
    shape = ScoredShape(("x",), 0, 0, ())
    reader = LaneReader(partition, cast(Any, ctx), {"spend": shape}, cast(Any, None))
    return reader.decode_step(TakenStep(topics.LABELS, 7, 7 + len(records)), Slice(range(7, 99), records))


def labels_context(misplaced: str = "forward") -> Context:
    ctx = Context(settings=Settings.model_validate({"topics": {"misplaced": misplaced}}))
    ctx.partitions = ctx.records.partitions = LANES
    return ctx


async def test_labels_in_another_partition_are_not_taken_there_and_passed_on_with_the_step() -> None:
    ctx = labels_context()
    users = {at: next(u for u in USERS if owner(u) == at) for at in range(LANES)}
    records = [label(n, users[n]) for n in range(LANES)]
    work = decoded(ctx, 0, records)
    assert work.labels["spend"].entity_id == [users[0]]
    await published(ctx, work)
    passed_on = [record for at in (1, 2) for record in ctx.records.sent[topics.LABELS, at]]
    assert passed_on == [Record(users[n].encode(), records[n].value, NOW) for n in (1, 2)]
    assert (topics.DEAD_LETTERS, -1) not in ctx.records.sent
    for copy in passed_on:
        again = decoded(ctx, owner(copy.key.decode()), [copy])
        assert len(again.labels["spend"]) == 1
        assert not again.astray


async def published(ctx: Context, work: Any) -> None:
    publisher = StepPublisher(0, cast(Any, ctx), cast(Any, Steps()), {"spend": ("x",)})
    running = asyncio.ensure_future(publisher.run(StoredLane(None, 0, [], 0)))
    await publisher.put(Made(1, work, {"spend": LabelOutput()}))
    await publisher.until(1)
    running.cancel()


async def test_labels_that_may_not_be_passed_on_are_dead_letters_with_their_own_offsets() -> None:
    ctx = labels_context("refuse")
    user = next(u for u in USERS if owner(u) == 2)
    await published(ctx, decoded(ctx, 0, [Record(b"", b"{}", START), label(1, user)]))
    letters = [orjson.loads(r.value) for r in ctx.records.sent[topics.DEAD_LETTERS, -1]]
    assert sorted(letter["offset"] for letter in letters) == [7, 8]
    assert any(letter["reason"].startswith("misplaced: ") for letter in letters)


def test_labels_of_tasks_that_run_elsewhere_are_left_to_them() -> None:
    ctx = labels_context()
    users = [next(u for u in USERS if owner(u) == at) for at in (0, 2)]
    work = decoded(ctx, 0, [label(1, users[0], "others"), label(2, users[1], "others"), label(3, users[0])])
    assert {task: len(of) for task, of in work.labels.items()} == {"spend": 1}
    assert not work.astray
