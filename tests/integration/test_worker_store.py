"""Partitions of which the store lost everything pause; ``weir features rebuild`` makes it again from Kafka."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import orjson
import pytest
import redis

from tests.integration.chaos.checker import Checker
from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import RedisServer
from tests.integration.streamed import (
    DAY,
    PARTITIONS,
    KeyValue,
    content,
    examples_of,
    simulated,
    unique,
)
from tests.integration.worker_process import Outcome, Watcher, Worker, run_weir
from weir.streams.config import topics
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.partitioners import partitions_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # see conftest
    from kafka import TopicPartition

pytestmark = pytest.mark.integration


def test_partitions_of_an_emptied_store_pause_then_it_is_rebuilt_and_the_worker_goes_on(
    kafka: Broker, new_redis: Callable[..., RedisServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, log = new_redis(), tmp_path / "worker.log"
    deployment = Deployment.create(
        tmp_path, kafka, store.url, prefix=unique("lost"), partitions=PARTITIONS, tasks=("fraud", "quiet")
    )
    records = simulated(DAY)
    labels, events = records[topics.LABELS], records[topics.USER_EVENTS]
    early, middle, late = (labels[len(labels) * k // 3 : len(labels) * (k + 1) // 3] for k in range(3))
    with Watcher(deployment) as watcher:
        watcher.send(topics.USER_EVENTS, [events[0], *events, *of_ada()])
        watcher.send(topics.LABELS, early)
        with Worker(deployment, log) as worker:
            watcher.settle(worker)
            assert worker.end() == 0
        at = ["--table", "fraud.user", "--at", str(DAY.end_ts - 2_500.0)]
        check_ada(run_weir(deployment, "features", "get", "ada", *at, "--json"))
        before = content(watcher.rows())
        assert {key.split(":")[2] for key in before} >= {"fraud.user", "fraud.merchant", "fraud.user.labels"}
        store.send("FLUSHALL")
        forget_first(deployment, events[0][0])  # where Kafka still had everything, the worker would take it all again
        with Worker(deployment, log) as refused:
            refused.until(lambda: [place[0] for place in watcher.behind()] == [topics.USER_EVENTS], "it takes the rest")
            assert f"user-events-{partition_of(events[0][0])} pauses" in refused.log
            assert "weir features rebuild" in refused.log
            assert "Traceback" not in refused.log
            assert refused.end() == 0
        # What was published a moment before the loss is made again; in the second round all is older than that.
        for left_s, more in ((60.0, middle), (0.0, late)):
            monkeypatch.setattr(import_module("weir.streams.worker.rebuild"), "LEFT_S", left_s)
            store.send("FLUSHALL")
            built = run_weir(deployment, "features", "rebuild", "--yes")
            assert built.status == 0, built.err
            assert content(watcher.rows()) == before
            known = {*examples_of(deployment)}
            with Worker(deployment, log) as worker:
                watcher.send(topics.LABELS, more)
                watcher.settle(worker)
                assert worker.end() == 0
            assert len({*examples_of(deployment)} - known) > len(more) // 2
            before = content(watcher.rows())
    Checker(deployment, redis.Redis.from_url(store.url)).check()


def forget_first(deployment: Deployment, key: bytes) -> None:
    """Delete the first record of the partition of a key, as retention does in the end."""
    topic = deployment.settings.topics.name(topics.USER_EVENTS)
    partition = partition_of(key)
    with admin_client(deployment.settings.kafka) as admin:
        admin.delete_records({TopicPartition(topic, partition): 1})


def partition_of(key: bytes) -> int:
    return int(partitions_of([key], PARTITIONS)[0])


def of_ada() -> list[KeyValue]:
    """Three purchases of a user of whom there is nothing else."""
    made = [(0.0, 10.0), (7_200.0, 20.0), (7_500.0, 60.0)]
    return [
        (b"ada", orjson.dumps({
            "v": 1, "event_id": f"ada-{k}", "type": "purchase", "user_id": "ada", "ts": DAY.end_ts - 10_000.0 + after,
            "amount": amount, "merchant_id": "ada's", "device_id": f"phone-{k % 2}",
        }))
        for k, (after, amount) in enumerate(made)
    ]  # fmt: skip


def check_ada(got: Outcome) -> None:
    (row,) = got.document
    values = row["values"]
    assert (got.status, row["table"], row["key"]) == (0, "fraud.user", "user_id")
    expected = {
        "user.spent_count_1h": 2, "user.spent_mean_1h": 40, "user.spent_max_1h": 60,
        "user.spent_count_1d": 3, "user.spent_mean_1d": 30, "user.spent_max_1d": 60,
        "user.spent_since_last": 0, "user.devices_distinct_1d": 2,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=0.05)  # distinct is an estimate
