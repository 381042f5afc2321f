"""When the next record of a replay is due. Time is an argument; nobody waits here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PacePolicy:
    """Records a second, or a multiple of event time; neither is as fast as it goes."""

    rate: float | None = None
    speed: float | None = None


class Pace:
    """Policy plus where a replay began.

    >>> pace = Pace(PacePolicy(speed=10.0), now=100.0)
    >>> pace.wait_s(100.0, 0, 5_000.0), pace.wait_s(100.5, 1, 5_060.0)
    (0.0, 5.5)
    >>> Pace(PacePolicy(rate=50.0), now=0.0).wait_s(1.0, 100, None)
    1.0
    """

    def __init__(self, policy: PacePolicy, now: float) -> None:
        self.policy = policy
        self._started = now
        self._first_ts: float | None = None

    def wait_s(self, now: float, sent: int, ts: float | None) -> float:
        """Seconds to wait at ``now`` before the record behind ``sent`` others, of event time ``ts``, goes out."""
        if self.policy.rate is not None:
            return max(self._started + sent / self.policy.rate - now, 0.0)
        if self.policy.speed is None or ts is None:
            return 0.0
        if self._first_ts is None:
            self._first_ts = ts
        return max(self._started + (ts - self._first_ts) / self.policy.speed - now, 0.0)
