"""``weir demo`` as a process, and what it leaves in its directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration import forked
from weir.streams.embedded.embedded_log import read_directory
from weir.streams.records import Record

FULL_SPEED = ("--full-speed",)
PATIENCE_S = 240.0
"""Where other tests keep the processors busy a demo takes a minute."""


class DemoProcess:
    """A process of ``weir demo``; what it says goes to a file in its directory.

    Parameters
    ----------
    directory : of the demo.
    options : of the command; without ``--port`` it has no console.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._said = directory / f"said-{len(list(directory.glob('said-*')))}.txt"
        command = [sys.executable, "-P", "-m", "weir.streams.cli.main", "demo", "--dir", str(directory), *options]
        command += [] if "--port" in options else ["--no-console"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        with self._said.open("wb") as out:
            self._process = forked.start(command, environment, out)

    @property
    def output(self) -> str:
        """What it said so far."""
        return self._said.read_text()

    def finish(self) -> tuple[int, str]:
        """The status and the output of one that ends by itself; one that does not is ended, and an error."""
        try:
            return self._process.wait(PATIENCE_S), self.output
        except subprocess.TimeoutExpired:
            self.close()
            pytest.fail(f"the demo did not end within {PATIENCE_S:.0f} s: {self.output}")

    def until(self, ready: Callable[[], object]) -> None:
        """Wait until something is so; a process that ends before is an error."""
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < deadline, "the demo did not get there in time"
            try:
                status = self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"the demo ended with {status}: {self.output}")

    def end(self, how: signal.Signals) -> int:
        """Send a signal; the exit status."""
        self._process.send_signal(how)
        return self.finish()[0]

    def close(self) -> None:
        """End it, if it still runs."""
        self._process.kill()
        self._process.wait()


def checkpoint_newer_than(directory: Path, before: float) -> Callable[[], bool]:
    """Whether a demo has written a checkpoint since a time."""
    path = directory / "state" / "checkpoint.bin"
    return lambda: path.exists() and path.stat().st_mtime > before


def records(directory: Path, topic: str) -> list[tuple[int, int, Record]]:
    """(partition, offset, record) of everything in a topic."""
    batches = [batch for batch in read_directory(directory / "log") if batch.topic == topic]
    return [(b.partition, b.base_offset + i, r) for b in batches for i, r in enumerate(b.records)]
