"""A real Kafka for the tests and benchmarks: found or started, on its own directory and free ports, stopped by pid.

Looked for in this order: ``WEIR_TEST_KAFKA`` (an address, used as it is), the ``libs`` of ``KAFKA_HOME``, the ``libs``
of ``kafka/`` in the shared folder (``WEIR_SHARED``, else ``../shared`` beside the repository or beside the one that it
was cloned from), Docker.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HOW_TO_GET_ONE = (
    "no Kafka for the integration tests. Any one of these will do: WEIR_TEST_KAFKA=host:port of a running broker; "
    "KAFKA_HOME=an unpacked download from https://kafka.apache.org/downloads, with Java 17 or newer; WEIR_SHARED=a "
    "folder that holds kafka/libs, with Java; a Docker engine"
)
_IMAGE = "apache/kafka:4.1.0"
_LOG4J = """\
status = error
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = stdout
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = [%d] %p %m (%c)%n
"""


class NoKafka(Exception):  # noqa: N818 - an answer, not a fault
    """There is none to be had; the message says how to get one."""


def eventually(what: Callable[[], object], timeout_s: float, why: str) -> None:
    """Wait until ``what()`` is true; fails with ``why``."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {why}")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Broker:
    """A broker that someone else runs: it can be used, not stopped."""

    address: str
    origin: str
    can_restart: bool = field(default=False, init=False)

    def start(self) -> None:
        """Start it, or start it again on its own data."""

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it; ``SIGKILL`` as a crash would."""


class JavaBroker(Broker):
    """One combined broker and controller from a folder of jars."""

    def __init__(self, libs: Path, directory: Path, heap: str = "512m") -> None:
        self._port, self._controller = free_ports(2)
        super().__init__(f"127.0.0.1:{self._port}", f"started from {libs}")
        self.can_restart = True
        self._classpath, self._directory, self._heap = str(libs / "*"), directory, heap
        self._process: subprocess.Popen[bytes] | None = None

    def _java(self, heap: str, *args: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={self._directory / 'log4j2.properties'}"
        return ["java", f"-Xmx{heap}", "-XX:+UseG1GC", log4j, "-cp", self._classpath, *args]

    def _format(self, config: Path) -> None:
        self._directory.mkdir(parents=True)
        (self._directory / "log4j2.properties").write_text(_LOG4J)
        listener = f"CLIENT://127.0.0.1:{self._port}"
        lines = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{listener},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": listener,
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "log.dirs": self._directory / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
        }
        config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        storage = self._java("128m", "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c")
        subprocess.run([*storage, str(config)], check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start it, or start it again on its own data; returns when it listens."""
        config = self._directory / "server.properties"
        if not config.exists():
            self._format(config)
        log = self._directory / "log.txt"
        with log.open("ab") as out:
            self._process = process = subprocess.Popen(
                self._java(self._heap, "kafka.Kafka", str(config)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests, which stop the broker themselves
            )
        eventually(
            lambda: process.poll() is not None or _listens(self._port), 60, f"the broker listens; its log is {log}"
        )
        if process.poll() is not None:
            raise NoKafka(f"the broker from {self._classpath} ended at once; its log ends: {log.read_text()[-2000:]}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it; ``SIGKILL`` as a crash would."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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
        eventually(lambda: _listens(self._port), 60, f"the container {self._name} listens")

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


def find_broker(directory: Path) -> Broker:
    """The first Kafka there is, not started yet; raises `NoKafka` with what to do about it."""
    if address := os.environ.get("WEIR_TEST_KAFKA"):
        return Broker(address, "named by WEIR_TEST_KAFKA")
    shared = shared_folder() / "kafka"
    homes = [Path(home) for home in [os.environ.get("KAFKA_HOME")] if home] + [shared]
    with_jars = [home / "libs" for home in homes if any((home / "libs").glob("kafka-server-*.jar"))]
    if with_jars and shutil.which("java"):
        return JavaBroker(with_jars[0], directory)
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        return DockerBroker()
    found = f"; {with_jars[0]} is there, but no java on the PATH" if with_jars else ""
    raise NoKafka(HOW_TO_GET_ONE + found)


def unavailable(reason: str) -> None:
    """Skip here; fail where integration tests are required, as in continuous integration."""
    if os.environ.get("WEIR_REQUIRE_INTEGRATION") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
