"""Topics that are given more partitions while timers of silence run: every timer fires once, at its time.

From two partitions to five. Half of the users fell silent, so that one partition's time is hours behind the other's:
what has fired in one is yet to come in the new partition of its entity, and what is to come has passed there.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
import redis

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import unique
from tests.integration.test_more_partitions import AFTER, BEFORE, kill_at, raise_partitions
from tests.integration.worker_process import Watcher, Worker, run_weir
from weir.online.event_time import EventTime
from weir.online.intake_policy import MAX_STEP
from weir.streams.config import topics
from weir.streams.kafka.partitioners import partitions_of_text
from weir.streams.redis.partitions.partition_record import CLEARING

pytestmark = pytest.mark.integration

HOUR, DAY = 3600.0, 86_400.0
USERS = [f"user-{n}" for n in range(60)]
SILENCE = {
    "first": 'observe_s = "6h"\nhorizon_s = "12h"\nremember_s = "1d"',
    "each": 'score = "each event"\nhorizon_s = "8h"',
    "after": 'score = "after 6h"\nhorizon_s = "12h"',
    "daily": 'score = "daily 18:00"\nhorizon_s = "1d"\nremember_s = "2d"',
}
TASK = """name = "{name}"
stream = "user-events"
entity = "user"
inputs = ["user.seen_count_1h", "user.seen_since_last"]
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "seen"
ops = ["count", "since_last"]
windows = ["1h"]
panes = 6
[model]
kind = "logistic"
[labels.silence]
{silence}
[labels.join]
chunk_rows = 16
keep_s = "30d"
wait_s = "30d"
"""
Event = tuple[str, str, float]
"""Its id, its user and its time."""
Score = tuple[str, str, float]
"""Task, event id and time."""
Label = tuple[str, str, bool]
"""Task, event id and value."""


def stream() -> tuple[list[Event], int]:
    """Events of four days in the order of time, and how many come before the partitions are added."""
    rng = np.random.default_rng(8)
    # 19:00 UTC, so that the first daily scores come when every partition has long begun.
    start = math.floor((time.time() - 6 * DAY) / DAY) * DAY + 19 * HOUR
    cut, end = start + 3 * DAY + HOUR, start + 4.2 * DAY
    was, will = partitions_of_text(USERS, BEFORE), partitions_of_text(USERS, AFTER)
    # So that no partition's time stands still for longer than an event may move it, but for the silence to come.
    steady = {int(np.flatnonzero((was == 0) & (will == partition))[0]) for partition in range(AFTER)}
    steady.add(int(np.flatnonzero(was == 1)[0]))
    made = []
    for number, user in enumerate(USERS):
        at = start + rng.uniform(0.0, HOUR / 2)
        while at < end:
            # Partition 1 of before stands still for nine hours before the change, and the last of then for seven.
            quiet_h = 9 if was[number] == 1 else 7 if will[number] == AFTER - 1 else 0
            if not (quiet_h and cut - quiet_h * HOUR < at < cut + 2 * HOUR):
                made.append((user, round(at, 3)))
            pause = rng.exponential(2 * HOUR) if rng.random() < 0.8 else rng.uniform(6 * HOUR, 30 * HOUR)
            at += HOUR * rng.uniform(0.7, 0.9) if number in steady else pause
    made.sort(key=lambda row: row[1])
    return [(f"e{n}", *row) for n, row in enumerate(made)], sum(at < cut for _, at in made)


def expected(events: list[Event], partitions: int) -> tuple[set[Score], set[Label]]:
    """What is scored and told where so many partitions were there from the start, with each whole stream in view."""
    owners = partitions_of_text([user for _, user, _ in events], partitions).tolist()
    scores, labels = set[Score](), set[Label]()
    for partition in range(partitions):
        own = [event for event, owner in zip(events, owners, strict=True) if owner == partition]
        marks = EventTime(MAX_STEP).advance(np.array([at for *_, at in own]), [user for _, user, _ in own])
        _expected(own, np.maximum.accumulate(marks).tolist(), scores, labels)
    return scores, labels


def _expected(own: list[Event], marks: list[float], scores: set[Score], labels: set[Label]) -> None:
    end = marks[-1]
    for user in {user for _, user, _ in own}:
        seen = [(name, at, mark) for (name, who, at), mark in zip(own, marks, strict=True) if who == user]
        times = [at for _, at, _ in seen]

        def back(least: float, stop: float, times: list[float] = times) -> bool:
            return any(least <= at < stop for at in times)

        held_until = -math.inf
        for _, at, mark in seen:
            if mark < held_until:
                continue
            due, name = at + 6 * HOUR, f"{user}@{at:.0f}"
            held_until = due + 12 * HOUR + DAY
            if due <= max(end, times[-1]):
                scores.add(("first", name, due))
                if back(due, due + 12 * HOUR):
                    labels.add(("first", name, False))
                elif due + 12 * HOUR <= end:
                    labels.add(("first", name, True))
        for name, at, _ in seen:
            scores.add(("each", name, at))
            if at + 8 * HOUR <= end:
                labels.add(("each", name, not back(np.nextafter(at, math.inf), at + 8 * HOUR)))
            due, after = at + 6 * HOUR, f"{user}@{at + 6 * HOUR:.15g}"
            if not back(np.nextafter(at, math.inf), due) and due <= max(end, times[-1]):
                scores.add(("after", after, due))
                if due + 12 * HOUR <= end:
                    labels.add(("after", after, not back(due, due + 12 * HOUR)))
        first = math.floor((own[2][2] - 18 * HOUR) / DAY) + 1
        for tick in np.arange(first * DAY + 18 * HOUR, end + 1e-6, DAY).tolist():
            row = next(row for row, mark in enumerate(marks) if mark >= tick)
            before = [at for _, who, at in own[:row] if who == user]
            if before and before[0] < tick <= before[-1] + 2 * DAY:
                daily = f"{user}@{tick:.15g}"
                scores.add(("daily", daily, tick))
                if tick + DAY <= end:
                    # Those that came before the time was believed are before the score.
                    labels.add(
                        ("daily", daily, not back(tick, tick + DAY, [at for _, who, at in own[row:] if who == user]))
                    )


def send(watcher: Watcher, events: list[Event]) -> None:
    """With the times of the events, as if they had come then: by those a rebuild goes."""
    for name, user, at in events:
        value = {"v": 1, "event_id": name, "type": "purchase", "user_id": user, "ts": at, "amount": 5.0}
        watcher.send(topics.USER_EVENTS, [(user.encode(), orjson.dumps(value))], at)


def found(deployment: Deployment) -> tuple[Counter[Score], Counter[Label]]:
    """How often each score and each label was told."""
    predictions = [orjson.loads(r.record.value) for log in deployment.read(topics.PREDICTIONS).values() for r in log]
    labels = [orjson.loads(r.record.value) for log in deployment.read(topics.LABELS).values() for r in log]
    return (
        Counter((p["task"], p["event_id"], p["ts"]) for p in predictions),
        Counter((label["task"], label["event_id"], bool(label["value"])) for label in labels),
    )


def moments(store: redis.Redis, prefix: str) -> list[Callable[[], bool]]:
    """When timers are kept, of one partition and of all; when a lane is emptied; when one that is new is filled."""
    kept = f"{prefix}:{{identity}}:rebuild"
    lanes = [f"{prefix}:{{user-events-{partition}}}:lane" for partition in range(AFTER)]
    before = [store.get(lane) for lane in lanes]
    return [
        lambda: bool(store.hexists(kept, "timers:user-events-0")),
        lambda: store.get(lanes[0]) not in (before[0], None, CLEARING),
        lambda: bool(store.exists(lanes[2])),
    ]


@pytest.fixture
def deployment(kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path) -> Deployment:
    tasks = []
    for name, silence in SILENCE.items():
        tasks.append(tmp_path / f"{name}.toml")
        tasks[-1].write_text(TASK.format(name=name, silence=silence))
    return Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("timers"), partitions=BEFORE, tasks=tuple(tasks),
        worker={"web_port": "auto"},
    )  # fmt: skip


@pytest.mark.parametrize("clean", [True, False], ids=["ended", "killed"])
def test_every_timer_fires_once_as_if_there_had_been_so_many_partitions_from_the_start(
    deployment: Deployment, redis_server: RedisServer | NamedRedis, tmp_path: Path, clean: bool
) -> None:
    """Though the rebuild was killed, and run twice; a worker that was killed repeats what it had not completed."""
    events, cut = stream()
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "before.log") as worker:
        send(watcher, events[:cut])
        watcher.settle(worker)
        if clean:
            assert worker.end() == 0
        else:
            worker.process.kill()
            worker.process.wait()
    raise_partitions(deployment)
    store = redis.Redis.from_url(redis_server.url)
    for number, moment in enumerate(moments(store, deployment.settings.redis.prefix)):
        kill_at(deployment, moment, tmp_path / f"killed-{number}.log")
    for _ in range(2):
        built = run_weir(deployment, "features", "rebuild", "--yes")
        assert built.status == 0, built.err
    assert not [*store.scan_iter(f"{deployment.settings.redis.prefix}:{{identity}}:rebuild*")], "it leaves nothing"
    at_move = found(deployment)[0]
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "after.log") as worker:
        send(watcher, events[cut:])
        watcher.settle(worker)
        assert worker.end() == 0
    scores, labels = expected(events, AFTER)
    told = found(deployment)
    _check_that_clocks_differ(events[:cut], {*at_move})
    assert {*told[0]} == scores
    assert {*told[1]} == labels
    if clean:
        assert {*told[0].values(), *told[1].values()} == {1}
    made = [orjson.loads(stored.record.value) for stored in deployment.read(topics.EXAMPLES)[0]]
    learned = Counter((e["task"], e["event_id"], bool(e["value"])) for e in made)
    assert {*learned} == labels
    assert {*learned.values()} == {1}, "each is learned once"


def _check_that_clocks_differ(events: list[Event], fired: set[Score]) -> None:
    """Or the test shows nothing: by five partitions some had fired that did not by two, and the other way round."""
    asked = {(task, name, at) for task, name, at in expected(events, AFTER)[0] if task != "each"}
    fired = {score for score in fired if score[0] != "each"}
    for task in ("first", "after", "daily"):
        assert {score for score in asked - fired if score[0] == task}, f"{task}: none was about to fire"
    assert fired - asked, "none had fired already"
