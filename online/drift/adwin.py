"""ADWIN for many streams at once: exponential histograms as arrays, one compiled step per value.

Bifet and Gavalda (2007), "Learning from time-changing data with adaptive windowing", with the variance-based cut. It
raises its alarm at the same value as ``river.drift.ADWIN``. River forgets its whole window after an alarm, and so does
whoever calls this, so the paper's shrinking of the window by single buckets is not needed here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatMatrix
from weir.online.jit import njit

LEVELS = 48  # a bucket of level l holds 2 ** l values: enough for ever
PER_LEVEL = 5
MIN_SIDE = 5  # values on either side of a cut, and
GRACE = 10  # values before the first search, as in River
CLOCK = 32  # values between two searches, as in River where nothing else is said

# Slots of the sums vector.
WIDTH, TOTAL, VARIANCE, TICK = range(4)
SUMS = 4

IntMatrix = NDArray[np.int64]


@njit(cache=True, forceinline=True, error_model="numpy")
def _add(x: float, sums: FloatMatrix, totals: NDArray[np.float64], held: IntMatrix, c: int) -> None:
    """Put one value into a window."""
    width = sums[c, WIDTH] + 1.0
    if width > 1.0:
        apart = x - sums[c, TOTAL] / (width - 1.0)
        sums[c, VARIANCE] += (width - 1.0) * apart * apart / width
    sums[c, WIDTH] = width
    sums[c, TOTAL] += x
    level, n = 0, held[c, 0] + 1
    totals[c, 0, n - 1] = x
    while n > PER_LEVEL and level + 1 < LEVELS:
        # The two oldest become one bucket of the next level.
        above = held[c, level + 1] + 1
        totals[c, level + 1, above - 1] = totals[c, level, 0] + totals[c, level, 1]
        for k in range(n - 2):
            totals[c, level, k] = totals[c, level, k + 2]
        held[c, level] = n - 2
        level, n = level + 1, above
    held[c, level] = n


@njit(cache=True, error_model="numpy")
def _search(
    delta: float, sums: FloatMatrix, totals: NDArray[np.float64], held: IntMatrix, c: int
) -> tuple[float, float]:
    """The difference of means and its bound at the cut that most exceeds it; (0, inf) where no cut is allowed."""
    width = sums[c, WIDTH]
    statistic, bound, ratio = 0.0, math.inf, 0.0
    if width <= GRACE:
        return statistic, bound
    confidence, variance = math.log(2.0 * math.log(width) / delta), sums[c, VARIANCE] / width
    n0, u0, n1, u1 = 0.0, 0.0, width, sums[c, TOTAL]
    oldest = LEVELS - 1
    while oldest > 0 and held[c, oldest] == 0:
        oldest -= 1
    # From the oldest bucket to the newest: larger ones are older.
    for level in range(oldest, -1, -1):
        size = float(1 << level)
        for k in range(held[c, level]):
            n0 += size
            n1 -= size
            u0 += totals[c, level, k]
            u1 -= totals[c, level, k]
            if n0 < MIN_SIDE or n1 < MIN_SIDE:
                continue
            apart = abs(u0 / n0 - u1 / n1)
            m = 1.0 / (n0 - MIN_SIDE + 1.0) + 1.0 / (n1 - MIN_SIDE + 1.0)
            epsilon = math.sqrt(2.0 * m * variance * confidence) + 2.0 / 3.0 * confidence * m
            # Not the first cut that is beyond its bound, but the clearest: its numbers are what a person is told.
            if apart > ratio * epsilon:
                statistic, bound, ratio = apart, epsilon, apart / epsilon
    return statistic, bound


@njit(cache=True, error_model="numpy")
def clear(sums: FloatMatrix, totals: NDArray[np.float64], held: IntMatrix, c: int) -> None:
    """Begin window ``c`` anew; element by element, for a slice would be counted."""
    for k in range(SUMS):
        sums[c, k] = 0.0
    for level in range(LEVELS):
        held[c, level] = 0
        for k in range(PER_LEVEL + 1):
            totals[c, level, k] = 0.0


@njit(cache=True, forceinline=True, error_model="numpy")
def step(
    x: float, delta: float, clock: int, sums: FloatMatrix, totals: NDArray[np.float64], held: IntMatrix, c: int
) -> tuple[float, float]:
    """Add one value to a window and, every ``clock`` values, search for a cut; an alarm is statistic > bound.

    Parameters
    ----------
    sums : ``(C, SUMS)``, of C windows; zeros are one without a value.
    totals : ``(C, LEVELS, PER_LEVEL + 1)``, the total of each bucket, oldest first within a level.
    held : ``(C, LEVELS)``, buckets in use.
    c : which window. Rows come by number, as numba counts references of slices, and of what is unpacked.
    """
    _add(x, sums, totals, held, c)
    sums[c, TICK] += 1.0
    if int(sums[c, TICK]) % clock == 0:
        return _search(delta, sums, totals, held, c)
    return 0.0, math.inf


@njit(cache=True, error_model="numpy")
def changes(x: float, delta: float, sums: FloatMatrix, totals: NDArray[np.float64], held: IntMatrix, c: int) -> bool:
    """Add one value to a window, at River's own ``clock``; whether the mean has changed, and the window begins anew."""
    apart, bound = step(x, delta, CLOCK, sums, totals, held, c)
    if apart <= bound:
        return False
    clear(sums, totals, held, c)
    return True
