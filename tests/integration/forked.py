"""Processes of ``weir`` that are forked from one that has imported their modules: most of a start is imports.

A process is what ``python -m MODULE ARGUMENTS`` would be, with its own environment, folder, streams and exit status.
Two things differ: processes of one pytest process order their sets alike, and variables that imports read, as those of
numba, are those of pytest. So a process with other ones of these is started as any other (`start`).
"""

from __future__ import annotations

import array
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from benchmarks.torture.supervisor import Process
from tests.integration.kafka_broker import REPOSITORY
from tests.integration.orphans import leave_none

__all__ = ["ForkedProcess", "Process", "start"]
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
_NOT_IMPORTED = ("WEIR_", "PYTEST_")
"""Begin the names of variables that no import reads."""


class ForkedProcess:
    """A `Process`. Its parent, who has its exit status, tells it over a socket.

    Parameters
    ----------
    status : where ``pid`` and a descriptor of the process come, and at its end the exit status.
    """

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        told, (self._descriptor, *_), _, _ = socket.recv_fds(status, 64, 1)
        self.pid = int(told)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, or ``None``."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has one; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                told = self._status.recv(64)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from None
            assert told, "what forks processes has ended, and how this one ended is not known"
            self.returncode = int(told)
            self._status.close()
            os.close(self._descriptor)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            try:
                signal.pidfd_send_signal(self._descriptor, sig)
            except ProcessLookupError:
                return  # it ends at this moment

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Forks:
    """One process that has imported modules, and forks.

    Parameters
    ----------
    modules : what it imports.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.environment = {**os.environ, **_ONE_THREAD, "PYTHONFAULTHANDLER": "1"}
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            command = [
                sys.executable,
                "-P",
                str(Path(__file__).with_name("forking.py")),
                str(theirs.fileno()),
                *modules,
            ]
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip
        atexit.register(self.close)

    def close(self) -> None:
        """End it; who was forked goes on."""
        self._requests.close()
        self._process.wait()

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether a process with this environment would import what this one has."""
        before = {**self.environment, "PYTHONFAULTHANDLER": environment.get("PYTHONFAULTHANDLER", "")}
        names = {name for name, _ in set(before.items()) ^ set(environment.items())} - {"PYTHONFAULTHANDLER"}
        return all(name.startswith(_NOT_IMPORTED) for name in names)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, out: int) -> ForkedProcess:
        """Fork; ``arguments`` are those of ``python``."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            asked = json.dumps({"arguments": arguments, "environment": dict(environment), "cwd": str(cwd)})
            passed = array.array("i", [out, theirs.fileno()])
            self._requests.sendmsg([asked.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
        process = ForkedProcess(ours)
        leave_none(process.pid)
        return process


_WORKER = ("weir.streams.worker.run", "weir.streams.checks.link_checks", "kafka.admin", "numba.core.registry")
_IMPORTED = {
    "serve": ("weir.streams.service.run", "weir.streams.service.embedded.embedded_service"),
    "demo": (
        "weir.streams.demo.demo_loop", "weir.streams.demo.demo_warmup", "weir.streams.demo.screen.display",
        "weir.streams.demo.demo_console", "numba.core.registry",
    ),
}  # fmt: skip
"""What a command imports on its way; of those that are not here it is what a worker imports."""


@cache
def _forks(command: str) -> Forks:
    folder = "offline" if command == "demo" else "processes"
    return Forks((f"weir.streams.cli.{folder}.{command}", "rich.console", *_IMPORTED.get(command, _WORKER)))


def start(command: Sequence[str], environment: Mapping[str, str], out: IO[bytes], cwd: Path = REPOSITORY) -> Process:
    """Start ``python -m MODULE ...``, forked where that is the same; what it says goes to ``out``."""
    program, *arguments = command
    if program == sys.executable and "-m" in arguments[:2] and hasattr(signal, "pidfd_send_signal"):
        forks = _forks(next((command for command in _IMPORTED if command in arguments), "worker"))
        if forks.suits(environment):
            return forks.start(arguments, environment, cwd, out.fileno())
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        preexec_fn=_heed_interrupts,
    )  # fmt: skip
    leave_none(process.pid)
    return process


def _heed_interrupts() -> None:
    # A shell without jobs has its background processes ignore SIGINT, and whom they start inherits that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
