"""ADWIN, a window over a learner's mistakes that shrinks where they change (Bifet & Gavalda, SDM 2007), in arrays.

A window holds buckets of 1, 2, 4, ... values, at most five of a size, so that it takes the logarithm of what it covers.
The arithmetic is that of River's, whose variances follow Babcock et al. (PODS 2003).
"""

from __future__ import annotations

import math

from weir.online.batch import FloatVector, IntVector
from weir.online.jit import njit

MOST_BUCKETS, MOST_ROWS = 5, 20
"""Of one size, and sizes: beyond five million values the oldest are let go."""
_SLOTS = MOST_BUCKETS + 1  # one more, for a moment
_CLOCK, _SHORTEST, _GRACE = 32, 5, 10
"""Values between two looks, the shortest side of a cut, and the shortest window that is looked at."""

_TOTAL, _VARIANCE, _WIDTH, _BUCKETS = range(4)
SUMS = _BUCKETS + MOST_ROWS * 2 * _SLOTS
"""Of a window: its total, variance and width; then by size the totals of buckets, and their variances."""
TICK, ROWS, FILLED = range(3)
COUNTS = FILLED + MOST_ROWS
"""Of a window: values since it began, sizes in use, and how many buckets there are of each."""


@njit(cache=True, error_model="numpy")
def clear_window(sums: FloatVector, counts: IntVector) -> None:
    """Begin anew."""
    for k in range(sums.size):
        sums[k] = 0.0
    for k in range(counts.size):
        counts[k] = 0
    counts[ROWS] = 1


@njit(cache=True, error_model="numpy")
def _append(sums: FloatVector, counts: IntVector, row: int, total: float, variance: float) -> None:
    at = _BUCKETS + row * 2 * _SLOTS + counts[FILLED + row]
    sums[at] = total
    sums[at + _SLOTS] = variance
    counts[FILLED + row] += 1


@njit(cache=True, error_model="numpy")
def _drop(sums: FloatVector, counts: IntVector, row: int, n: int) -> None:
    """Take the ``n`` oldest buckets out of a row."""
    start = _BUCKETS + row * 2 * _SLOTS
    for k in range(_SLOTS):
        kept = k + n < _SLOTS
        sums[start + k] = sums[start + k + n] if kept else 0.0
        sums[start + _SLOTS + k] = sums[start + _SLOTS + k + n] if kept else 0.0
    counts[FILLED + row] -= n


@njit(cache=True, error_model="numpy")
def _forget_oldest(sums: FloatVector, counts: IntVector) -> None:
    row = counts[ROWS] - 1
    at, n = _BUCKETS + row * 2 * _SLOTS, float(1 << row)
    total, variance = sums[at], sums[at + _SLOTS]
    sums[_WIDTH] -= n
    sums[_TOTAL] -= total
    apart = total / n - sums[_TOTAL] / sums[_WIDTH]
    sums[_VARIANCE] -= variance + n * sums[_WIDTH] * apart * apart / (n + sums[_WIDTH])
    _drop(sums, counts, row, 1)
    if counts[FILLED + row] == 0:
        counts[ROWS] -= 1


@njit(cache=True, error_model="numpy")
def _merge_full_rows(sums: FloatVector, counts: IntVector) -> None:
    """Two buckets of a size that has too many become one of the next size."""
    row = 0
    while counts[FILLED + row] > MOST_BUCKETS:
        if row + 1 == MOST_ROWS:
            _forget_oldest(sums, counts)
            break
        if row + 1 == counts[ROWS]:
            counts[ROWS] += 1
        at, n = _BUCKETS + row * 2 * _SLOTS, float(1 << row)
        apart = sums[at] / n - sums[at + 1] / n
        variance = sums[at + _SLOTS] + sums[at + _SLOTS + 1] + n * n * apart * apart / (n + n)
        _append(sums, counts, row + 1, sums[at] + sums[at + 1], variance)
        _drop(sums, counts, row, 2)
        row += 1


@njit(cache=True, error_model="numpy")
def _has_a_cut(sums: FloatVector, counts: IntVector, delta: float) -> bool:
    """Whether the means of two parts of the window are further apart than chance brings them."""
    confidence = math.log(2.0 * math.log(sums[_WIDTH]) / delta)
    variance = sums[_VARIANCE] / sums[_WIDTH]
    n0, n1, u0, u1 = 0.0, sums[_WIDTH], 0.0, sums[_TOTAL]
    for row in range(counts[ROWS] - 1, -1, -1):
        at, n = _BUCKETS + row * 2 * _SLOTS, float(1 << row)
        for k in range(counts[FILLED + row]):
            n0 += n
            n1 -= n
            u0 += sums[at + k]
            u1 -= sums[at + k]
            if n1 < _SHORTEST or n0 < _SHORTEST:
                continue
            both = 1.0 / (n0 - _SHORTEST + 1.0) + 1.0 / (n1 - _SHORTEST + 1.0)
            chance = math.sqrt(2.0 * both * variance * confidence) + 2.0 / 3.0 * confidence * both
            if abs(u0 / n0 - u1 / n1) > chance:
                return True
    return False


@njit(cache=True, error_model="numpy")
def add_value(sums: FloatVector, counts: IntVector, value: float, delta: float) -> bool:
    """Take in one value; whether the window's mean has changed, and the window begins anew."""
    _append(sums, counts, 0, value, 0.0)
    sums[_WIDTH] += 1.0
    before = sums[_WIDTH] - 1.0
    if before > 0.0:
        apart = value - sums[_TOTAL] / before
        sums[_VARIANCE] += before * apart * apart / sums[_WIDTH]
    sums[_TOTAL] += value
    _merge_full_rows(sums, counts)
    counts[TICK] += 1
    if counts[TICK] % _CLOCK or sums[_WIDTH] <= _GRACE:
        return False
    # River shrinks the window as far as there is a cut, and then begins anew at the next value: nobody sees between.
    if not _has_a_cut(sums, counts, delta):
        return False
    clear_window(sums, counts)
    return True
