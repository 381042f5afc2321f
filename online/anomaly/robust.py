"""Robust running level and scale of a number: the base of the level, change and spread components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.jit import njit

Row = NDArray[np.float64]

MAX_SURPRISE = 1e6
"""Upper limit of a deviation in units of scale: a constant series that moves has a scale of zero."""


@njit(cache=True)
def deviation(row: Row, at: int, x: float, anchor: float) -> float:
    """How many scales ``x`` lies from the level kept at ``row[at]``, at least 0 and at most ``MAX_SURPRISE``.

    The scale (mean absolute deviation, at ``row[at + 1]``) has a floor at 1e-9 of the level, so that rounding noise
    on a constant series is no deviation.
    """
    floor = 1e-9 * abs(row[at] + anchor) + 1e-12
    return float(min(abs(x - row[at]) / (row[at + 1] + floor), MAX_SURPRISE))


@njit(cache=True)
def track(row: Row, at: int, x: float, count: float, rate: float, clip: float) -> None:
    """Move level and scale at ``row[at]`` towards ``x``.

    The first values weigh ``1 / count``, later ones ``rate``; after 20 values a step counts at most ``clip`` scales
    (Huber), so that one outlier neither moves the level nor hides the next.

    Examples
    --------
    >>> row = np.zeros(2)
    >>> for i in range(200):
    ...     track(row, 0, float(i % 2), float(i + 1), 0.01, 3.0)
    >>> track(row, 0, 1e9, 201.0, 0.01, 3.0)
    >>> bool(abs(row[0] - 0.5) < 0.05), bool(row[1] < 1.0)
    (True, True)
    """
    step = x - row[at]
    if count > 20.0 and row[at + 1] > 0.0:
        limit = clip * row[at + 1]
        step = min(max(step, -limit), limit)
    pace = max(rate, 1.0 / (count + 1.0))
    row[at] += pace * step
    row[at + 1] += pace * (abs(step) - row[at + 1])
