"""Kafka from a folder of jars: one broker, or several, on their own directories and free ports, stopped by pid.

Every broker has two listeners: CLIENT for what is tested, which can want TLS and SASL and can be advertised at another
port (a proxy's), and INTERNAL for the brokers among themselves and for the tests' own look at them (``direct``).
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.integration.kafka_prepared import Prepared, prepared
from tests.integration.kafka_secrets import Secrets
from tests.integration.orphans import leave_none

_LOG4J = """\
status = error
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = stdout
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = [%d] %p %m (%c)%n
"""
_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"
_QUICK = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class NoKafka(Exception):  # noqa: N818 - an answer, not a fault
    """There is none to be had; the message says how to get one."""


def eventually(what: Callable[[], object], timeout_s: float, why: str) -> None:
    """Wait until ``what()`` is true; fails with ``why``."""
    began = time.monotonic()
    deadline = began + timeout_s
    while not what():
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"not within {timeout_s} s: {why}")
        time.sleep(max(0.02, 2 * (now - began)))  # who asks a broker much leaves the cores to who is waited for
        began = time.monotonic()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def listens(port: int) -> bool:
    """Whether something on this machine does."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Broker:
    """A broker that someone else runs: it can be used, not stopped."""

    address: str
    origin: str
    can_restart: bool = field(default=False, init=False)

    @property
    def direct(self) -> str:
        """Where the tests look at it themselves: plain text, and past a proxy."""
        return self.address

    def start(self) -> None:
        """Start it, or start it again on its own data."""

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it; ``SIGKILL`` as a crash would."""


class Ports:
    """Ports of one node."""

    def __init__(self) -> None:
        self.client, self.internal, self.controller = free_ports(3)


class JavaBroker(Broker):
    """One combined broker and controller from a folder of jars.

    Parameters
    ----------
    advertised : the port that clients of CLIENT are told, such as a proxy's.
    secrets : CLIENT wants SASL over TLS with these.
    quick : compile for a fast start and not for speed, where nothing is measured.
    nodes, number : the ports of all nodes of its cluster, and which of them it is, from 0.
    prepares : it makes these files for all other brokers.
    """

    def __init__(
        self,
        libs: Path,
        directory: Path,
        heap: str = "512m",
        *,
        advertised: int | None = None,
        secrets: Secrets | None = None,
        quick: bool = False,
        nodes: Sequence[Ports] = (),
        number: int = 0,
        prepares: Prepared | None = None,
    ) -> None:
        self._nodes = list(nodes) or [Ports()]
        self._number, self._ports = number, self._nodes[number]
        super().__init__(f"127.0.0.1:{advertised or self._ports.client}", f"started from {libs}")
        self.can_restart = True
        self._advertised, self._secrets = advertised or self._ports.client, secrets
        self._libs, self._directory, self._heap = libs, directory, heap
        self._prepares = prepares
        self._flags = _QUICK if quick else ("-XX:+UseG1GC",)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def direct(self) -> str:
        """Its INTERNAL listener."""
        return f"127.0.0.1:{self._ports.internal}"

    @property
    def port(self) -> int:
        """Where CLIENT really listens."""
        return self._ports.client

    def _java(self, heap: str, flags: Sequence[str], *args: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={self._directory / 'log4j2.properties'}"
        return ["java", f"-Xmx{heap}", *flags, log4j, "-cp", str(self._libs / "*"), *args]

    def _prepared(self) -> Prepared:
        return self._prepares or prepared(self._libs, partial(_prepare, self._libs))

    def _properties(self) -> dict[str, object]:
        at, copies = self._ports, min(3, len(self._nodes))
        internal = f"INTERNAL://127.0.0.1:{at.internal}"
        client = "PLAINTEXT" if self._secrets is None else "SASL_SSL"
        voters = [f"{i + 1}@127.0.0.1:{node.controller}" for i, node in enumerate(self._nodes)]
        return {
            "process.roles": "broker,controller",
            "node.id": self._number + 1,
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLIENT://127.0.0.1:{at.client},{internal},CONTROLLER://127.0.0.1:{at.controller}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{self._advertised},{internal}",
            "listener.security.protocol.map": f"CLIENT:{client},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INTERNAL",
            "log.dirs": self._directory / "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "min.insync.replicas": max(1, copies - 1),
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": max(1, copies - 1),
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": max(1, copies - 1),
            "group.initial.rebalance.delay.ms": 0,
            # Tests write records of years ago, which go when the broker looks for old ones: half a minute after it
            # started, and every 5 minutes. What is to go, tests delete themselves.
            "log.retention.check.interval.ms": 86_400_000,
            "log.initial.task.delay.ms": 86_400_000,
            "broker.session.timeout.ms": 3000,  # after a kill, leaders move after that; Kafka's default is 9000
            "broker.heartbeat.interval.ms": 500,
            **({} if self._secrets is None else self._secrets.broker_properties()),
        }

    def _format(self, config: Path) -> None:
        self._directory.mkdir(parents=True)
        (self._directory / "log4j2.properties").write_text(_LOG4J)
        config.touch(mode=0o600)
        config.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        data, shared = self._directory / "data", self._prepared()
        if self._secrets is None and self._prepares is None:
            shared.format(data, _CLUSTER_ID, self._number + 1)
            return
        scram = [] if self._secrets is None else self._secrets.scram_arguments()
        flags = (*_QUICK, *shared.flags)
        storage = self._java("128m", flags, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c")
        subprocess.run([*storage, str(config), *scram], check=True, stdout=subprocess.DEVNULL)
        if self._prepares is not None:
            shutil.copy(data / self._prepares.checkpoint.name, self._prepares.checkpoint)

    def start(self) -> None:
        """Start it, or start it again on its own data; returns when it listens."""
        self.launch()
        self.await_listening()

    def launch(self) -> None:
        """Start its process."""
        config = self._directory / "server.properties"
        if not config.exists():
            self._format(config)
        made = () if self._prepares is None else (f"-XX:ArchiveClassesAtExit={self._prepares.classes}",)
        flags = (*self._flags, *(made or self._prepared().flags))
        with (self._directory / "log.txt").open("ab") as out:
            self._process = subprocess.Popen(
                self._java(self._heap, flags, "kafka.Kafka", str(config)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests, which stop the broker themselves
            )
        leave_none(self._process.pid)

    def await_listening(self) -> None:
        """Wait until the process that was started listens; `NoKafka` if it ends instead."""
        process, log = self._process, self._directory / "log.txt"
        assert process is not None
        up = [self._ports.client, self._ports.internal]
        eventually(
            lambda: process.poll() is not None or all(map(listens, up)), 60, f"the broker listens; its log is {log}"
        )
        if process.poll() is not None:
            raise NoKafka(f"the broker from {self._libs} ended at once; its log ends: {log.read_text()[-2000:]}")

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


def _prepare(libs: Path, files: Prepared) -> None:
    with TemporaryDirectory(prefix="weir-kafka-") as folder:
        broker = JavaBroker(libs, Path(folder) / "broker", "256m", quick=True, prepares=files)
        broker.start()
        broker.stop()


class JavaCluster(Broker):
    """Several brokers: topics have as many copies, three at most, and one of these may be missing."""

    def __init__(self, libs: Path, directory: Path, brokers: int = 3, heap: str = "256m") -> None:
        nodes = [Ports() for _ in range(brokers)]
        self.brokers = [
            JavaBroker(libs, directory / f"broker-{n + 1}", heap, quick=True, nodes=nodes, number=n)
            for n in range(brokers)
        ]
        super().__init__(",".join(broker.address for broker in self.brokers), self.brokers[0].origin)
        self.can_restart = True

    def start(self) -> None:
        """Start all of them, or start them again; returns when they listen."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.await_listening()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop them."""
        for broker in self.brokers:
            broker.stop(number)

    def kill(self, node_id: int) -> None:
        """SIGKILL one, by the number that Kafka calls it: from 1."""
        self.brokers[node_id - 1].stop(signal.SIGKILL)

    def revive(self, node_id: int) -> None:
        """Start it again on its own data."""
        self.brokers[node_id - 1].start()
