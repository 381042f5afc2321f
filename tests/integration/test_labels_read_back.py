"""Labels that come after a restart meet predictions whose features are in no memory: they are read back from Kafka."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.chaos.checker import Checker
from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import DAY, PARTITIONS, simulated, unique
from tests.integration.worker_process import Watcher, Worker
from weir.streams.config import topics

pytestmark = pytest.mark.integration


def total(page: str, name: str, **labels: str) -> float:
    """A metric of a page, added up over all labels but those given."""
    found = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
    return sum(s.value for s in found if s.name == name and labels.items() <= s.labels.items())


def test_examples_after_a_restart_are_those_of_what_was_logged_before_it(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("back"), partitions=PARTITIONS, tasks=("fraud", "quiet"),
        worker={"web_port": "auto"},
    )  # fmt: skip
    records = simulated(DAY)
    with Watcher(deployment) as watcher:
        with Worker(deployment, tmp_path / "before.log") as before:
            watcher.send(topics.USER_EVENTS, records[topics.USER_EVENTS])
            watcher.settle(before)
            assert before.end() == 0
        with Worker(deployment, tmp_path / "after.log") as after:
            watcher.send(topics.LABELS, records[topics.LABELS])
            watcher.settle(after)
            after.until(lambda: total(after.get("/metrics")[1], "weir_label_horizon_seconds") > 0, "it has measured")
            page = after.get("/metrics")[1]
            assert after.end() == 0
    store = redis.Redis.from_url(redis_server.url)
    notes = Checker(deployment, store).check()  # features bit for bit among the rest
    assert notes["examples"]["fraud"][0] > 50
    assert total(page, "weir_logged_rows_read_total", task="fraud") > 50
    assert total(page, "weir_labels_total", outcome="lost") == 0
    assert total(page, "weir_label_horizon_seconds", task="fraud") == 30 * 86_400.0
