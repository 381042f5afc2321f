"""Keeps workers running as a supervisor would, and makes trouble on a seeded schedule.

`Supervisor` restarts every worker that ends; `Chaos` kills workers, Redis and brokers at random moments. Neither knows
what the workers do.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class _Slot:
    """One worker's place: the process in it now, and what became of those before."""

    number: int
    log: Path
    process: subprocess.Popen[bytes] | None = None
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
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        count: int,
        folder: Path,
        environment: dict[str, str] | None = None,
        backoff_s: float = 1.0,
    ) -> None:
        self._command, self._backoff_s = command, backoff_s
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", **(environment or {})}
        self.slots = [_Slot(n, folder / f"worker-{n}.log") for n in range(count)]
        self._lock, self._enough = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor")

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
                slot.process = subprocess.Popen(
                    list(self._command(slot.number)), env=self._environment, stdout=out, stderr=out
                )
            slot.starts += 1

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill a worker; it is started again."""
        with self._lock:
            slot = self.slots[number]
            if slot.process is not None and slot.process.poll() is None:
                slot.killed, slot.kills = True, slot.kills + 1
                slot.process.send_signal(how)

    def retire(self, number: int, how: signal.Signals) -> None:
        """End a worker for good."""
        self.slots[number].retired = True
        self.kill(number, how)

    def kill_random(self, rng: random.Random) -> None:
        """Kill one of them."""
        self.kill(rng.randrange(len(self.slots)))

    def stop(self, timeout_s: float = 40.0) -> list[int]:
        """End all in a clean way and stop watching; their exit statuses."""
        self._end_watch()
        running = self._running()
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired as late:
                raise AssertionError(f"a worker did not stop within {timeout_s:g} s; logs: {self.logs}") from late
        return [process.returncode for process in running]

    def _end_watch(self) -> None:
        self._enough.set()
        if self._thread.is_alive():
            self._thread.join()

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [slot.process for slot in self.slots if slot.process is not None and slot.process.poll() is None]

    @property
    def logs(self) -> str:
        """Where the logs are."""
        return ", ".join(str(slot.log) for slot in self.slots)

    def text(self) -> str:
        """Every log."""
        return "".join(slot.log.read_text(errors="replace") for slot in self.slots if slot.log.exists())

    def tail(self, lines: int = 25) -> str:
        """The end of each log, for a failure's message."""
        there = [slot.log for slot in self.slots if slot.log.exists()]
        ends = ["\n".join(log.read_text(errors="replace").splitlines()[-lines:]) for log in there]
        return "\n".join(f"{log}:\n{end}" for log, end in zip(there, ends, strict=True))

    def until(self, what: Callable[[], object], why: str, timeout_s: float) -> None:
        """Wait for something that the workers will make true; fails with the end of their logs."""
        deadline = time.monotonic() + timeout_s
        while not what():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s:g} s: {why}\n{self.tail()}")
            time.sleep(0.02)  # between two looks; nobody tells

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


@dataclass(frozen=True)
class Trouble:
    """Something that happens every ``every_s`` (drawn between the two numbers), or once at ``at_s``."""

    name: str
    act: Callable[[random.Random], None]
    every_s: tuple[float, float] | None = None
    at_s: float | None = None

    def next_after(self, now: float, rng: random.Random) -> float | None:
        """Seconds from the start at which it happens next."""
        return now + rng.uniform(*self.every_s) if self.every_s is not None else None


class Chaos:
    """Acts out troubles from a thread of its own; what an act raises is raised by `stop`.

    Each trouble draws from a generator of its own, so a slow one does not change what the others do.
    """

    def __init__(self, troubles: Sequence[Trouble], seed: int) -> None:
        self._troubles = [(t, random.Random(f"{seed}/{t.name}")) for t in troubles]
        self.done: list[tuple[float, str]] = []
        self._enough = threading.Event()
        self._failed: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=pair, name=f"chaos-{pair[0].name}") for pair in self._troubles
        ]
        self._started = 0.0

    def __enter__(self) -> Chaos:
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._enough.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def stop(self) -> None:
        """No more trouble; waits for what is under way and raises what went wrong in it."""
        self._end()
        if self._failed:
            raise self._failed[0]

    def run_for(self, seconds: float) -> None:
        """Let it go on for so long from the start, then `stop`."""
        self._enough.wait(max(0.0, self._started + seconds - time.monotonic()))
        self.stop()

    def _run(self, trouble: Trouble, rng: random.Random) -> None:
        due = trouble.at_s if trouble.at_s is not None else trouble.next_after(0.0, rng)
        try:
            while due is not None and not self._enough.wait(max(0.0, self._started + due - time.monotonic())):
                self.done.append((time.monotonic() - self._started, trouble.name))
                trouble.act(rng)
                due = trouble.next_after(due, rng)
        except BaseException as error:  # noqa: BLE001 - it is raised where the test waits
            self._failed.append(error)
