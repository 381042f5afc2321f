"""Keeps workers running as a supervisor would: every one that ends is started again. It does not know what they do."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol


class Process(Protocol):
    """What is used of `subprocess.Popen`."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def returncode(self) -> int | None:
        """Its exit status, once somebody asked."""

    def poll(self) -> int | None:
        """Its exit status, or ``None``."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has one; raises `subprocess.TimeoutExpired`."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""

    def kill(self) -> None:
        """Send SIGKILL."""


def _start(command: Sequence[str], environment: Mapping[str, str], out: IO[bytes]) -> Process:
    return subprocess.Popen(command, env=environment, stdout=out, stderr=out)


@dataclass
class _Slot:
    """One worker's place: the process in it now, and what became of those before."""

    number: int
    log: Path
    process: Process | None = None
    starts: int = 0
    kills: int = 0
    ended: list[int] = field(default_factory=list)
    """Exit statuses of those that were not killed by us, oldest first."""
    killed: bool = False
    retired: bool = False
    restart_at: float = 0.0
    peak_bytes: int = 0
    """The most memory that one of them held, where the system tells (Linux)."""


class Supervisor:
    """Runs ``count`` workers and restarts each that ends, until told to stop; a context manager.

    Parameters
    ----------
    command : argument lists by the worker's number.
    count : how many.
    folder : where ``worker-N.log`` go.
    environment : added to ours.
    backoff_s : pause before a worker that ended by itself starts again, as a supervisor makes one.
    start : starts a process from its arguments, environment and log; else `subprocess.Popen` does.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        count: int,
        folder: Path,
        environment: dict[str, str] | None = None,
        backoff_s: float = 1.0,
        start: Callable[[Sequence[str], Mapping[str, str], IO[bytes]], Process] | None = None,
    ) -> None:
        self._command, self._backoff_s, self._start = command, backoff_s, start or _start
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", **(environment or {})}
        self.slots = [_Slot(n, folder / f"worker-{n}.log") for n in range(count)]
        self._lock, self._enough = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor")
        self._needs: list[Callable[[], None]] = []

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_watch()
        for process in self._running():
            process.kill()
            process.wait()

    def _watch(self) -> None:
        while not self._enough.wait(0.02):
            with self._lock:
                for slot in self.slots:
                    self._tend(slot)

    def _tend(self, slot: _Slot) -> None:
        """Start it when it is not running and it is time."""
        if slot.process is not None:
            slot.peak_bytes = max(slot.peak_bytes, _peak_bytes(slot.process.pid))
        if slot.process is not None and (status := slot.process.poll()) is not None:
            slot.process = None
            if not slot.killed:
                slot.ended.append(status)
                slot.restart_at = time.monotonic() + self._backoff_s
            slot.killed = False
        if slot.process is None and not slot.retired and time.monotonic() >= slot.restart_at:
            with slot.log.open("ab") as out:
                out.write(b"-- start %d at %.3f\n" % (slot.starts, time.time()))
                out.flush()
                slot.process = self._start(self._command(slot.number), self._environment, out)
            slot.starts += 1

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill a worker; it is started again."""
        with self._lock:
            slot = self.slots[number]
            if slot.process is not None and slot.process.poll() is None:
                slot.killed, slot.kills = True, slot.kills + 1
                slot.process.send_signal(how)

    def kill_random(self, rng: random.Random) -> None:
        """Kill one of them."""
        self.kill(rng.randrange(len(self.slots)))

    def stop(self, timeout_s: float = 40.0) -> list[int]:
        """End all in a clean way and stop watching; their exit statuses."""
        self._end_watch()
        running = self._running()
        for process in running:
            process.send_signal(signal.SIGTERM)
        statuses = []
        for process in running:
            try:
                statuses.append(process.wait(timeout_s))
            except subprocess.TimeoutExpired as late:
                raise AssertionError(f"a worker did not stop within {timeout_s:g} s; logs: {self.logs}") from late
        return statuses

    def _end_watch(self) -> None:
        self._enough.set()
        if self._thread.is_alive():
            self._thread.join()

    def _running(self) -> list[Process]:
        return [slot.process for slot in self.slots if slot.process is not None and slot.process.poll() is None]

    @property
    def logs(self) -> str:
        """Where the logs are."""
        return ", ".join(str(slot.log) for slot in self.slots)

    def tail(self, lines: int = 25) -> str:
        """The end of each log, for a failure's message."""
        there = [slot.log for slot in self.slots if slot.log.exists()]
        ends = ["\n".join(log.read_text(errors="replace").splitlines()[-lines:]) for log in there]
        return "\n".join(f"{log}:\n{end}" for log, end in zip(there, ends, strict=True))

    def needs(self, check: Callable[[], None]) -> None:
        """Let waiting end with what ``check`` raises: without a feeder, say, the workers make nothing true."""
        self._needs.append(check)

    def check(self) -> None:
        """Raise what makes it vain to wait; see `needs`."""
        for check in self._needs:
            check()

    def until(self, what: Callable[[], object], why: str, timeout_s: float) -> None:
        """Wait for something that the workers will make true; fails with the end of their logs, or see `needs`."""
        began = time.monotonic()
        deadline = began + timeout_s
        while not what():
            self.check()
            now = time.monotonic()
            if now > deadline:
                raise AssertionError(f"not within {timeout_s:g} s: {why}\n{self.tail()}")
            time.sleep(max(0.02, 2 * (now - began)))  # nobody tells; looks leave the cores to the workers
            began = time.monotonic()

    def report(self) -> dict[str, Any]:
        """Starts, kills, the exit statuses of workers that ended by themselves, and the peak of their memory."""
        return {
            "starts": sum(s.starts for s in self.slots),
            "kills": sum(s.kills for s in self.slots),
            "ended": [status for s in self.slots for status in s.ended],
            "peak_rss_mb": round(max(s.peak_bytes for s in self.slots) / 1e6),
        }


def _peak_bytes(pid: int) -> int:
    """Peak resident memory of a process; 0 where the system does not tell, or it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)
