"""A real Kafka for the tests and benchmarks: found, or started on its own directory and free ports (kafka_node.py).

Looked for in this order: ``WEIR_TEST_KAFKA`` (an address, used as it is), the ``libs`` of ``KAFKA_HOME``, the ``libs``
of ``kafka/`` in the shared folder (``WEIR_SHARED``, else ``../shared`` beside the repository or beside the one that it
was cloned from), Docker.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.kafka_node import Broker, JavaBroker, NoKafka, eventually, free_ports, listens

__all__ = [
    "REPOSITORY",
    "Broker",
    "DockerBroker",
    "JavaBroker",
    "NoKafka",
    "eventually",
    "find_broker",
    "find_jars",
    "free_ports",
    "shared_folder",
    "unavailable",
]
REPOSITORY = Path(__file__).resolve().parents[2]
HOW_TO_GET_ONE = (
    "no Kafka for the integration tests. Any one of these will do: WEIR_TEST_KAFKA=host:port of a running broker; "
    "KAFKA_HOME=an unpacked download from https://kafka.apache.org/downloads, with Java 17 or newer; WEIR_SHARED=a "
    "folder that holds kafka/libs, with Java; a Docker engine"
)
_IMAGE = "apache/kafka:4.1.0"


class DockerBroker(Broker):
    """One broker in a container of the Apache image."""

    def __init__(self) -> None:
        (self._port,) = free_ports(1)
        super().__init__(f"127.0.0.1:{self._port}", f"started from the Docker image {_IMAGE}")
        self.can_restart = True
        self._name = f"weir-test-{os.getpid()}-{self._port}"
        self._made = False

    def start(self) -> None:
        """Start it, or start it again on its own data; returns when it listens."""
        settings = {
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_LISTENERS": "CLIENT://:9092,CONTROLLER://:9093",
            "KAFKA_ADVERTISED_LISTENERS": f"CLIENT://127.0.0.1:{self._port}",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "KAFKA_INTER_BROKER_LISTENER_NAME": "CLIENT",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        }
        env = [part for name, value in settings.items() for part in ("-e", f"{name}={value}")]
        run = ["run", "-d", "--name", self._name, "-p", f"127.0.0.1:{self._port}:9092", *env, _IMAGE]
        command = ["start", self._name] if self._made else run
        done = subprocess.run(["docker", *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoKafka(f"docker {command[0]} failed: {done.stderr.strip()[-500:]}")
        self._made = True
        eventually(lambda: listens(self._port), 60, f"the container {self._name} listens")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it; ``SIGKILL`` as a crash would."""
        subprocess.run(["docker", "kill", f"--signal={number.name}", self._name], capture_output=True, check=False)
        subprocess.run(["docker", "wait", self._name], capture_output=True, check=False)

    def remove(self) -> None:
        """Stop it and forget its data."""
        subprocess.run(["docker", "rm", "-f", self._name], capture_output=True, check=False)


def shared_folder() -> Path:
    """Where the shared folder is, or would be."""
    if named := os.environ.get("WEIR_SHARED"):
        return Path(named)
    beside = REPOSITORY.parent / "shared"
    if not beside.is_dir():
        ask = ["git", "-C", str(REPOSITORY), "config", "--get", "remote.origin.url"]
        origin = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip().removeprefix("file://")
        if origin and (Path(origin).parent / "shared").is_dir():
            return Path(origin).parent / "shared"
    return beside


def find_jars() -> Path:
    """Kafka's jars, with a Java to run them; raises `NoKafka` with what to do about it."""
    homes = [Path(home) for home in [os.environ.get("KAFKA_HOME")] if home] + [shared_folder() / "kafka"]
    with_jars = [home / "libs" for home in homes if any((home / "libs").glob("kafka-server-*.jar"))]
    if with_jars and shutil.which("java"):
        return with_jars[0]
    raise NoKafka(HOW_TO_GET_ONE + (f"; {with_jars[0]} is there, but no java on the PATH" if with_jars else ""))


def find_broker(directory: Path, *, quick: bool = False) -> Broker:
    """The first Kafka there is, not started yet; raises `NoKafka` with what to do about it. ``quick``: `JavaBroker`."""
    if address := os.environ.get("WEIR_TEST_KAFKA"):
        return Broker(address, "named by WEIR_TEST_KAFKA")
    try:
        return JavaBroker(find_jars(), directory, quick=quick)
    except NoKafka:
        docker = ["docker", "info"]
        if shutil.which("docker") and subprocess.run(docker, capture_output=True, check=False).returncode == 0:
            return DockerBroker()
        raise


def unavailable(reason: str) -> None:
    """Skip here; fail where integration tests are required, as in continuous integration."""
    if os.environ.get("WEIR_REQUIRE_INTEGRATION") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
