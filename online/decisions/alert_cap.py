"""How many alerts may open: never more than a limit in any span of event time. It knows times, not scores."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from weir.online.errors import UNREADABLE, StateError

DAY_S: Final = 86_400.0
EXACT: Final = 10_000
"""Of larger limits every k-th opening is remembered; up to two in EXACT stay unused then, and none too many opens."""


class AlertCap:
    """Counts openings in every span of event time, wherever it begins.

    It counts by the watermark at each opening, and also by the event time that the alert tells: rows up to a day off
    break no limit either; those that are further off count as a day off. It remembers few numbers an alert of a day.

    Parameters
    ----------
    limits : ``(alerts, seconds)``: at most so many alerts in any such span, rounded down; less than one is one alert in
        a span that is longer in proportion.

    Examples
    --------
    >>> cap = AlertCap([(2, 60.0)])
    >>> [cap.admit(at, at) for at in (0.0, 10.0, 20.0, 60.0, 61.0, 70.0)]
    [True, True, False, True, False, True]
    """

    def __init__(self, limits: Sequence[tuple[float, float]]) -> None:
        # The strictest limit bounds how many are remembered.
        self._every = 1 + int(max(min(alerts * DAY_S / seconds for alerts, seconds in limits), 1.0) - 1) // EXACT
        self._spans = [(seconds / min(alerts, 1.0), self._remembered(alerts)) for alerts, seconds in limits]
        self._longest = max(span for span, _ in self._spans)
        self._marks: list[float] = []
        self._times: list[float] = []
        """Of what opened, ascending: the watermark then, and the event time of the row."""
        self._opened = 0

    def admit(self, mark: float, ts: float) -> bool:
        """Take in an alert that is to open at watermark ``mark`` by a row of time ``ts``; whether it may."""
        if not mark > -math.inf:
            return False
        self._forget(mark)
        # So that times further back than a day and the longest span can be forgotten.
        ts = min(max(ts, mark - DAY_S), mark + DAY_S)
        if not all(_free(self._marks, mark, *each) and _free(self._times, ts, *each) for each in self._spans):
            return False
        self._opened += 1
        if self._opened % self._every == 0:
            self._marks.append(mark)
            insort(self._times, ts)
        return True

    def used(self, mark: float) -> float:
        """The part of the first limit that the span up to ``mark`` has used, in [0, 1]."""
        span, most = self._spans[0]
        return min((len(self._marks) - bisect_right(self._marks, mark - span)) / most, 1.0)

    def snapshot(self) -> bytes:
        """Return the whole state as MessagePack."""
        return msgspec.msgpack.encode([self._marks, self._times, self._opened, self._every])

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``, perhaps of other limits; raises ``StateError`` for anything else."""
        try:
            held = msgspec.msgpack.decode(state, type=list[Any])
            # Of versions before there is no fourth: it is taken for the same.
            every = msgspec.convert(held[3], int) if len(held) > 3 else self._every
            marks, times, self._opened = msgspec.convert(held[:3], tuple[list[float], list[float], int])
        except UNREADABLE as error:
            raise StateError(f"not a snapshot of a cap of alerts: {error}") from error
        self._marks, self._times = self._counted(marks, every), self._counted(times, every)

    def _counted(self, times: list[float], every: int) -> list[float]:
        """Times that stood for ``every`` openings each as times that stand for as many as here; none too few."""
        if every == self._every:
            return times
        stop = [-(-n * every // self._every) for n in range(len(times) + 1)]
        return [at for at, before, after in zip(times, stop, stop[1:], strict=False) for _ in range(after - before)]

    def _remembered(self, alerts: float) -> int:
        # k - 1 openings may lie before the first remembered one in a span, and as many after each.
        return max(int(alerts), 1) if self._every == 1 else max(int(alerts) // self._every - 1, 1)

    def _forget(self, mark: float) -> None:
        """Let go of what no row can meet any more; where a clock was set back, what opened later counts as of now."""
        # Both lists have to ascend for the searches below; a mark of the future would hold its place until then.
        if self._marks and self._marks[-1] > mark:
            self._marks = [min(each, mark) for each in self._marks]
            self._times = [min(each, mark) for each in self._times]
        del self._marks[: bisect_right(self._marks, mark - self._longest)]
        del self._times[: bisect_right(self._times, mark - DAY_S - self._longest)]


def _free(times: list[float], at: float, span: float, most: int) -> bool:
    """Whether no span holds more than ``most`` of the ascending ``times`` and ``at``."""
    i = bisect_right(times, at)
    # Nearly always the newest: only the span that ends in it can be too full.
    if i == len(times):
        return i < most or at - times[-most] >= span
    near = [*times[max(i - most, 0) : i], at, *times[i : i + most]]
    return all(last - first >= span for first, last in zip(near, near[most:], strict=False))
