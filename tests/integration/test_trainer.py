"""``weir trainer`` on real Kafka: a request becomes a shadow, labels make it the champion; and it ends when told to."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import orjson
import pytest
import typer
from typer.testing import CliRunner

from tests.integration import forked
from tests.integration.chaos.deployment import Deployment
from tests.integration.forked import Process
from tests.integration.kafka_broker import Broker, eventually
from tests.streams.host_runs import process_all
from tests.streams.test_trainer_embedded import TASK
from weir.models.registry.registry import Registry
from weir.online.batch import ExampleBatch
from weir.online.codec.encode import encode_examples
from weir.online.codec.wire import ModelUpdate
from weir.online.task.spec import TaskSpec
from weir.streams.cli.models.retrain import retrain_command
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.kafka.admin.clients import admin_client, producer
from weir.streams.records import Record
from weir.streams.simulate import SimulationConfig, simulate

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # see conftest
    from kafka.admin import ConfigResource, ConfigResourceType

pytestmark = pytest.mark.integration
TASK_SPEC = TaskSpec.from_toml(TASK)


@pytest.fixture
def deployment(kafka: Broker, tmp_path: Path) -> Deployment:
    """A cluster with the topics that a worker has filled."""
    prefix = f"trainer{os.getpid()}{os.urandom(2).hex()}"
    (tmp_path / "fraud.toml").write_text(TASK)
    made = Deployment.create(
        tmp_path, kafka, "redis://localhost:1/0", prefix=prefix, partitions=2, tasks=(tmp_path / "fraud.toml",)
    )
    with made.config.open("a") as file:
        file.write(f'[models]\nregistry = "{tmp_path}/registry"\n[trainer]\nwork = "{tmp_path}/work"\n')
        file.write(f'heartbeat_s = 0.5\nlease_s = 3.0\ngroup = "{prefix}-trainer"\nweb_port = "auto"\n')
    return made


class Cluster:
    """Writes what workers would, and reads what they would hear."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.log, self.sent = deployment, EmbeddedLog(), 0
        host = EmbeddedHost([TASK_SPEC], self.log)
        self.features = host.pipelines["fraud"].features
        config = SimulationConfig(
            seed=4, events=4_000, days=20, users=60, devices=0, label_delay_days=0.5, review_share=0.8,
            fraud_share=0.15, drift_at=None, block_s=86_400.0, start_ts=time.time() - 22 * 86_400.0,
        )  # fmt: skip
        for block in simulate(config):
            for topic, records in block.topics.items():
                self.log.append(topic, [Record(*r) for r in records])
            process_all(host)
        for topic in (topics.USER_EVENTS, topics.PREDICTIONS, topics.EXAMPLES):
            self.send(topic, [r for batch in self.log.read([topic], 0) for r in batch.records])

    def send(self, topic: str, records: list[Record]) -> None:
        settings = self.deployment.settings
        with producer(settings.kafka, "test") as client:
            for r in records:
                client.send(settings.topics.name(topic), key=r.key, value=r.value, timestamp_ms=round(r.ts * 1000))

    def live(self, n: int, versions: tuple[int, int], skill: tuple[float, float]) -> None:
        """n labelled events that both models have scored."""
        rng = np.random.default_rng(self.sent)
        y = rng.random(n) < 0.2
        x = np.zeros((n, len(self.features)))
        for name, value in zip(("full.version", "full.shadow_version"), versions, strict=True):
            x[:, self.features.index(name)] = value
        for name, strength in zip(("full.logit", "full.shadow_logit"), skill, strict=True):
            x[:, self.features.index(name)] = strength * y + rng.normal(0, 1, n)
        ids = [f"live{k}" for k in range(self.sent, self.sent + n)]
        self.sent += n
        ts = np.full(n, time.time())
        batch = ExampleBatch(ids, ts, x, np.full(n, 0.5), y, np.ones(n), np.zeros(n, np.bool_))
        values = encode_examples(batch, self.features, "fraud")
        self.send(topics.EXAMPLES, [Record(b"fraud", value, time.time()) for value in values])

    def updates(self) -> list[tuple[str, str]]:
        found = self.deployment.read(topics.MODEL_UPDATES)
        updates = [ModelUpdate.model_validate_json(s.record.value) for part in found.values() for s in part]
        return [(update.action, update.version) for update in updates]


