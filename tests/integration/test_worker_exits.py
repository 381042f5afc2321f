"""However a worker ends, its last line is the reason, and its exit status the documented one."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker, eventually
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import DAY, PARTITIONS, simulated, unique
from tests.integration.worker_process import Watcher, Worker
from weir.streams.config import topics
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.ops.watchdog import EXIT_STATUS

pytestmark = pytest.mark.integration

DIVERGED, FIRE = "error: model 7 is not model 7", "error: RuntimeError: the machine is on fire"
ENDS = {
    "follower": (2, DIVERGED),
    "follower, a bug": (1, FIRE),
    "thread": (1, FIRE),
    "before": (2, DIVERGED),
    "before, a bug": (1, FIRE),
    "tick": (1, FIRE),
    "flush": (2, "error: the store says no"),
    "send": (2, "error: the brokers say no"),
    "twice": (2, DIVERGED),
    "on the way down, too": (2, DIVERGED),
}
STANDSTILLS = {"a lost batch": "['{}-0@0']", "a deaf thread": "a fetch of {}-0"}
"""What a watchdog says is in flight, by the fault."""


@dataclass(frozen=True)
class Faulty(Deployment):
    """A deployment whose worker has a fault."""

    fault: str = ""

    def command(self, *args: str) -> list[str]:
        program = [sys.executable, "-m", "tests.integration.faulty_worker", self.fault]
        return [*program, "worker", "--config", str(self.config), *args]


@pytest.fixture(scope="module")
def workers(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Worker]]:
    """A worker for each way to end, started some at once; they end by themselves."""
    folder = tmp_path_factory.mktemp("exits")
    deployment = Deployment.create(
        folder, kafka, redis_server.url, prefix=unique("exits"), partitions=PARTITIONS, tasks=("spend",)
    )
    made: dict[str, Worker] = {}
    with Watcher(deployment) as watcher, ExitStack() as stack:
        watcher.send(topics.USER_EVENTS, simulated(DAY)[topics.USER_EVENTS])
        for number, fault in enumerate(ENDS):
            faulty = Faulty(**{f.name: getattr(deployment, f.name) for f in fields(deployment)}, fault=fault)
            log = folder / f"{number}.log"
            own = {"WEIR_REDIS__PREFIX": f"{deployment.settings.redis.prefix}-{number}"}
            made[fault] = stack.enter_context(Worker(faulty, log, "--group", f"exits-{number}", **own))
            if number % 3 == 2:
                made[fault].wait()
        yield made


@pytest.mark.parametrize("fault", list(ENDS))
def test_the_last_line_is_the_reason(workers: dict[str, Worker], fault: str) -> None:
    worker = workers[fault]
    status = worker.wait()
    assert (status, worker.log.rstrip().splitlines()[-1]) == ENDS[fault], worker.log


def test_a_partition_that_stands_still_in_silence_ends_its_worker(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    """A batch that was lost on its way to its lane, and one that was never fetched, stopped a partition for ever."""
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("still"), partitions=1, tasks=("spend",),
        worker={"watchdog_s": 12},
    )  # fmt: skip
    with Watcher(deployment) as watcher, ExitStack() as stack:
        watcher.send(topics.USER_EVENTS, simulated(DAY)[topics.USER_EVENTS])
        made: dict[str, Worker] = {}
        for number, fault in enumerate(STANDSTILLS):
            faulty = Faulty(**{f.name: getattr(deployment, f.name) for f in fields(deployment)}, fault=fault)
            name, log = f"{deployment.settings.redis.prefix}-{number}", tmp_path / f"{number}.log"
            made[fault] = stack.enter_context(Worker(faulty, log, "--group", name, WEIR_REDIS__PREFIX=name))
        for fault, said in STANDSTILLS.items():
            assert made[fault].wait() == EXIT_STATUS, made[fault].log
            last = made[fault].log.rstrip().splitlines()[-1]
            assert "watchdog: no batch was completed for" in last
            assert said.format(deployment.settings.topics.name(topics.USER_EVENTS)) in last


def test_a_port_in_use_is_the_last_line(kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        deployment = Deployment.create(
            tmp_path, kafka, redis_server.url, prefix=unique("port"), tasks=("spend",), worker={"web_port": port}
        )
        with Worker(deployment, tmp_path / "worker.log") as worker:
            assert worker.wait() == 2
            last = worker.log.rstrip().splitlines()[-1]
            assert last.startswith(f"error: [worker] web_host = '127.0.0.1', web_port = {port}: the port is in use")


def test_a_deployment_of_before_lacks_the_topic_of_decisions(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(tmp_path, kafka, redis_server.url, prefix=unique("before"), tasks=("spend",))
    name = deployment.settings.topics.name(topics.DECISIONS)
    with admin_client(deployment.settings.kafka) as admin:
        admin.delete_topics([name])
        eventually(lambda: name not in admin.list_topics(), 30, "it is gone")
    with Worker(deployment, tmp_path / "told.log") as worker:
        assert worker.wait() == 2
        last = worker.log.rstrip().splitlines()[-1]
    assert last.startswith(f"error: [worker] decisions is set, and there is no topic {name} that this worker may write")
    assert "weir topics create" in last
    with (
        Watcher(deployment) as watcher,
        Worker(deployment, tmp_path / "untold.log", WEIR_WORKER__DECISIONS="false") as worker,
    ):
        watcher.send(topics.USER_EVENTS, simulated(DAY)[topics.USER_EVENTS])
        watcher.settle(worker)
        assert worker.end() == 0
