"""Workers were away for long: labels that are in the log when they come back count, whichever topic is read first."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.integration.chaos.deployment import TASKS, Deployment
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import DAY, PARTITIONS, examples_of, simulated, unique
from tests.integration.worker_process import Watcher, Worker
from weir.streams.config import topics

pytestmark = pytest.mark.integration


def test_no_event_is_a_negative_whose_label_was_there_when_the_worker_came_back(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    text, assumed = (
        (TASKS / "fraud.toml").read_text(),
        '[labels]\nmaturity = "none"\n\n[labels.join]\nnegative_after_s = "10m"',
    )
    (fraud := tmp_path / "fraud.toml").write_text(text.replace("[labels.join]", assumed))
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("first"), partitions=PARTITIONS, tasks=(fraud,),
        worker={"max_batch": 64},
    )  # fmt: skip
    records = simulated(DAY)
    with Watcher(deployment) as watcher:
        with Worker(deployment, tmp_path / "score.log", "--role", "score") as score:
            watcher.send(topics.USER_EVENTS, records[topics.USER_EVENTS])
            purchases = sum(orjson.loads(value)["type"] == "purchase" for _, value in records[topics.USER_EVENTS])
            score.until(lambda: sum(deployment.ends(topics.PREDICTIONS).values()) == purchases, "all are scored")
            assert score.end() == 0
        # Those of a task that runs elsewhere lie before them, so that predictions are read long before these.
        others = [(key, value.replace(b'"fraud"', b'"other"')) for key, value in records[topics.LABELS]] * 100
        watcher.send(topics.LABELS, others)
        watcher.send(topics.LABELS, records[topics.LABELS])
        with (  # the former takes what labels change in rows
            Worker(deployment, tmp_path / "score.log", "--role", "score") as score,
            Worker(deployment, tmp_path / "label.log", "--role", "label") as label,
        ):
            watcher.settle(label)
            assert [worker.end() for worker in (score, label)] == [0, 0]
    told: dict[str, bool] = {}
    for _, value in records[topics.LABELS]:
        if (said := orjson.loads(value))["task"] == "fraud":
            told.setdefault(said["event_id"], bool(said["value"]))
    first = {event: value for event, n, value in examples_of(deployment) if n == 0}
    assert len(first) > 500, "nearly all others are negatives by now"
    assert {event: value for event, value in first.items() if event in told} == {e: told[e] for e in first if e in told}
    assert sum(first.values()) > 20
