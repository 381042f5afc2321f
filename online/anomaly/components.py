"""What the components of the detector are made of: a level, its errors, remembered windows, the hours of the day.

`deviation` and `track` are a robust running level and scale: the base of the level, change and spread components.
`surprise` is how unusual the recent errors of a component are. `nearest` and `remember` tell how new a pattern and its
wider context are. The functions named for seasons are the residual against the level of the hour of the day.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.anomaly.layout import BINS_PER_DAY, LIKELIHOOD, LIKELIHOOD_SIZE, MEMORY, RECENT, SEASON
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


CAP = 8.0
"""Largest surprise one component can add, in standard deviations."""
_WARM_UP = 30.0


@njit(cache=True)
def surprise(row: Row, component: int, error: float, count: float, rate: float) -> float:
    """Short-run mean of ``log(1 + error)`` in long-run standard deviations above its mean, in [0, CAP]; then learn.

    The anomaly likelihood of Ahmad, Lavin, Purdy & Agha, "Unsupervised real-time anomaly detection for streaming data",
    Neurocomputing 262 (2017), who take the Gaussian tail of the short mean of the errors under their long-run mean and
    variance. Here the number of standard deviations itself is returned (its tail probability saturates), on the log of
    the errors, and the long run is an exponentially weighted one: no window of past errors has to be kept beyond the
    short one.

    Parameters
    ----------
    row : (STATE_WIDTH,) float64, changed in place.
    component : index of the component.
    error : the component's deviation, >= 0.
    count : values learned before this one; 0 is returned for the first 31.
    rate : weight of a new error in the long run.
    """
    at = LIKELIHOOD + component * LIKELIHOOD_SIZE
    log_error = np.log1p(error)
    row[at + 2 + int(count) % RECENT] = log_error
    seen = int(min(count + 1.0, float(RECENT)))
    # Summed anew, ten numbers: a running sum would keep the rounding of every error that left it.
    short = 0.0
    for j in range(seen):
        short += row[at + 2 + j]
    short /= seen
    result = 0.0
    if count > _WARM_UP:
        result = min(max((short - row[at]) / (np.sqrt(row[at + 1]) + 1e-9), 0.0), CAP)
    pace = max(rate, 1.0 / (count + 1.0))
    step = log_error - row[at]
    row[at] += pace * step
    row[at + 1] = (1.0 - pace) * (row[at + 1] + pace * step * step)
    return result


Row32 = NDArray[np.float32]


@njit(cache=True)
def nearest(memory: Row32, at: int, filled: int, window: Row, scale: Row) -> float:
    """Least mean absolute difference, in scales, between ``window (d,)`` and the ``filled`` windows stored at ``at``.

    Idea: nearest-neighbour anomaly detection on streams (KNN-CAD, Burnaev & Ishimtsev 2016, arXiv:1608.04585), with a
    memory of fixed size.

    Examples
    --------
    >>> memory = np.array([0, 0, 9, 9], dtype=np.float32)
    >>> nearest(memory, 0, 2, np.array([8.0, 9.0]), np.array([1.0, 1.0]))
    0.5
    """
    dim = len(window)
    best = np.inf
    for r in range(filled):
        total = 0.0
        start = at + r * dim
        for j in range(dim):
            total += abs(window[j] - memory[start + j]) * scale[j]
        best = min(best, total)
    return min(best / dim, 1e6)


@njit(cache=True)
def slot_of(stored: int) -> int:
    """Memory slot for the ``stored``-th window: in order while there is room, then by a multiplicative hash.

    So the age of what is remembered falls off geometrically, and the result is reproducible.
    """
    if stored < MEMORY:
        return stored
    return ((stored * 2654435761) % 4294967296 >> 9) % MEMORY


@njit(cache=True)
def remember(memory: Row32, at: int, stored: int, window: Row) -> None:
    """Write ``window (d,)`` as the ``stored``-th window of the memory at ``at``."""
    start = at + slot_of(stored) * len(window)
    for j in range(len(window)):
        memory[start + j] = window[j]


_DAY_S = 86400.0
_LEVELS = SEASON + 2
_CLIP = 6.0


@njit(cache=True)
def season_cell(ts: float, offset_s: float) -> int:
    """Offset of the (level, count) pair for epoch second ``ts``; -1 when ``ts`` is not finite.

    Of each hour of the day there is one for working days and one for weekends; the day starts at midnight UTC moved by
    ``offset_s`` seconds.

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
    """Level expected at the cell, borrowed from the other day type where its own has not seen this hour; else NaN."""
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
