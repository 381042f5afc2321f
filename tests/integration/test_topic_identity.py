"""Topics that were made anew, or given more partitions: noticed before a record of them is taken for another."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker, eventually
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import unique
from tests.integration.worker_process import Watcher, Worker, run_weir
from weir.streams.config import topics
from weir.streams.kafka.admin import cluster
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.admin.topic_specs import wanted_topics
from weir.streams.kafka.partitioners import partitions_of_text

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # see conftest
    from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions

pytestmark = pytest.mark.integration

USERS = [f"user-{n}" for n in range(20)]
START = time.time() - 6_000.0


def events(first: int, count: int) -> list[tuple[bytes, bytes]]:
    """Purchases, of each user in turn."""
    made = []
    for n in range(first, first + count):
        value = {"v": 1, "event_id": f"e{n}", "type": "purchase", "user_id": USERS[n % 20], "ts": START + n,
                 "amount": 5.0, "merchant_id": "m"}  # fmt: skip
        made.append((USERS[n % 20].encode(), orjson.dumps(value)))
    return made


@pytest.fixture
def deployment(kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path) -> Deployment:
    """Two partitions, and everything sent so far is done."""
    made = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("topic"), partitions=2, tasks=("fraud",),
        worker={"web_port": "auto", "pause_retry_s": 1.0},
    )  # fmt: skip
    with Watcher(made) as watcher, Worker(made, tmp_path / "before.log") as worker:
        watcher.send(topics.USER_EVENTS, events(0, 200))
        watcher.settle(worker)
        assert worker.end() == 0
    return made


def change(deployment: Deployment, what: Callable[[Any, str], None], *owns: str) -> None:
    """Do something to topics through an admin client."""
    with admin_client(deployment.settings.kafka) as admin:
        for own in owns:
            what(admin, deployment.settings.topics.name(own))


def make_anew(deployment: Deployment, own: str) -> None:
    """Delete a topic, and create it again."""
    name = deployment.settings.topics.name(own)
    with admin_client(deployment.settings.kafka) as admin:
        admin.delete_topics([name])
        eventually(lambda: name not in admin.list_topics(), 30, "it is gone")
        specs = [spec for spec in wanted_topics(deployment.settings.topics, 1) if spec.name == name]
        cluster.create_topics(admin, specs)


def scored(deployment: Deployment) -> set[str]:
    held = deployment.read(topics.PREDICTIONS).values()
    return {orjson.loads(stored.record.value)["event_id"] for log in held for stored in log}


def test_a_topic_made_anew_is_not_read_from_the_middle_however_long_it_is(
    deployment: Deployment, tmp_path: Path
) -> None:
    make_anew(deployment, topics.USER_EVENTS)
    with Watcher(deployment) as watcher:
        watcher.send(topics.USER_EVENTS, events(200, 600))  # each partition is longer than the one before it was
        ends = deployment.ends(topics.USER_EVENTS)
        assert min(ends.values()) > 200
        checked = run_weir(deployment, "worker", "--check")
        assert checked.status == 2
        assert "made anew" in " ".join(checked.out.split())
        assert run_weir(deployment, "topics", "check").status == 1
        with Worker(deployment, tmp_path / "anew.log") as worker:
            worker.until(lambda: worker.log.count("made anew") >= 2, "it says so of both partitions")
            assert "user-events-0 pauses" in worker.log
            assert "user-events-1 pauses" in worker.log
            assert "weir partitions seek user-events-0 earliest" in worker.log
            assert scored(deployment) == {f"e{n}" for n in range(200)}
            sought = run_weir(deployment, "partitions", "seek", "user-events-0", "earliest")
            assert sought.status == 0, sought.err
            of_0 = {orjson.loads(s.record.value)["event_id"] for s in deployment.read(topics.USER_EVENTS)[0]}
            worker.until(lambda: scored(deployment) >= of_0, "partition 0 is taken from its beginning")
            assert worker.end() == 0
        # The offsets are those of a mirror, say: a person says so, and the rest is taken.
        assert run_weir(deployment, "topics", "accept", "user-events", "--yes").status == 0
        assert run_weir(deployment, "worker", "--check").status == 0
        with Worker(deployment, tmp_path / "after.log") as worker:
            watcher.settle(worker)
            assert worker.end() == 0
        made = [orjson.loads(s.record.value)["event_id"] for s in deployment.read(topics.USER_EVENTS)[1]]
        gone = sum(int(partitions_of_text([USERS[n % 20]], 2)[0]) for n in range(200))
        assert scored(deployment) == {f"e{n}" for n in range(200)} | of_0 | {*made[gone:]}


def test_examples_made_anew_are_not_taken_for_the_rest_of_the_old_ones(deployment: Deployment, tmp_path: Path) -> None:
    make_anew(deployment, topics.EXAMPLES)
    with Worker(deployment, tmp_path / "examples.log") as worker:
        assert worker.wait() != 0
    assert "made anew" in worker.log
    assert "weir topics accept examples" in worker.log


RAISED = (
    *topics.INPUTS, topics.PREDICTIONS, topics.ALERTS, topics.DECISIONS, topics.ENTITY_UPDATES, *topics.INFERENCE,
)  # fmt: skip


def more_partitions(deployment: Deployment, partitions: int = 4) -> None:
    """Give topics more partitions, as an operator does it."""
    change(deployment, lambda admin, name: admin.create_partitions({name: NewPartitions(partitions)}), *RAISED)


def counts(deployment: Deployment) -> dict[str, set[float]]:
    """By user, the counts that its rows hold."""
    found = {}
    for user in USERS:
        rows = run_weir(deployment, "features", "get", user, "--table", "fraud.user", "--json").document
        found[user] = {value for row in rows for name, value in row["values"].items() if "_count_" in name}
    return found


def test_more_partitions_than_the_state_was_made_with_are_refused_and_a_rebuild_moves_every_row(
    deployment: Deployment, tmp_path: Path
) -> None:
    before = counts(deployment)
    more_partitions(deployment)
    text = deployment.config.read_text()
    deployment.config.write_text(text.replace("partitions = 2", "partitions = 4"))
    checked = run_weir(deployment, "worker", "--check")
    assert checked.status == 2
    assert "weir features rebuild" in " ".join(checked.out.split()), checked.out
    with Worker(deployment, tmp_path / "refused.log") as worker:
        assert worker.wait() == 2
    assert "have 4 partitions, the stored state was made with 2" in worker.log
    built = run_weir(deployment, "features", "rebuild", "--yes")
    assert built.status == 0, built.err
    moved = int((partitions_of_text(USERS, 4) != partitions_of_text(USERS, 2)).sum())
    assert f"{200 * moved // 20} predictions that wait for labels went to the partitions of their entities" in built.err
    assert counts(deployment) == before, "whoever's partition changed has the same windows there"
    assert run_weir(deployment, "worker", "--check").status == 0
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "after.log") as worker:
        watcher.send(topics.USER_EVENTS, events(200, 20))
        watcher.settle(worker)
        assert worker.end() == 0
    held = deployment.read(topics.PREDICTIONS)
    last = {orjson.loads(s.record.value)["event_id"]: p for p, log in held.items() for s in log[-10:]}
    owners = dict(zip(USERS, partitions_of_text(USERS, 4).tolist(), strict=True))
    assert {last[f"e{n}"] == owners[USERS[n % 20]] for n in range(200, 220)} == {True}


def test_partitions_that_are_added_while_a_worker_runs_end_it_with_what_to_do(
    deployment: Deployment, tmp_path: Path
) -> None:
    with Worker(deployment, tmp_path / "running.log") as worker:
        worker.until(worker.ready, "it is ready")
        more_partitions(deployment)
        with Worker(deployment, tmp_path / "second.log") as second:  # a rebalance, sooner than the metadata grow old
            assert (worker.wait(), second.wait()) == (2, 2)
    assert "the stored state was made with 2" in worker.log


def test_a_topic_that_is_compacted_is_told(deployment: Deployment, tmp_path: Path) -> None:
    name = deployment.settings.topics.name(topics.USER_EVENTS)
    with admin_client(deployment.settings.kafka) as admin:
        compacted = ConfigResource(ConfigResourceType.TOPIC, name, configs={"cleanup.policy": "compact,delete"})
        admin.alter_configs([compacted])
    with Worker(deployment, tmp_path / "compacted.log") as worker:
        worker.until(worker.ready, "it is ready")
        assert worker.end() == 0
    told = [line for line in worker.log.splitlines() if "compacted" in line]
    assert len(told) == 1, "no other is"
    assert f"topic {name} is compacted" in told[0]
    assert run_weir(deployment, "topics", "create", "--alter").status == 0
    assert run_weir(deployment, "topics", "check").status == 0


@pytest.mark.parametrize("count", [40, 400])
def test_predictions_made_anew_while_a_worker_runs_are_not_passed_over(
    deployment: Deployment, tmp_path: Path, count: int
) -> None:
    """Their offsets begin at 0 again; those below the position of before would be taken for what was read already."""
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "predictions.log") as worker:
        worker.until(worker.ready, "it is ready")
        watcher.send(topics.USER_EVENTS, events(1_000, 40))
        watcher.settle(worker)
        make_anew(deployment, topics.PREDICTIONS)
        watcher.send(topics.USER_EVENTS, events(2_000, count))

        def paused() -> bool:
            told = orjson.loads(worker.get("/ready")[1])["paused"]
            return all("predictions" in told.get(f"labels-{p}", {}).get("reason", "") for p in range(2))

        worker.until(paused, "the lanes that join labels pause")
        assert "made anew" in worker.log
        assert worker.end() == 0
    assert run_weir(deployment, "features", "rebuild", "--yes").status == 0
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "after.log") as worker:
        labels = [
            (USERS[n % 20].encode(), orjson.dumps({"v": 1, "label_id": f"l{n}", "task": "fraud", "ts": START + n,
             "entity_id": USERS[n % 20], "event_id": f"e{n}", "value": 1, "source": "test"}))
            for n in range(2_000, 2_000 + count)
        ]  # fmt: skip
        watcher.send(topics.LABELS, labels)
        watcher.settle(worker)
        assert sum(deployment.ends(topics.EXAMPLES).values()) == count
        assert worker.end() == 0
