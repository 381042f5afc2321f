"""What the timers of score lanes hold, read before lanes are emptied; no broker and no store are needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
import pytest

from tests.streams.lane_context import Context
from weir.online.labels.repeated_silence import timers_of
from weir.online.stages.scoring import ScoringStage
from weir.online.task.spec import TaskSpec
from weir.streams.errors import StateError
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.consume.offset_tracker import Ticket
from weir.streams.kafka.partitioners import partitions_of_text
from weir.streams.records import Record
from weir.streams.redis.partitions.partition_record import POSITION_AND_NONCE, LaneRecord, encode_record
from weir.streams.redis.partitions.partition_store import Lane, LaneStore
from weir.streams.worker.scoring.batch_scoring import Scoring
from weir.streams.worker.scoring.event_partition import ScoreLane
from weir.streams.worker.timer_move import TimerMove

STREAM, BEFORE, AFTER = "user-events", 2, 3
USERS = [f"u{n}" for n in range(12)]
T0 = 1.7e9
Due = dict[str, float]
"""When the score after a pause is due, by user."""


def task_of(name: str) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": name, "stream": STREAM, "entity": "user", "numbers": ["amount"], "inputs": ["amount"],
            "entities": [{"name": "user", "key": "user_id"}], "model": {"kind": "logistic"},
            "labels": {"silence": {"score": "after 10h", "horizon_s": 10.0}},
        }
    )  # fmt: skip


class Kept:
    """What a rebuild keeps, as long as it lives."""

    def __init__(self) -> None:
        self.noted: dict[Lane, dict[str, bytes]] = {}

    async def timers(self, lane: Lane) -> dict[str, bytes] | None:
        return self.noted.get(lane)

    async def note_timers(self, lane: Lane, timers: Mapping[str, bytes]) -> None:
        self.noted[lane] = dict(timers)


class Deployment:
    """Two partitions of events, and the lanes that workers left: records and journals by lane."""

    def __init__(self, *tasks: str) -> None:
        self.tasks = [task_of(name) for name in tasks]
        self.stored: dict[str, tuple[bytes, list[bytes]]] = {}
        self.logs: dict[int, list[Record]] = {0: [], 1: []}
        self.ctx = cast(Any, Context())
        self.ctx.tasks, self.ctx.link, self.prefix = self.tasks, self, "w"
        self.ctx.store, self.ctx.topics = LaneStore(cast(Any, self)), SimpleNamespace(check=self.checked)
        self.kept, self.foreign = Kept(), set[Lane]()

    async def checked(self, lane: Lane) -> None:
        if lane in self.foreign:
            raise StateError("the stored position is of a topic that is gone")

    async def execute(self, command: str, key: str, *of: Any) -> Any:
        value, journal = self.stored.get(key.rpartition(":")[0], (b"", []))
        if command == "LRANGE":
            return journal[of[0] : of[1] + 1]
        return (value or None) if command == "GET" else value[POSITION_AND_NONCE]

    # -- the host of lanes -----------------------------------------------------------------------------------------

    def declare(self, partitions: int) -> None:
        self.ctx.partitions = partitions

    def row_lane(self, lane: Lane) -> ScoreLane:
        scoring = Scoring(self.ctx, lambda rows: [ScoringStage(task, rows, side=True) for task in self.tasks])
        return ScoreLane(
            lane, self.ctx, lambda: [ScoringStage(t, self.ctx.store, side=True) for t in self.tasks], scoring
        )

    # -- what workers did ------------------------------------------------------------------------------------------

    def say(self, hours: Mapping[str, float]) -> None:
        """One event of each of these users, at its hour."""
        for user, hour in hours.items():
            event = {"v": 1, "event_id": f"{user}-{hour}", "type": "view", "user_id": user, "ts": T0 + hour * 3600.0}
            record = Record(user.encode(), orjson.dumps(event), T0)
            self.logs[int(partitions_of_text([user], BEFORE)[0])].append(record)

    async def work(self, *, but: int = 0) -> None:
        """Take all that was said; of partition 1, all ``but`` the last ones."""
        self.declare(BEFORE)
        for partition, log in self.logs.items():
            end = len(log) - (but if partition == 1 else 0)
            lane = self.row_lane((STREAM, partition))
            lane.restore(None, [])
            taken = [(lane, self.batch(lane.lane, 0, end))]
            (made,) = lane._scoring._admit(taken, self.ctx.metrics.stages("score"))
            journal = made.journal
            record = LaneRecord(next_offset=end, mark=lane.mark(), journal=len(journal))
            self.stored[f"w:{{{STREAM}-{partition}}}"] = encode_record(record), journal

    def batch(self, lane: Lane, first: int, end: int) -> FetchedBatch:
        return FetchedBatch(*lane, first, end, self.logs[lane[1]][first:end], Ticket(cast(Any, lane), first, end, 0))

    # -- the move --------------------------------------------------------------------------------------------------

    async def bounds(self, lane: Lane) -> tuple[int, int]:
        return 0, len(self.logs[lane[1]])

    async def batches(self, lane: Lane, first: int, end: int) -> AsyncIterator[FetchedBatch]:
        if first < end:
            yield self.batch(lane, first, end)

    async def moved(self, task: str = "a") -> list[Due]:
        move = TimerMove(cast(Any, self), cast(Any, self.kept), self.bounds, self.batches, BEFORE, AFTER)
        return [self.due(timers.get(task), task) for timers in await move.timers_of(STREAM)]

    def due(self, snapshot: bytes | None, task: str) -> Due:
        policy = next(of.labels.silence for of in self.tasks if of.name == task)
        assert policy is not None
        timers = timers_of(policy)
        if snapshot is not None:
            timers.restore(snapshot)
        out = timers.flush(T0 + 1e9)
        return {i.split("@")[0]: (t - T0) / 3600.0 for i, t in zip(out.event_id, out.due_ts.tolist(), strict=True)}


HOURS = {user: n / 20 for n, user in enumerate(USERS)}


def everyone(hours: Mapping[str, float]) -> list[Due]:
    """Each user where it is by now."""
    owners = partitions_of_text([*hours], AFTER).tolist()
    made: list[Due] = [{} for _ in range(AFTER)]
    for (user, hour), owner in zip(hours.items(), owners, strict=True):
        made[owner][user] = pytest.approx(hour + 10.0)
    return made


async def test_timers_go_where_their_entities_are_and_are_kept_for_a_rebuild_that_is_run_again() -> None:
    deployment = Deployment("a")
    deployment.say(HOURS)
    await deployment.work()
    assert await deployment.moved() == everyone(HOURS)
    deployment.stored.clear()
    deployment.logs = {0: [], 1: []}
    assert await deployment.moved() == everyone(HOURS), "the lanes were emptied, and retention took the events"


async def test_what_a_lane_holds_counts_and_not_what_the_topic_still_has() -> None:
    deployment = Deployment("a")
    deployment.say(HOURS)
    await deployment.work()
    for log in deployment.logs.values():
        log[:] = [Record(b"", b"", T0)] * len(log)
    assert await deployment.moved() == everyone(HOURS)


async def test_events_that_were_taken_and_that_the_store_lost_are_seen_first() -> None:
    """Redis lost its last second, and the group had committed."""
    deployment = Deployment("a")
    deployment.say(HOURS)
    await deployment.work(but=1)
    assert await deployment.moved() == everyone(HOURS)


@pytest.mark.parametrize("why", ["gone", "damaged", "cut", "another topic"])
async def test_a_lane_that_is_lost_sees_the_events_of_its_partition(why: str) -> None:
    deployment = Deployment("a")
    deployment.say(HOURS)
    await deployment.work()
    key = f"w:{{{STREAM}-1}}"
    value, journal = deployment.stored.pop(key)
    if why == "damaged":
        deployment.stored[key] = value[:30], journal
    elif why == "cut":
        deployment.stored[key] = value, []
    elif why == "another topic":
        deployment.stored[key] = value, journal
        deployment.foreign.add((STREAM, 1))
    deployment.logs[0] = []  # of the other nothing is read
    assert await deployment.moved() == everyone(HOURS)


async def test_where_all_are_lost_and_of_a_new_task_events_say_it() -> None:
    deployment = Deployment("a")
    deployment.say(HOURS)
    assert await deployment.moved() == [{}] * AFTER
    assert not deployment.kept.noted
    await deployment.work()
    deployment.tasks.append(task_of("b"))
    deployment.ctx.tasks = deployment.tasks
    assert await deployment.moved("b") == [{}] * AFTER
    assert await deployment.moved("a") == everyone(HOURS)


async def test_nothing_has_another_owner_where_misplaced_records_are_kept() -> None:
    deployment = Deployment("a")
    topics = deployment.ctx.settings.topics.model_copy(update={"misplaced": "keep"})
    deployment.ctx.settings = deployment.ctx.settings.model_copy(update={"topics": topics})
    deployment.say(HOURS)
    await deployment.work()
    found = await deployment.moved()
    assert [len(due) for due in found] == [*np.bincount(partitions_of_text(USERS, BEFORE)).tolist(), 0]
