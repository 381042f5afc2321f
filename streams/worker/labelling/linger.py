"""How long a lane gathers what is not urgent, to do it together."""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.05
"""Of the time, for all lanes of a worker together."""
MOST_S: Final = 0.2
_NEWEST: Final = 0.2
"""Weight of the newest measurement."""


class Linger:
    """As long as keeps the work of all lanes at a small share of the time, whatever it costs here and now.

    Small batches cost nearly as much as large ones: calls and round trips, not rows. A worker of a few lanes is quick;
    one of many, or on a machine that is busy, where everything takes longer, does less of what nobody waits for.

    Examples
    --------
    >>> linger = Linger()
    >>> for _ in range(100):
    ...     linger.took(0.001)
    >>> round(linger.pause_s(lanes=2), 3), linger.pause_s(lanes=64)
    (0.04, 0.2)
    """

    def __init__(self) -> None:
        self._took_s = 0.0

    def took(self, seconds: float) -> None:
        """Tell what the work of one lane took once."""
        self._took_s += _NEWEST * (seconds - self._took_s)

    def pause_s(self, lanes: int) -> float:
        """Seconds to gather for, where so many lanes do the same."""
        return min(lanes * self._took_s / SHARE, MOST_S)
