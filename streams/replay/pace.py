"""When the next record of a replay is due. Time is an argument; nobody waits here."""

from __future__ import annotations


class Pace:
    """A pace, and where a replay began.

    Parameters
    ----------
    now : seconds of the caller's clock.
    rate : records a second.
    speed : times event time. With neither it is as fast as it goes.

    >>> pace = Pace(100.0, speed=10.0)
    >>> pace.wait_s(100.0, 0, 5_000.0), pace.wait_s(100.5, 1, 5_060.0)
    (0.0, 5.5)
    >>> Pace(0.0, rate=50.0).wait_s(1.0, 100, None)
    1.0
    """

    def __init__(self, now: float, rate: float | None = None, speed: float | None = None) -> None:
        self._rate, self._speed = rate, speed
        self._started = now
        self._first_ts: float | None = None

    def wait_s(self, now: float, sent: int, ts: float | None) -> float:
        """Seconds to wait at ``now`` before the record behind ``sent`` others, of event time ``ts``, goes out."""
        if self._rate is not None:
            # From the beginning, not from the last record: waits that were too long are made up for.
            return max(self._started + sent / self._rate - now, 0.0)
        if self._speed is None or ts is None:
            return 0.0
        if self._first_ts is None:
            # The first that has a time, as broken lines may come before it.
            self._first_ts = ts
        return max(self._started + (ts - self._first_ts) / self._speed - now, 0.0)
