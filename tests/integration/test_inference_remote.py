"""Full models in a process of their own: answers over Kafka, a killed worker, and what decisions do meanwhile."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.chaos.deployment import Deployment
from tests.integration.full_fleet import USERS, Fleet, counts, versions
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.worker_process import TELLS_KERNELS, Watcher, Worker, run_weir
from tests.streams.full_graphs import LOGIT, TASK
from tests.streams.test_full_surprise import SURPRISED, register_surprise
from weir.streams.config import topics
from weir.streams.worker.inference.inference_wire import decode_answer, decode_request

pytestmark = pytest.mark.integration

REMOTE = TASK + 'remote = true\ndeadline = "1s"\n'
"""Ample: the test's machine may be busy; what a missed deadline costs is measured elsewhere."""


@dataclasses.dataclass(frozen=True)
class Inference(Deployment):
    """The same deployment, whose command is ``weir inference``."""

    def command(self, *args: str) -> list[str]:
        """How to start one."""
        return [sys.executable, "-P", "-m", "weir.streams.cli.main", "inference", "--config", str(self.config), *args]


@pytest.fixture
def fleet(kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, kafka, redis_server.url, REMOTE)


@pytest.fixture
def watcher(fleet: Fleet) -> Iterator[Watcher]:
    with Watcher(fleet.deployment) as watching:
        yield watching


def circuit(worker: Worker) -> float:
    """In how many partitions batches wait for answers."""
    lines = [line for line in worker.get("/metrics")[1].splitlines() if line.startswith("weir_full_waits{")]
    return float(lines[0].split()[-1]) if lines else -1.0


def test_a_remote_model_tells_how_surprising_an_event_is(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, kafka, redis_server.url, REMOTE.replace(TASK, SURPRISED).replace('"1s"', '"10s"'))
    of = fleet.deployment
    inference, old = Inference(of.settings, of.tasks, of.config), fleet.models.register()
    new = register_surprise(fleet.models, fleet.models.inputs)
    with (
        Watcher(of) as watcher,
        Worker(of, tmp_path / "worker.log") as worker,
        Worker(inference, tmp_path / "inference.log") as first,
    ):

        def said(version: int) -> list[float]:
            """What events have as their surprise once this version serves them all."""
            fleet.tell(watcher, fleet.models.update("promote", version))
            worker.until(
                lambda: {by for by, _ in versions(fleet.step(watcher, worker, each=1))} == {version}, "it serves"
            )
            return [row["features"]["full.surprise"] for row in fleet.step(watcher, worker)]

        first.until(first.ready, "it has partitions")
        worker.until(worker.ready, "it has partitions")
        assert {math.copysign(1.0, value) * (value == 0) for value in said(old)} == {-1.0}, "missing"
        found = said(new)
        assert 0 <= min(found) < max(found) <= 1
        assert all(math.copysign(1.0, value) > 0 for value in found)
        assert len(set(found)) > USERS
        assert (first.end(), worker.end()) == (0, 0)


def test_remote_answers_a_killed_inference_worker_and_its_return(
    fleet: Fleet, watcher: Watcher, tmp_path: Path
) -> None:
    of = fleet.deployment
    inference, member = Inference(of.settings, of.tasks, of.config), ("--instance-id", "gpu-1")
    version = fleet.models.register()
    fleet.tell(watcher, fleet.models.update("promote", version))
    with Worker(fleet.deployment, tmp_path / "worker.log", **TELLS_KERNELS) as worker:
        with Worker(inference, tmp_path / "inference.log", *member, **TELLS_KERNELS) as first:
            first.until(first.ready, "it has partitions")
            worker.until(worker.ready, "it has partitions")
            rows = fleet.step(watcher, worker)
            assert (versions(rows), {row["degraded"] for row in rows}) == ({(version, 0)}, {False})
            assert counts(rows, version) == [1.0] * USERS + [2.0] * USERS + [3.0] * USERS
            assert first.late_kernels() == []
            first.end(signal.SIGKILL)
        # Without it every event is still decided, on the online model alone, and after a few batches without waiting.
        rows = [row for _ in range(4) for row in fleet.step(watcher, worker, each=1)]
        assert (versions(rows), {row["degraded"] for row in rows}) == ({(0, 0)}, {True})
        worker.until(lambda: circuit(worker) == 0, "it does not wait any more")
        assert "in a row had no answer within 1 s" in worker.log
        with Worker(inference, tmp_path / "again.log", *member) as again:
            again.until(again.ready, "it has partitions")
            # Its states take in what was asked meanwhile; then answers come in time, and batches wait for them again.
            worker.until(lambda: fleet.step(watcher, worker, each=1) and circuit(worker) == 2, "it waits again")
            rows = fleet.step(watcher, worker, each=1)
            assert (versions(rows), {row["degraded"] for row in rows}) == ({(version, 0)}, {False})
            assert counts(rows, version) == [min(8.0, fleet.sent / USERS)] * USERS
            row = run_weir(fleet.deployment, "features", "get", "user-1", "--table", "spend.full", "--json").document
            assert row[0]["lane"]["topic"] == topics.INFERENCE_REQUESTS
            assert row[0]["values"]["seen"] == fleet.sent / USERS  # nothing was taken in twice, nothing was left out
            assert again.end() == 0
        assert worker.late_kernels() == []
        assert worker.end() == 0
    for log in ("worker.log", "inference.log", "again.log"):
        assert "Traceback" not in (tmp_path / log).read_text()
    check_partitions(fleet)


def check_partitions(fleet: Fleet) -> None:
    """A request and its answer are in the partition of the number of their events'."""
    asked = {
        decode_request(each.record.value).id: (partition, len(decode_request(each.record.value).event_id))
        for partition, log in fleet.deployment.read(topics.INFERENCE_REQUESTS).items()
        for each in log
    }
    for partition, log in fleet.deployment.read(topics.INFERENCE_RESULTS).items():
        for each in log:
            answer = decode_answer(each.record.value)
            assert asked[answer.id] == (partition, answer.rows)
            assert answer.values[:, 0].min() >= LOGIT
