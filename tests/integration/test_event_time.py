"""Clocks that are wrong and partitions that stand still, on real brokers: nobody else notices, and silence is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker, eventually
from tests.integration.redis_server import RedisServer
from tests.integration.streamed import KeyValue, unique
from tests.integration.worker_process import Watcher, Worker
from weir.streams.config import topics
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.admin.cluster import create_topics, read_topics
from weir.streams.kafka.admin.topic_specs import wanted_topics
from weir.streams.kafka.partitioners import partitions_of

pytestmark = pytest.mark.integration
HOUR, DAY = 3_600.0, 86_400.0


def view(number: int, user: str, ts: float) -> KeyValue:
    event = {"v": 1, "event_id": f"e{number}", "type": "view", "user_id": user, "ts": ts, "amount": 1.0}
    return user.encode(), orjson.dumps(event)


def user_of(partition: int, word: str) -> str:
    """A user whose events go to a partition of two."""
    names = [f"{word}{i}" for i in range(99)]
    return next(n for n, p in zip(names, partitions_of([n.encode() for n in names], 2), strict=True) if p == partition)


def values(deployment: Deployment, topic: str) -> list[Any]:
    return [orjson.loads(s.record.value) for held in deployment.read(topic).values() for s in held]


def test_silence_is_found_in_a_partition_where_nothing_happens(
    kafka: Broker, new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """One user was seen once, twenty hours ago, in a partition of his own; others go on in the other one.

    The worker is killed once his example is there: its successor takes the same steps, and nothing comes twice.
    """
    quiet, busy = user_of(0, "quiet"), user_of(1, "busy")
    deployment = Deployment.create(
        tmp_path,
        kafka,
        new_redis().url,
        prefix=unique("idle"),
        partitions=2,
        tasks=("quiet",),
        worker={"idle_after": 1},
    )
    now, log = time.time(), tmp_path / "worker.log"
    rows = [view(0, quiet, now - 20 * HOUR), *[view(1 + i, busy, now - 20 * HOUR + 600.0 * i) for i in range(120)]]

    def told() -> list[tuple[str, int]]:
        found = [(e["entity_id"], e["value"]) for e in values(deployment, topics.EXAMPLES)]
        return [example for example in found if example[0] == quiet]

    with Watcher(deployment) as watcher:
        watcher.send(topics.USER_EVENTS, rows)
        with Worker(deployment, log) as worker:
            worker.until(told, "the silent user has an example")
            worker.process.kill()
        with Worker(deployment, log) as worker:
            watcher.settle(worker)
            # Late by the time that passed, but not by any event's: it counts.
            watcher.send(topics.USER_EVENTS, [view(999, user_of(0, "newcomer"), now - 19 * HOUR)])
            watcher.settle(worker)
            newcomer = user_of(0, "newcomer")
            worker.until(
                lambda: newcomer in {p["entity_id"] for p in values(deployment, topics.PREDICTIONS)}, "he is scored"
            )
            assert worker.end() == 0
    assert told() == [(quiet, 1)]
    assert values(deployment, topics.DEAD_LETTERS) == []
    scored = [p["event_id"] for p in values(deployment, topics.PREDICTIONS) if p["entity_id"] == quiet]
    assert set(scored) == {f"{quiet}@{now - 20 * HOUR:.0f}"}


@pytest.mark.parametrize("stamped", ["CreateTime", "LogAppendTime"])
def test_a_clock_30_days_ahead_stops_nobody(
    kafka: Broker, new_redis: Callable[..., RedisServer], tmp_path: Path, stamped: str
) -> None:
    """Its records have the same clock, where brokers before Kafka 4 took them; what comes after is scored as ever."""
    deployment = Deployment.create(
        tmp_path, kafka, new_redis().url, prefix=unique("ahead"), partitions=2, tasks=("spend",)
    )
    name = deployment.settings.topics.name(topics.USER_EVENTS)
    remake(deployment, name, {"message.timestamp.after.max.ms": str(2**63 - 1), "message.timestamp.type": stamped})
    now, ahead = time.time(), time.time() + 30 * DAY
    users = [user_of(0, f"u{k}-") for k in range(5)]
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "worker.log") as worker:
        watcher.send(topics.USER_EVENTS, [view(i, users[i % 5], now - 600.0 + i) for i in range(20)])
        watcher.send(topics.USER_EVENTS, [view(100 + i, users[i % 5], ahead + i) for i in range(10)], ts=ahead)
        watcher.settle(worker)
        watcher.send(topics.USER_EVENTS, [view(200 + i, users[i % 5], now - 500.0 + i) for i in range(20)])
        watcher.settle(worker)
        assert worker.end() == 0
    letters = [letter["reason"] for letter in values(deployment, topics.DEAD_LETTERS)]
    assert len(letters) == 10
    assert all(reason.startswith("ahead: ") for reason in letters)
    scored = {p["event_id"] for p in values(deployment, topics.PREDICTIONS)}
    assert scored == {f"e{i}" for i in (*range(20), *range(200, 220))}


def remake(deployment: Deployment, topic: str, configs: Mapping[str, str]) -> None:
    """The topic with other settings: those of one that exists take effect some time after they are accepted."""
    with admin_client(deployment.settings.kafka) as admin:
        admin.delete_topics([topic])
        eventually(lambda: not read_topics(admin, [topic]), 30.0, "the topic is gone")
        (spec,) = [s for s in wanted_topics(deployment.settings.topics, 1) if s.name == topic]
        create_topics(admin, [replace(spec, configs={**spec.configs, **configs})], False)