@pytest.fixture
def start(deployment: Deployment, tmp_path: Path) -> Iterator[Any]:
    """Starts trainers, and leaves none behind."""
    running: list[Process] = []

    def begin(*arguments: str) -> Process:
        command = [sys.executable, "-P", "-m", "weir.streams.cli.main", "trainer", "--config", str(deployment.config)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        with (tmp_path / f"trainer-{len(running)}.log").open("wb") as log:
            running.append(forked.start([*command, *arguments], environment, log))
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def asked_of(log: Path, path: str) -> str:
    """What a trainer answers over HTTP; where it listens is in its log."""
    found = re.search(r"metrics at (\S+)", log.read_text())
    assert found is not None, log.read_text()
    with urlopen(found[1] + path, timeout=10) as answer:
        return str(answer.read().decode())


def retrain(deployment: Deployment, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(retrain_command)
    return CliRunner().invoke(app, ["--task", "fraud", "--config", str(deployment.config), *arguments])


def test_a_request_becomes_a_shadow_and_labels_make_it_the_champion(
    deployment: Deployment, start: Any, tmp_path: Path
) -> None:
    cluster = Cluster(deployment)
    first, second = start(), start()
    asked = retrain(deployment, "--wait", "--timeout", "90")
    assert asked.exit_code == 0, asked.output + (tmp_path / "trainer-0.log").read_text()
    assert "in the workers' shadow" in asked.output
    eventually(lambda: cluster.updates() == [("shadow", "1")], 30, "the shadow is published")

    # The trainer that works on it dies; the other takes over, and labels go on coming.
    owner = orjson.loads(sorted((tmp_path / "registry" / "fraud" / "trainer").iterdir())[-1].read_bytes())["owner"]
    victim, other = (first, second) if f"-{first.pid}-" in owner else (second, first)
    cluster.live(100, (0, 1), (0.0, 3.0))
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    cluster.live(100, (0, 1), (0.0, 3.0))
    promoted = [("shadow", "1"), ("promote", "1")]
    eventually(lambda: list(dict.fromkeys(cluster.updates())) == promoted, 60, "the shadow is promoted")
    assert Registry(str(tmp_path / "registry")).champion("fraud") == 1
    metrics = asked_of(tmp_path / f"trainer-{0 if other is first else 1}.log", "/metrics")
    assert 'weir_trainer_jobs_total{outcome="promoted",task="fraud"} 1.0' in metrics
    assert "weir_ready 1.0" in metrics
    other.send_signal(signal.SIGTERM)
    assert other.wait(60) == 0


def test_once_answers_what_was_asked_and_ends(deployment: Deployment, start: Any, tmp_path: Path) -> None:
    cluster = Cluster(deployment)
    assert retrain(deployment, "--reason", "new product").exit_code == 0
    process = start("--once")
    assert process.wait(120) == 0, (tmp_path / "trainer-0.log").read_text()
    assert cluster.updates() == [("shadow", "1")]
    journal = orjson.loads(sorted((tmp_path / "registry" / "fraud" / "trainer").iterdir())[-1].read_bytes())
    assert journal["owner"] == "", "the next run goes on with it"
    assert journal["job"]["stage"] == "shadowing"


def takes(deployment: Deployment, own: str, record_bytes: int) -> None:
    """How large records of a topic may be."""
    name = deployment.settings.topics.name(own)
    with admin_client(deployment.settings.kafka) as admin:
        changed = ConfigResource(ConfigResourceType.TOPIC, name, configs={"max.message.bytes": str(record_bytes)})
        admin.alter_configs([changed])


def test_what_brokers_did_not_take_is_told_when_they_take_it(
    deployment: Deployment, start: Any, tmp_path: Path
) -> None:
    cluster, log = Cluster(deployment), tmp_path / "trainer-0.log"
    takes(deployment, topics.MODEL_UPDATES, 10)
    process = start()
    assert retrain(deployment).exit_code == 0
    eventually(lambda: log.read_text().count("max.message.bytes is smaller") > 1, 90, "it is tried again")
    assert cluster.updates() == []
    takes(deployment, topics.MODEL_UPDATES, 1 << 20)
    eventually(lambda: cluster.updates() == [("shadow", "1")], 60, "the shadow is published")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
