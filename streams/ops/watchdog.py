"""Ends a worker that hangs, so that its supervisor starts it again.

A thread watches, so that a blocked event loop is seen too: when work is in flight, or a fetch has no answer, and no
batch was completed for ``limit_s``, or when the loop has not answered for so long, it dumps the stacks of all threads,
logs what was in flight and ends the process with `EXIT_STATUS`. The time that work waits for brokers or store, while
they are away, does not count. Should it be kept from running itself - native code that never lets go of the
interpreter - a timer of the C library ends the process ``grace_s`` later.

`LoopStall` notes how long the event loop stood still: whatever else is late meanwhile is not late by itself.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from weir.streams.errors import in_words

log = logging.getLogger(__name__)


EXIT_STATUS: Final = 70
"""EX_SOFTWARE of sysexits.h."""


@dataclass(frozen=True)
class WatchdogPolicy:
    """When a worker counts as hanging."""

    limit_s: float = 60.0
    """The longest time without a completed batch while there is work, and without an answer of the loop."""
    grace_s: float = 30.0
    """What the last resort waits on top."""


class WatchdogState:
    """What the watchdog knows. Time is an argument, monotonic seconds.

    >>> state = WatchdogState(WatchdogPolicy(limit_s=10), now=0.0)
    >>> state.started(5.0); state.answered(14.0); state.verdict(14.0)
    >>> state.answered(15.5); state.verdict(15.5)
    'no batch was completed for 10.5 s with 1 in flight; the limit is watchdog_s = 10'
    """

    def __init__(self, policy: WatchdogPolicy, now: float) -> None:
        self.policy = policy
        self.in_flight = 0
        self._moved_at = self._answered_at = now

    def started(self, now: float, batches: int = 1) -> None:
        """Work came in; the time without any does not count."""
        # The clock starts with the first work: an idle night is no hang.
        if not self.in_flight:
            self._moved_at = now
        self.in_flight += batches

    def completed(self, now: float, batches: int = 1) -> None:
        """Work was completed, or given up in an orderly way, as when a rebalance takes a partition away."""
        # Not below 0: batches that a rebalance dropped may still report their end.
        self.in_flight = max(self.in_flight - batches, 0)
        self._moved_at = now

    def holding(self, now: float, batches: int) -> None:
        """So many batches are in flight: corrects the count after batches were dropped, as a rebalance does."""
        if batches and not self.in_flight:
            self._moved_at = now
        self.in_flight = batches

    def waiting(self, now: float) -> None:
        """Work waits for brokers or store, whose own patience bounds that: it does not hang."""
        self._moved_at = now

    def answered(self, now: float) -> None:
        """The event loop turned."""
        self._answered_at = now

    def verdict(self, now: float) -> str | None:
        """Why the worker hangs; ``None`` while it does not."""
        limit_s = self.policy.limit_s
        if (silent_s := now - self._answered_at) > limit_s:
            return f"the event loop has not answered for {silent_s:.1f} s; the limit is watchdog_s = {limit_s:g}"
        if self.in_flight and (idle_s := now - self._moved_at) > limit_s:
            return (
                f"no batch was completed for {idle_s:.1f} s with {self.in_flight} in flight; "
                f"the limit is watchdog_s = {limit_s:g}"
            )
        return None


class Watchdog:
    """Watches a worker from a thread.

    Parameters
    ----------
    policy : the limits.
    describe : what is in flight, for the log; called from the watchdog's thread.
    waits : whether work waits for a link that is away; called from there, too.
    end : ends the process, for tests.
    """

    def __init__(
        self,
        policy: WatchdogPolicy,
        describe: Callable[[], object] = lambda: "unknown",
        end: Callable[[int], object] = os._exit,
        waits: Callable[[], object] = lambda: False,
    ) -> None:
        self._waits = waits
        self.state = WatchdogState(policy, time.monotonic())
        self._describe, self._end = describe, end
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch ``loop``; call it once the kernels are compiled, which blocks it for long."""
        self.state.answered(time.monotonic())
        self._thread = threading.Thread(target=self._watch, args=(loop,), name="weir-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            faulthandler.cancel_dump_traceback_later()

    def started(self, batches: int = 1) -> None:
        """Batches came in."""
        self.state.started(time.monotonic(), batches)

    def completed(self, batches: int = 1) -> None:
        """Batches were completed."""
        self.state.completed(time.monotonic(), batches)

    def holding(self, batches: int) -> None:
        """So many batches are in flight now."""
        self.state.holding(time.monotonic(), batches)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        policy = self.state.policy
        # So that a hang is seen a twentieth of the limit late at most.
        every_s = min(max(policy.limit_s / 20, 0.02), 1.0)
        while not self._stop.wait(every_s):
            # Set again at each look: it fires only when this thread no longer gets to run.
            faulthandler.dump_traceback_later(policy.limit_s + policy.grace_s, exit=True)
            try:
                # Asked, not measured: a loop that is blocked does not run it.
                loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop is closed: the worker has ended
                return
            if self._waits():
                self.state.waiting(time.monotonic())
            if (why := self.state.verdict(time.monotonic())) is not None:
                self._bark(why)
                return

    def _answer(self) -> None:
        self.state.answered(time.monotonic())

    def _bark(self, why: str) -> None:
        faulthandler.dump_traceback(all_threads=True)  # before the reason, which is the last line
        log.critical("watchdog: %s; in flight: %s; ending with status %d", why, self._told(), EXIT_STATUS)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._end(EXIT_STATUS)

    def _told(self) -> object:
        try:
            return self._describe()
        except Exception as error:  # noqa: BLE001 - whatever it is, the process must end
            return f"not known ({in_words(error)})"


EVERY_S: Final = 0.05
KEPT_S: Final = 60.0
_NOTED_S: Final = 0.1
"""Shorter ones are part of the work."""


class LoopStall:
    """Turns with the loop, and notes where a turn came late.

    >>> time = iter([0.0, 0.05, 3.1, 3.15, 3.16, 3.17]).__next__
    >>> stall = LoopStall(time)
    >>> stall.turned(); stall.turned(); stall.turned()
    >>> round(stall.since(2.0), 3), stall.since(3.12)
    (3.0, 0.0)
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._turned_at = now()
        self._noted: deque[tuple[float, float]] = deque()
        """When each ended, and its seconds."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, in the loop that runs."""
        self._turned_at = self._now()
        self._again()

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def turned(self) -> None:
        """The loop turned."""
        now = self._now()
        late_s = now - self._turned_at - EVERY_S
        self._turned_at = now
        if late_s > _NOTED_S:
            self._noted.append((now, late_s))
        # Kept by time, so that the number is bounded too: each took longer than `_NOTED_S`.
        while self._noted and self._noted[0][0] < now - KEPT_S:
            self._noted.popleft()

    def since(self, start: float) -> float:
        """Seconds of the longest that ended after ``start``, or has not ended; 0 without one."""
        late_s = self._now() - self._turned_at - EVERY_S
        noted = [late_s] if late_s > _NOTED_S else []
        return max([*noted, *(late_s for ended, late_s in self._noted if ended > start)], default=0.0)

    def longest(self) -> float:
        """Seconds of the longest of the last minute."""
        return max((late_s for _, late_s in self._noted), default=0.0)

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._turn)

    def _turn(self) -> None:
        self.turned()
        self._again()
