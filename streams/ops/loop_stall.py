"""Notes how long the event loop stood still: whatever else is late meanwhile is not late by itself."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

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
