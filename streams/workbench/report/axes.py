"""Axes of charts: from values to pixels, and which values are written beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from weir.online.batch import FloatVector
from weir.streams.pages.values import number

_TICKS: Final = 5
_HOUR, _DAY = 3600, 86_400
_STEPS_S: Final = (60, 300, 900, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, *(_DAY * n for n in (1, 2, 7, 14)))
"""Between marks of time; from a month on they stand at the first of months."""
_ODDS: Final = (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Axis:
    """What a chart shows along one side.

    Parameters
    ----------
    low, high : the ends, in values.
    ticks : values that are marked, and their words.
    name : what the values are, with their unit.
    scale : from values ``(n,)`` to where they are even; as they are when not given.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    name: str
    scale: Callable[[FloatVector], FloatVector] = np.positive

    def places(self, values: FloatVector) -> FloatVector:
        """Where values lie between the ends, 0 to 1; what is beyond an end lies on it."""
        low, high = self.scale(np.array([self.low, self.high])).tolist()
        # All values may be one: then there is no width to divide by.
        scaled: FloatVector = (self.scale(np.asarray(values, dtype=np.float64)) - low) / ((high - low) or 1.0)
        return np.clip(scaled, 0.0, 1.0)


def shares(name: str) -> Axis:
    """From 0 to 1."""
    return Axis(0.0, 1.0, ((0.0, "0"), (0.25, ".25"), (0.5, ".5"), (0.75, ".75"), (1.0, "1")), name)


def amounts(high: float, name: str, words: Callable[[float], str] = number) -> Axis:
    """From 0 to the next round number over ``high``.

    >>> [text for _, text in amounts(37.0, "alerts").ticks]
    ['0', '10', '20', '30', '40']
    """
    high = high if high > 0.0 and math.isfinite(high) else 1.0
    rough = high / (_TICKS - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    # 1e-9: a step that is right must not fail by the rounding of a float.
    step = next(unit * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if unit * m >= rough * (1 - 1e-9))
    count = math.ceil(high / step - 1e-9)
    return Axis(0.0, count * step, tuple((k * step, words(k * step)) for k in range(count + 1)), name)


def odds(low: float, high: float, name: str) -> Axis:
    """Probabilities, even in their log-odds: one in a thousand and one in ten are told apart equally well."""
    ticks = tuple((p, f"{p:g}".removeprefix("0")) for p in _ODDS if low <= p <= high)
    return Axis(low, high, ticks, name, lambda p: np.log(p) - np.log1p(-p))


def times(low: float, high: float) -> Axis:
    """Event time (UTC), with marks at whole hours, days, months or years.

    >>> [text for _, text in times(1_700_000_000.0, 1_702_000_000.0).ticks]
    ['16 Nov', '23 Nov', '30 Nov', '7 Dec']
    """
    high = high if high > low else low + 1.0
    step = next((s for s in _STEPS_S if (high - low) / s <= _TICKS), None)
    if step is None:
        return Axis(low, high, tuple(_months(low, high)), "event time (UTC)")
    first = math.ceil(low / step) * step
    words = "%-d %b" if step >= _DAY else "%H:%M" if high - low < _DAY else "%-d %b %H:%M"
    at = [float(first + k * step) for k in range(int((high - first) // step) + 1)]
    return Axis(low, high, tuple((t, datetime.fromtimestamp(t, UTC).strftime(words)) for t in at), "event time (UTC)")


def _months(low: float, high: float) -> list[tuple[float, str]]:
    """The first of every month, of every third, or of years."""
    months = (high - low) / (30.4 * _DAY)
    every = next((n for n in (1, 2, 3, 6) if months / n <= _TICKS), 12 * max(1, math.ceil(months / 12 / _TICKS)))
    start = datetime.fromtimestamp(low, UTC)
    count, found = start.year * 12 + start.month, []
    while (at := datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC)).timestamp() <= high:
        if count % every == 0:
            found.append((at.timestamp(), at.strftime("%Y" if every >= 12 else "%b %Y" if months > 11 else "%-d %b")))
        count += 1
    return found
