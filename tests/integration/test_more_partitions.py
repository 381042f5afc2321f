"""Topics that are given more partitions while predictions wait for labels: what waits follows its entity.

From two partitions to five: rows, open alerts, and each prediction whose label is still to come.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from tests.integration.chaos.deployment import Deployment
from tests.integration.forked import start
from tests.integration.kafka_broker import Broker, eventually
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import DAY, KeyValue, content, simulated, unique
from tests.integration.test_topic_identity import more_partitions
from tests.integration.worker_process import Watcher, Worker, run_weir
from weir.streams.config import topics
from weir.streams.kafka.partitioners import partitions_of_text

pytestmark = pytest.mark.integration

BEFORE, AFTER = 2, 5
Moment = Callable[[], bool]


def raise_partitions(deployment: Deployment) -> None:
    """As an operator does it: the topics, then the settings."""
    more_partitions(deployment, AFTER)
    text = deployment.config.read_text()
    deployment.config.write_text(text.replace(f"partitions = {BEFORE}", f"partitions = {AFTER}"))


def kill_at(deployment: Deployment, moment: Moment, log: Path) -> None:
    """Run ``weir features rebuild`` up to a moment, and kill it there."""
    rebuild = ["features", "rebuild", "--yes", "--config", str(deployment.config)]
    with log.open("ab") as out:
        process = start([sys.executable, "-P", "-m", "weir.streams.cli.main", *rebuild], dict(os.environ), out)
    try:
        eventually(lambda: moment() or process.poll() is not None, 120, "it has come so far")
        assert process.poll() is None, f"it ended before it could be killed: {log.read_text()}"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def moments(store: redis.Redis, prefix: str) -> list[Moment]:
    """When a lane that is new has got what comes to it; when the first one has given away what goes; among the rows."""

    def snapshot() -> object:
        return store.hget(f"{prefix}:{{label-0}}:meta", "blob")

    stored = [snapshot()]

    def given() -> bool:
        if snapshot() != stored[-1]:
            stored.append(snapshot())
        # Settled lanes are not stored anew: one write gets, the next gives away.
        return len(stored) > 2

    positions = [store.get(f"{prefix}:{{user-events-{p}}}:lane") for p in range(BEFORE)]
    return [
        lambda: bool(store.hexists(f"{prefix}:{{label-2}}:meta", "snapshot")),
        given,
        lambda: store.get(f"{prefix}:{{user-events-1}}:lane") != positions[1],
    ]


def predictions(deployment: Deployment) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Features of the predictions of each task and event, the first one first; of what was not completed another."""
    logs = deployment.read(topics.PREDICTIONS).values()
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for stored in sorted((stored for log in logs for stored in log), key=lambda stored: stored.record.ts):
        prediction = orjson.loads(stored.record.value)
        found.setdefault((prediction["task"], prediction["event_id"]), []).append(prediction["features"])
    return found


def examples(deployment: Deployment) -> list[tuple[str, str, int, bool, dict[str, float]]]:
    """Task, event, number, value and features of each."""
    log = [orjson.loads(stored.record.value) for stored in deployment.read(topics.EXAMPLES)[0]]
    return [(e["task"], e["event_id"], e["n"], bool(e["value"]), e["features"]) for e in log]


def alerts(deployment: Deployment) -> list[dict[str, Any]]:
    """All that was told of alerts."""
    return [orjson.loads(stored.record.value) for log in deployment.read(topics.ALERTS).values() for stored in log]


def said(records: Sequence[KeyValue], scored: set[str]) -> set[tuple[str, int, bool]]:
    """What labels make of events that were scored: event, number and value."""
    held: dict[str, list[bool]] = {}
    for _, value in records:
        label = orjson.loads(value)
        values = held.setdefault(label["event_id"], [])
        if label["event_id"] in scored and values[-1:] != [bool(label["value"])]:
            values.append(bool(label["value"]))
    return {(event, n, value) for event, values in held.items() for n, value in enumerate(values)}


