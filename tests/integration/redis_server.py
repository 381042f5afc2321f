"""A real redis-server for the tests and benchmarks: on its own directory and free port, stopped by pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.kafka_broker import eventually, free_ports
from tests.integration.orphans import leave_none
from weir.streams.config.settings import RedisSettings, SecretUrl

HOW_TO_GET_ONE = (
    "no redis-server for the integration tests: apt-get install redis-server (7.0 or newer), or, for the tests that "
    "need no server of their own, WEIR_TEST_REDIS=redis://host:port/db of one whose keys may be deleted"
)


class NoRedis(Exception):  # noqa: N818 - an answer, not a fault
    """There is none to be had; the message says how to get one."""


@dataclass
class Certificates:
    """A certificate for 127.0.0.1 and the authority that signed it."""

    directory: Path
    ca: Path = field(init=False)
    certificate: Path = field(init=False)
    key: Path = field(init=False)

    def __post_init__(self) -> None:
        self.ca, self.certificate = self.directory / "ca.pem", self.directory / "server.pem"
        self.key = self.directory / "server.key"

    def make(self) -> Certificates:
        """Write them, by the ``openssl`` command."""
        if shutil.which("openssl") is None:
            raise NoRedis("no openssl to make certificates for the TLS tests: apt-get install openssl")
        self.directory.mkdir(parents=True, exist_ok=True)
        ca_key, request, names = (self.directory / name for name in ("ca.key", "server.csr", "names.cnf"))
        names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        new = ["-newkey", "rsa:2048", "-nodes"]
        sign = ["-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial", "-extfile", names, "-days", "2"]
        for command in (
            ["req", "-x509", *new, "-keyout", ca_key, "-out", self.ca, "-days", "2", "-subj", "/CN=weir-test-ca"],
            ["req", *new, "-keyout", self.key, "-out", request, "-subj", "/CN=127.0.0.1"],
            ["x509", "-req", "-in", request, *sign, "-out", self.certificate],
        ):
            subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
        return self


class RedisServer:
    """One redis-server.

    Parameters
    ----------
    directory : for its data, log and configuration.
    aof : whether it logs every write and syncs the log each second.
    tls : certificates; then it speaks nothing but TLS.
    acl : lines of an ACL file, such as ``user weir on >secret ~weir:* +get``.
    cluster : be a cluster of one node that has all slots.
    options : more of its configuration, such as ``{"maxmemory": "4mb"}``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        aof: bool = False,
        tls: Certificates | None = None,
        acl: Sequence[str] = (),
        cluster: bool = False,
        options: dict[str, str] | None = None,
    ) -> None:
        if shutil.which("redis-server") is None:
            raise NoRedis(HOW_TO_GET_ONE)
        self.directory, self._tls, self._acl, self._cluster = directory, tls, list(acl), cluster
        self.port, self._bus_port = free_ports(2)
        self._options = {"appendonly": "yes" if aof else "no"} | (options or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    def settings(self, *, username: str | None = None, password: str | None = None) -> RedisSettings:
        """Settings that reach it."""
        ca = {"ca_file": self._tls.ca} if self._tls else {}
        given = {"username": username, "password": password, **ca}
        return RedisSettings.model_validate({"url": SecretUrl(self.url), **{k: v for k, v in given.items() if v}})

    def _configuration(self) -> str:
        lines: dict[str, object] = {
            "bind": "127.0.0.1",
            "port": 0 if self._tls else self.port,
            "dir": self.directory,
            "logfile": self.directory / "log.txt",
            "save": '""',
            "appendfsync": "everysec",
            "enable-debug-command": "yes",
        }
        if self._tls:
            lines |= {"tls-port": self.port, "tls-cert-file": self._tls.certificate, "tls-key-file": self._tls.key}
            lines |= {"tls-ca-cert-file": self._tls.ca, "tls-auth-clients": "no"}
        if self._acl:
            (self.directory / "users.acl").write_text("\n".join(self._acl) + "\n")
            lines["aclfile"] = self.directory / "users.acl"
        if self._cluster:
            lines |= {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-port": self._bus_port}
        return "".join(f"{name} {value}\n" for name, value in (lines | self._options).items())

    def start(self) -> RedisServer:
        """Start it, or start it again on its own data; returns when it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "redis.conf"
        config.write_text(self._configuration())
        process = self._launch(config)
        if process.poll() is not None and "the truncated file is not the last file" in self._log():
            process = self._launch(config)  # as a supervisor does; it has cut the file, and can read it now
        if process.poll() is not None:
            raise RuntimeError(f"redis-server ended at once; its log ends: {self._log()}")
        if self._cluster:
            self.send("CLUSTER ADDSLOTSRANGE 0 16383")
            eventually(lambda: b"cluster_state:ok" in self.send("CLUSTER INFO"), 20, "the cluster is whole")
        return self

    def _launch(self, config: Path) -> subprocess.Popen[bytes]:
        self._process = process = subprocess.Popen(
            ["redis-server", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        leave_none(process.pid)
        eventually(lambda: process.poll() is not None or self._answers(), 20, f"it answers; see {self.directory}")
        return process

    def _log(self) -> str:
        log = self.directory / "log.txt"
        return log.read_text()[-1000:] if log.exists() else "(there is none: its configuration is wrong)"

    def send(self, command: str) -> bytes:
        """One inline command over a connection of its own; the raw answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain:
            if self._tls is None:
                return _talk(plain, command)
            context = ssl.create_default_context(cafile=self._tls.ca)
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
                return _talk(wrapped, command)

    def _answers(self) -> bool:
        try:
            answer = self.send("PING")
        except OSError:
            return False
        return bool(answer) and not answer.startswith(b"-LOADING")

    @property
    def appended(self) -> Path | None:
        """The file that it appends to."""
        files = (self.directory / "appendonlydir").glob("*.incr.aof")
        return max(files, key=lambda path: int(path.name.split(".")[-3]), default=None)  # appendonly.aof.3.incr.aof

    def kill_written(self) -> None:
        """End it as a crash would, but not before its log holds every write: while it flushes it holds writes back."""
        while b"aof_buffer_length:0\r" not in self.send("INFO persistence"):
            time.sleep(0.01)
        self.kill()

    def kill(self) -> None:
        """End it as a crash would."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again on its own data, ending it as a crash would if it runs."""
        self.kill()
        self.start()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def freeze(self) -> None:
        """Leave its connections open and answer nothing, as a hung machine would."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("this redis-server does not run; start() it first")
        self._process.send_signal(number)


class NamedRedis:
    """A server that someone else runs: it can be used, not stopped."""

    def __init__(self, url: str) -> None:
        self.url = url

    def settings(self) -> RedisSettings:
        """Settings that reach it."""
        return RedisSettings(url=SecretUrl(self.url))

    def stop(self) -> None:
        """Leave it running."""


def find_redis(directory: Path) -> RedisServer | NamedRedis:
    """A running server: the one that ``WEIR_TEST_REDIS`` names, or one of our own; raises `NoRedis`."""
    if url := os.environ.get("WEIR_TEST_REDIS"):
        return NamedRedis(url)
    return RedisServer(directory).start()


def _talk(connection: socket.socket, command: str) -> bytes:
    connection.sendall(command.encode() + b"\r\n")
    return connection.recv(65_536)
