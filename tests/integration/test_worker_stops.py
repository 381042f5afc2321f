"""Workers that stop, start, hang or share the work by roles: nothing is lost, and nothing counts twice."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis

from tests.integration.chaos.checker import Checker
from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker, free_ports
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import (
    DAY,
    PARTITIONS,
    alerts_of,
    examples_of,
    simulated,
    unique,
)
from tests.integration.worker_process import Watcher, Worker
from weir.streams.config import topics

pytestmark = pytest.mark.integration

STOP_S = 10.0
"""What a clean stop may take beyond the drain, on a machine that does other things too."""


def test_a_scoring_and_a_labelling_worker_make_what_one_of_role_all_makes(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    one, two = (
        Deployment.create(
            tmp_path, kafka, redis_server.url, prefix=unique(name), partitions=PARTITIONS, tasks=("fraud", "spend")
        )
        for name in ("one", "two")
    )
    records = simulated(DAY)
    with (
        Watcher(one) as of_one,
        Watcher(two) as of_two,
        Worker(one, tmp_path / "all.log") as both,
        Worker(two, tmp_path / "score.log", "--role", "score") as score,
        Worker(two, tmp_path / "label.log", "--role", "label") as label,
    ):
        for topic in (topics.USER_EVENTS, topics.LABELS):  # labels after the scores: how they interleave is chance else
            for watcher, worker in ((of_one, both), (of_two, label)):
                watcher.send(topic, records[topic])
                watcher.settle(worker)
        assert [worker.end() for worker in (both, score, label)] == [0, 0, 0]
    made = [(examples_of(deployment), alerts_of(deployment)) for deployment in (one, two)]
    assert made[0] == made[1]
    examples, alerts = made[0]
    assert len(examples) > 100
    assert len(alerts) > 10


def test_a_clean_stop_in_the_middle_loses_and_repeats_nothing_and_repeats_are_known_after_it(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("stop"), partitions=PARTITIONS, tasks=("fraud", "quiet"),
        worker={"max_batch": 64},
    )  # fmt: skip
    records = simulated(DAY)
    events, labels = records[topics.USER_EVENTS], records[topics.LABELS]
    half, log = len(events) // 2, tmp_path / "worker.log"
    with Watcher(deployment) as watcher:
        with Worker(deployment, log) as first:
            first.until(lambda: "partitions assigned" in first.log, "it has partitions")
            watcher.send(topics.USER_EVENTS, events[:half])
            watcher.send(topics.LABELS, labels[: len(labels) // 2])
            first.until(lambda: sum(deployment.ends(topics.PREDICTIONS).values()), "it scores")
            asked = time.monotonic()
            assert first.end() == 0
            assert time.monotonic() - asked < deployment.settings.worker.drain_s + STOP_S
        with Worker(deployment, log) as second:
            watcher.send(topics.USER_EVENTS, events[half:])
            watcher.send(topics.LABELS, labels[len(labels) // 2 :])
            watcher.settle(second)
            before = watcher.rows()
            watcher.send(topics.USER_EVENTS, events[:half])
            watcher.settle(second)
            assert watcher.rows() == before
            assert second.end() == 0
    store = redis.Redis.from_url(redis_server.url)
    notes = Checker(deployment, store).check()
    assert notes["repeated predictions"] == {"fraud": 0, "quiet": 0}
    assert notes["duplicate events"] == half
    assert notes["examples"]["fraud"][0] > 50
    assert [again for _, again in notes["examples"].values()] == [0, 0]


def test_processes_of_one_command_share_the_work_and_a_killed_one_comes_back(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("several"), partitions=PARTITIONS, tasks=("fraud",),
        worker={"processes": 2, "instance_id": "several", "web_port": "auto"},
    )  # fmt: skip
    records = simulated(DAY)
    events, half = records[topics.USER_EVENTS], len(records[topics.USER_EVENTS]) // 2
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "worker.log") as worker:
        share = "[36] partitions assigned"  # of one or two numbers in three topics
        worker.until(lambda: all(re.search(rf"\[{n}\] \S+: {share}", worker.log) for n in (1, 2)), "a share each")
        watcher.send(topics.USER_EVENTS, events[:half])
        psutil.Process(worker.process.pid).children()[0].kill()
        watcher.send(topics.USER_EVENTS, events[half:])
        watcher.send(topics.LABELS, records[topics.LABELS])
        watcher.settle(worker)
        assert re.search(r"process [12] of 2 ended with status -9; it starts again in 1 s", worker.log)
        assert worker.end() == 0
    Checker(deployment, redis.Redis.from_url(redis_server.url)).check()


@pytest.mark.parametrize("said", ["metrics at http", "is away"])
def test_a_stop_while_it_starts_is_a_clean_one(kafka: Broker, tmp_path: Path, said: str) -> None:
    nobody = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    deployment = Deployment.create(
        tmp_path, kafka, nobody, prefix=unique("early"), tasks=("fraud",), worker={"web_port": "auto"}
    )
    with Worker(deployment, tmp_path / "worker.log") as worker:
        worker.until(lambda: said in worker.log, "it starts")
        asked = time.monotonic()
        assert worker.end() == 0, worker.log
        assert time.monotonic() - asked < STOP_S
        assert "Traceback" not in worker.log


def test_a_store_that_hangs_is_waited_for_longer_than_the_watchdog_would_and_ready_says_so(
    kafka: Broker, new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    store, log = new_redis(aof=True), tmp_path / "worker.log"
    deployment = Deployment.create(
        tmp_path, kafka, store.url, prefix=unique("hung"), partitions=PARTITIONS, tasks=("fraud",),
        worker={"watchdog_s": 5.5, "web_port": "auto"},
    )  # fmt: skip
    records = simulated(DAY)
    events = records[topics.USER_EVENTS]
    with Watcher(deployment) as watcher, Worker(deployment, log) as worker:
        watcher.send(topics.USER_EVENTS, events[:1_000])
        watcher.send(topics.LABELS, records[topics.LABELS])
        watcher.settle(worker)
        assert worker.ready()
        store.freeze()
        frozen = time.monotonic()
        try:
            watcher.send(topics.USER_EVENTS, events[1_000:])
            worker.until(lambda: "is away: " in worker.get("/ready")[1], "it says what it waits for")
            assert not worker.ready()
            worker.until(lambda: time.monotonic() - frozen > 14.0, "it waits, twice as long as the watchdog")
        finally:
            store.thaw()
        watcher.settle(worker)
        worker.until(worker.ready, "it is ready again")
        assert worker.end() == 0
        assert "watchdog" not in worker.log
    Checker(deployment, redis.Redis.from_url(store.url)).check()