def test_labels_that_come_after_more_partitions_are_learned_once_though_the_rebuild_was_killed(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("more"), partitions=BEFORE, tasks=("fraud", "quiet"),
        worker={"web_port": "auto"},
    )  # fmt: skip
    records, prefix = simulated(DAY), deployment.settings.redis.prefix
    labels = [record for record in records[topics.LABELS] if orjson.loads(record[1])["task"] == "fraud"]
    # Some of the first labels are of events that come after the change: they wait, too.
    half, events = len(labels) // 2, records[topics.USER_EVENTS]
    first, last = len(events) // 3, 2 * len(events) // 3
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "before.log") as worker:
        for some in ((events[:first], labels[:half]), (events[first:last], [])):
            watcher.send(topics.USER_EVENTS, some[0])
            watcher.send(topics.LABELS, some[1])
            watcher.settle(worker)
        assert worker.end() == 0
        rows = rows_of(watcher, BEFORE)
    opened = {alert["alert_id"] for alert in alerts(deployment)}
    opened -= {alert["alert_id"] for alert in alerts(deployment) if alert["status"] == "resolved"}
    assert len(opened) > 3, "alerts are open"
    raise_partitions(deployment)
    store = redis.Redis.from_url(redis_server.url)
    for number, moment in enumerate(moments(store, prefix)):
        kill_at(deployment, moment, tmp_path / f"killed-{number}.log")
        with Worker(deployment, tmp_path / f"early-{number}.log") as worker:
            assert worker.wait() == 2
        assert f"have {AFTER} partitions, the stored state was made with {BEFORE}" in worker.log
    assert len(examples(deployment)) == len(set(map(str, examples(deployment)))), "nothing is published twice"
    for _ in range(2):  # once more than is needed: what has moved stays where it is
        built = run_weir(deployment, "features", "rebuild", "--yes")
        assert built.status == 0, built.err
    assert "predictions that wait" not in built.err
    with Watcher(deployment) as watcher:
        assert rows_of(watcher, AFTER) == rows, "whoever's partition changed has the same windows there"
        with Worker(deployment, tmp_path / "after.log") as worker:
            watcher.send(topics.LABELS, labels[half:])
            watcher.settle(worker)
            confirmed = {alert["alert_id"] for alert in alerts(deployment) if alert["status"] == "resolved"}
            watcher.send(topics.USER_EVENTS, events[last:])
            watcher.settle(worker)
            assert worker.end() == 0
    predicted = predictions(deployment)
    assert all(len(features) == 1 for features in predicted.values()), "timers fire once, too"
    made = examples(deployment)
    assert {tuple(k) for k, count in Counter((t, e, n) for t, e, n, *_ in made).items() if count > 1} == set()
    scored = {event for task, event in predicted if task == "fraud"}
    late = said(labels, scored) - said(labels[:half], scored)
    assert len(late) > 50, "labels were to come"
    assert {(e, n, y) for t, e, n, y, _ in made if t == "fraud"} == said(labels, scored)
    assert all(features == predicted[t, e][0] for t, e, _, _, features in made if t == "fraud"), "as logged"
    fraud = {event for event, _, value in said(labels, scored) if value}
    assert confirmed >= {alert for alert in opened if alert.rsplit(":", 1)[1] in fraud}, "each ends where its label is"
    assert opened & confirmed
    begun = Counter(a["alert_id"] for a in alerts(deployment) if a["events"] == 1 and a["status"] == "open")
    assert set(begun.values()) == {1}, "none opens again"


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_what_a_killed_worker_had_not_done_is_done_after_more_partitions(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path, lost: bool
) -> None:
    """Also where Redis has lost what one of the label lanes held: it is filled, and then moved as the other is."""
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("cut"), partitions=BEFORE, tasks=("fraud",),
        worker={"web_port": "auto"},
    )  # fmt: skip
    records = simulated(DAY)
    labels = [record for record in records[topics.LABELS] if orjson.loads(record[1])["task"] == "fraud"]
    half, events = len(labels) // 2, records[topics.USER_EVENTS]
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "killed.log") as worker:
        worker.until(worker.ready, "it is ready")
        watcher.send(topics.LABELS, labels[:half])
        watcher.send(topics.USER_EVENTS, events[: len(events) // 2])
        worker.until(lambda: sum(deployment.ends(topics.EXAMPLES).values()) > 0, "it has begun to learn")
        worker.process.kill()
        worker.process.wait()
        assert watcher.behind(), "it has not done all"
    raise_partitions(deployment)
    if lost:
        store = redis.Redis.from_url(redis_server.url)
        assert store.delete(*store.keys(f"{deployment.settings.redis.prefix}:{{label-1}}:*"))
    built = run_weir(deployment, "features", "rebuild", "--yes")
    assert built.status == 0, built.err
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "after.log") as worker:
        watcher.send(topics.LABELS, labels[half:])
        watcher.send(topics.USER_EVENTS, events[len(events) // 2 :])
        watcher.settle(worker)
        assert worker.end() == 0
    predicted = predictions(deployment)
    of = {orjson.loads(value)["event_id"] for _, value in events if orjson.loads(value)["type"] == "purchase"}
    assert {event for _, event in predicted} == of, "every event is scored"
    made = examples(deployment)
    assert {(e, n, y) for _, e, n, y, _ in made} == said(labels, of), "what is published again says the same"
    assert all(features == predicted[t, e][0] for t, e, _, _, features in made), "the first prediction counts"


def rows_of(watcher: Watcher, partitions: int) -> dict[str, tuple[int, bytes]]:
    """What every row says, by table and entity; each is where workers look for it, as of so many partitions."""
    found = {}
    for key, row in content(watcher.rows()).items():
        lane, name = key.split("}:", 1)
        entity = name.split(":", 1)[1]
        assert int(lane.rsplit("-", 1)[1]) == partitions_of_text([entity], partitions)[0], key
        found[name] = row
    return found
