"""Residual against the robust level of the hour of the day, on working days and weekends apart.

The day starts at midnight UTC moved by an offset in seconds; a day type whose hour has no history yet borrows the
level of the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.anomaly.layout import BINS_PER_DAY, SEASON
from weir.online.jit import njit

Row = NDArray[np.float64]

_DAY_S = 86400.0
_LEVELS = SEASON + 2
_CLIP = 6.0


@njit(cache=True)
def season_cell(ts: float, offset_s: float) -> int:
    """Offset of the (level, count) pair for epoch second ``ts``; -1 when ``ts`` is not finite.

    Examples
    --------
    >>> season_cell(0.0, 0.0) == season_cell(86400.0, 0.0)  # Thursday and Friday, the same hour
    True
    >>> season_cell(0.0, 0.0) == season_cell(2 * 86400.0, 0.0)  # Saturday
    False
    """
    if not np.isfinite(ts):
        return -1
    local = ts + offset_s
    hour = min(int((local % _DAY_S) / _DAY_S * BINS_PER_DAY), BINS_PER_DAY - 1)
    weekday = (np.floor(local / _DAY_S) + 3.0) % 7.0  # 0 = Monday; 1970-01-01 was a Thursday
    day_type = 1 if weekday >= 5.0 else 0
    return _LEVELS + 2 * (day_type * BINS_PER_DAY + hour)


@njit(cache=True)
def season_level(row: Row, cell: int) -> float:
    """Level expected at the cell; NaN where neither day type has seen this hour."""
    if cell < 0:
        return np.nan
    if row[cell + 1] > 0.0:
        return float(row[cell])
    half = 2 * BINS_PER_DAY
    other = cell + half if cell < _LEVELS + half else cell - half
    return float(row[other]) if row[other + 1] > 0.0 else np.nan


@njit(cache=True)
def season_deviation(row: Row, x: float, level: float, spread: float, anchor: float) -> float:
    """``|x - level|`` in residual scales, 0 before 20 residuals; half of the value's own spread is the floor."""
    if np.isnan(level) or row[SEASON + 1] <= 20.0:
        return 0.0
    floor = 0.5 * spread + 1e-9 * abs(level + anchor) + 1e-12
    return float(min(abs(x - level) / (row[SEASON] + floor), 1e6))


@njit(cache=True)
def season_track(row: Row, cell: int, x: float, level: float, rate: float) -> None:
    """Learn ``x``: the residual scale, and the level of its cell (which starts at the borrowed level or at ``x``)."""
    if cell < 0:
        return
    residual = 0.0
    if not np.isnan(level):
        residual = x - level
        if row[SEASON + 1] > 20.0:
            limit = _CLIP * row[SEASON]
            residual = min(max(residual, -limit), limit)
        row[SEASON + 1] += 1.0
        row[SEASON] += max(0.002, 1.0 / row[SEASON + 1]) * (abs(residual) - row[SEASON])
    if row[cell + 1] == 0.0:
        row[cell] = x
    else:
        row[cell] += max(rate, 1.0 / (row[cell + 1] + 1.0)) * residual
    row[cell + 1] += 1.0
