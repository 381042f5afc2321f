"""ADWIN for many streams at once: exponential histograms as arrays, one compiled step per value.

Bifet and Gavalda (2007), "Learning from time-changing data with adaptive windowing", with the variance-based cut. It
raises its alarm at the same value as ``river.drift.ADWIN``. River forgets its whole window after an alarm, and so does
the monitor, so the paper's shrinking of the window by single buckets is not needed here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weir.online.jit import njit

LEVELS = 48  # a bucket of level l holds 2 ** l values: enough for ever
PER_LEVEL = 5
MIN_SIDE = 5  # values on either side of a cut, and
GRACE = 10  # values before the first search, as in River

# Slots of the sums vector.
WIDTH, TOTAL, VARIANCE, TICK = range(4)
SUMS = 4


@njit(cache=True)
def add(x: float, sums: NDArray[np.float64], totals: NDArray[np.float64], held: NDArray[np.int64]) -> None:
    """Put one value into the window.

    Parameters
    ----------
    sums : (SUMS,) float64.
    totals : (LEVELS, PER_LEVEL + 1) float64, the total of each bucket, oldest first within a level.
    held : (LEVELS,) int64, buckets in use.
    """
    width = sums[WIDTH] + 1.0
    if width > 1.0:
        apart = x - sums[TOTAL] / (width - 1.0)
        sums[VARIANCE] += (width - 1.0) * apart * apart / width
    sums[WIDTH] = width
    sums[TOTAL] += x
    totals[0, held[0]] = x
    held[0] += 1
    level = 0
    while held[level] > PER_LEVEL and level + 1 < LEVELS:
        totals[level + 1, held[level + 1]] = totals[level, 0] + totals[level, 1]
        held[level + 1] += 1
        held[level] -= 2
        for k in range(held[level]):
            totals[level, k] = totals[level, k + 2]
        level += 1


@njit(cache=True)
def search(
    delta: float, sums: NDArray[np.float64], totals: NDArray[np.float64], held: NDArray[np.int64]
) -> tuple[float, float]:
    """The difference of means and its bound at the cut that most exceeds it; (0, inf) where no cut is allowed."""
    width = sums[WIDTH]
    statistic, bound, ratio = 0.0, math.inf, 0.0
    if width <= GRACE:
        return statistic, bound
    confidence = math.log(2.0 * math.log(width) / delta)
    n0, u0, n1, u1 = 0.0, 0.0, width, sums[TOTAL]
    # From the oldest bucket to the newest: larger ones are older.
    for level in range(LEVELS - 1, -1, -1):
        size = 2.0**level
        for k in range(held[level]):
            n0 += size
            n1 -= size
            u0 += totals[level, k]
            u1 -= totals[level, k]
            if n0 < MIN_SIDE or n1 < MIN_SIDE:
                continue
            apart = abs(u0 / n0 - u1 / n1)
            m = 1.0 / (n0 - MIN_SIDE + 1.0) + 1.0 / (n1 - MIN_SIDE + 1.0)
            epsilon = math.sqrt(2.0 * m * (sums[VARIANCE] / width) * confidence) + 2.0 / 3.0 * confidence * m
            # Not the first cut that is beyond its bound, but the clearest: its numbers are what a person is told.
            if apart > ratio * epsilon:
                statistic, bound, ratio = apart, epsilon, apart / epsilon
    return statistic, bound


@njit(cache=True)
def step(
    x: float, delta: float, clock: int, sums: NDArray[np.float64], totals: NDArray[np.float64], held: NDArray[np.int64]
) -> tuple[float, float]:
    """Add one value and, every ``clock`` values, search for a cut; an alarm is statistic > bound."""
    add(x, sums, totals, held)
    sums[TICK] += 1.0
    if sums[TICK] % clock == 0.0:
        return search(delta, sums, totals, held)
    return 0.0, math.inf
