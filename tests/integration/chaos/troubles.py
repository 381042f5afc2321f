"""Trouble on a seeded schedule: workers, Redis and brokers that are killed at random moments."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


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
