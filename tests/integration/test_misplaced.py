"""Producers without keys, on real brokers: everything is scored and learned once, by the partition that owns it."""

from __future__ import annotations

import signal
import zlib
from pathlib import Path

import orjson
import pytest

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import DAY, PARTITIONS, examples_of, simulated, unique
from tests.integration.worker_process import Watcher, Worker, run_weir
from weir.streams.config import topics
from weir.streams.kafka.partitioners import partitions_of_text

pytestmark = pytest.mark.integration


def test_events_and_labels_without_keys_count_once_where_they_belong_across_a_kill(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    keyed, spread = (
        Deployment.create(
            tmp_path, kafka, redis_server.url, prefix=unique(name), partitions=PARTITIONS, tasks=("fraud",),
            worker={"web_port": "auto"},
        )
        for name in ("keyed", "spread")
    )  # fmt: skip
    records, log = simulated(DAY), tmp_path / "second.log"
    events, labels = records[topics.USER_EVENTS], records[topics.LABELS]
    with Watcher(keyed) as watcher, Worker(keyed, tmp_path / "keyed.log") as worker:
        watcher.send(topics.USER_EVENTS, events)
        watcher.settle(worker)
        watcher.send(topics.LABELS, labels)
        watcher.settle(worker)
        assert worker.end() == 0
    with Watcher(spread) as watcher:
        with Worker(spread, tmp_path / "first.log") as worker:
            watcher.spread(topics.USER_EVENTS, events[: len(events) // 2], PARTITIONS)
            worker.until(lambda: sum(spread.ends(topics.PREDICTIONS).values()), "it scores")
            assert worker.end(signal.SIGKILL) == -signal.SIGKILL
        with Worker(spread, log) as worker:
            watcher.spread(topics.USER_EVENTS, events[len(events) // 2 :], PARTITIONS)
            watcher.settle(worker)
            watcher.spread(topics.LABELS, labels, PARTITIONS)
            watcher.settle(worker)
            assert 'weir_misplaced_total{topic="labels"}' in worker.get("/metrics")[1]
            assert worker.end() == 0
    assert examples_of(spread) == examples_of(keyed)
    scored: dict[str, str] = {}
    for partition, held in spread.read(topics.PREDICTIONS).items():
        made = {p["event_id"]: p["entity_id"] for p in (orjson.loads(s.record.value) for s in held)}
        assert set(partitions_of_text(list(made.values()), PARTITIONS).tolist()) == {partition}
        scored |= made
    bought = {orjson.loads(value)["event_id"] for _, value in events if b'"purchase"' in value}
    assert scored.keys() == bought, "a kill may publish one again, under the same id"
    assert not spread.read(topics.DEAD_LETTERS)
    assert "murmur2_random" in log.read_text()
    some = orjson.loads(events[0][1])["user_id"]
    found = run_weir(spread, "features", "get", some, "--json").document
    assert len([row for row in found if row["table"] == "fraud.user"]) == 1


def test_producers_that_all_hash_by_crc32_are_served_where_they_write_and_labels_of_others_follow(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    """librdkafka's default for events; labels by Kafka's own partitioner, as a Java client sends them."""
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("crc"), partitions=PARTITIONS, tasks=("fraud",),
        worker={"web_port": "auto"},
    )  # fmt: skip
    records = simulated(DAY)
    events, labels = records[topics.USER_EVENTS], records[topics.LABELS]
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "worker.log") as worker:
        by_crc: dict[int, list[tuple[bytes, bytes]]] = {}
        for key, value in events:
            by_crc.setdefault(zlib.crc32(key) % PARTITIONS, []).append((key, value))
        for partition, some in by_crc.items():
            watcher.send_to(topics.USER_EVENTS, partition, some)
        watcher.settle(worker)
        found = worker.get("/metrics")[1]
        assert 'weir_misplaced_total{topic="user-events"}' not in found
        watcher.send(topics.LABELS, labels)
        watcher.settle(worker)
        assert 'weir_misplaced_total{topic="labels"}' in worker.get("/metrics")[1]
        assert worker.end() == 0
    assert len(deployment.read(topics.USER_EVENTS)) == len(by_crc)
    assert sum(map(len, deployment.read(topics.USER_EVENTS).values())) == len(events), "no event was passed on"
    told = {orjson.loads(value)["event_id"] for _, value in labels}
    scored = {
        orjson.loads(stored.record.value)["event_id"]
        for held in deployment.read(topics.PREDICTIONS).values()
        for stored in held
    }
    learned = {event_id for event_id, _, _ in examples_of(deployment)}
    assert told & scored == learned & told
    assert told & scored
