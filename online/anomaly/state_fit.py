"""Learns what is normal from the kept rows of a reference, and says how far a row is from it.

A row is seen by three views of each sensor: its smoothed value; that value given the other sensors (its residual by
the inverse of the shrunk correlation: what PCA splits into T2 and Q is here one number a sensor, and so has a name);
and the log of its smoothed absolute step, which falls when a sensor is stuck and rises when it is noisy. Each is
standardised by its own median and spread in the reference. The distance is the 4-norm over all: one view far off
counts more than many a little off, and several that agree more than one.

Distances become p-values by cross-conformal prediction (Vovk, "Cross-conformal predictors", Annals of Mathematics and
AI 74, 2015) over contiguous parts of the reference, as neighbouring rows are alike: each part is measured by a fit to
the others.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from weir.online.anomaly.state_layout import (
    ANCHOR,
    CENTRE,
    FITTED,
    KEPT,
    SCALE,
    STEP_FLOOR,
    VIEW,
    VIEWS,
    State,
)
from weir.online.jit import njit

Floats = NDArray[np.float64]

_FAR = 10.0  # scales of a view beyond which it grows by its logarithm: a constant sensor that moves has nearly no scale
LEAST_KEPT = 30
"""Kept rows without which nothing is learned, of an entity or of a sensor."""
_PARTS = 4
_CUT = 3.5  # scales beyond which a value counts as this far in the correlation
_FLOOR = 0.1  # least scale of a view, in scales of the value


def robust(values: Floats) -> tuple[float, float]:
    """Median and scale: of the median deviation and the central 95 % the wider one, at the width of a normal.

    A reference that knows two modes has the second one, and a few outliers have neither.

    >>> robust(np.append(np.linspace(-1.0, 1.0, 199), 1e9))[1] < 1.0
    True
    """
    centre = float(np.median(values))
    low, high = np.quantile(values, (0.025, 0.975))
    return centre, float(max(1.4826 * np.median(np.abs(values - centre)), (high - low) / 3.92))


@njit(cache=True)
def _dot(a: Floats, b: Floats) -> float:
    total = 0.0
    for j in range(len(a)):
        total += a[j] * b[j]
    return total


@njit(cache=True)
def measure(state: State, level: Floats, step: Floats, gap: Floats, z: Floats) -> float:
    """Distance of a row from the reference.

    Parameters
    ----------
    state : what was learned.
    level, step : ``(d,)`` smoothed values and steps; a NaN level is a missing sensor, taken as the others imply.
    gap : ``(d,)``, set to how many scales each level lies over what the other sensors imply.
    z : ``(VIEWS, d)``, set to the standardised views; 0 for a missing sensor.
    """
    learned, precision, d = state.learned, state.precision, len(level)
    u = np.zeros(d)
    for j in range(d):
        if learned[j, SCALE] > 0.0 and not np.isnan(level[j]):
            u[j] = (level[j] - learned[j, CENTRE]) / learned[j, SCALE]
    for _ in range(3):  # Gauss-Seidel: exact at once for one missing sensor
        for j in range(d):
            if np.isnan(level[j]):
                u[j] -= _dot(precision[j], u) / precision[j, j]
    total = 0.0
    for j in range(d):
        z[:, j] = 0.0
        gap[j] = _dot(precision[j], u) / precision[j, j]
        if learned[j, SCALE] == 0.0 or np.isnan(level[j]):
            continue
        z[0, j] = u[j]
        z[1, j] = gap[j] * np.sqrt(precision[j, j]) if d > 1 else learned[j, VIEW + 2]
        z[2, j] = np.log1p(step[j] / learned[j, STEP_FLOOR])
        for v in range(VIEWS):
            z[v, j] = (z[v, j] - learned[j, VIEW + 2 * v]) / learned[j, VIEW + 2 * v + 1]
            if abs(z[v, j]) > _FAR:
                z[v, j] = np.sign(z[v, j]) * _FAR * (1.0 + np.log(abs(z[v, j]) / _FAR))
            total += z[v, j] ** 4
    return float(total**0.25)


@njit(cache=True)
def _measure_rows(state: State, rows: Floats, gap: Floats, z: Floats, out: Floats) -> None:
    """Distances ``out (n,)`` and views ``z (n, VIEWS, d)`` of ``rows (n, VIEWS, d)``."""
    for r in range(len(rows)):
        out[r] = measure(state, rows[r, 1], rows[r, 2], gap, z[r])


def _distances(state: State, rows: Floats) -> tuple[Floats, Floats]:
    out, z = np.zeros(len(rows)), np.zeros(rows.shape)
    _measure_rows(state, rows, np.zeros(rows.shape[2]), z, out)
    return out, z


def _learn(state: State, rows: Floats, shrinkage: float) -> None:
    """Fit everything to ``rows (n, VIEWS, d)``."""
    learned, known = state.learned, ~np.isnan(rows[:, 0])
    learned[:] = 0.0
    cut = np.zeros(known.shape)
    seen = np.flatnonzero(known.sum(axis=0) >= LEAST_KEPT // 2).tolist()
    for j in seen:
        value = rows[known[:, j], 0, j]
        centre, scale = robust(value)
        unit = max(float(np.std(value)), 1e-3 * abs(centre + state.sensors[j, ANCHOR]) + 1e-9)
        learned[j, CENTRE], learned[j, SCALE] = centre, max(scale, _FLOOR * unit)
        # Added below a step before its logarithm is taken: a stuck sensor steps by 0, which has none.
        learned[j, STEP_FLOOR] = _FLOOR * max(np.median(rows[known[:, j], 2, j]), 0.01 * unit)
        cut[known[:, j], j] = np.clip((value - centre) / learned[j, SCALE], -_CUT, _CUT)
    width = np.sqrt((cut * cut).sum(axis=0)) + 1e-9
    # Shrunk by more than 0, so that it has an inverse even where two sensors always say the same.
    correlation = (1.0 - shrinkage) * (cut.T @ cut) / np.outer(width, width)
    np.fill_diagonal(correlation, 1.0)
    state.precision[:] = np.linalg.inv(correlation)
    learned[:, VIEW::2], learned[:, VIEW + 1 :: 2] = 0.0, 1.0  # as they are, to learn by what they are standardised
    _, z = _distances(state, rows)
    for j in seen:
        for v in range(VIEWS):
            centre, scale = robust(z[known[:, j], v, j])
            learned[j, VIEW + 2 * v : VIEW + 2 * v + 2] = centre, max(scale, _FLOOR)


def fit(state: State, shrinkage: float) -> None:
    """Learn the kept rows and calibrate distances on them, in place."""
    n = int(state.head[KEPT])
    rows = state.kept[:n].astype(np.float64)
    edges = [n * part // _PARTS for part in range(_PARTS + 1)]
    distances = []
    for start, stop in pairwise(edges):
        _learn(state, np.concatenate((rows[:start], rows[stop:])), shrinkage)
        distances.append(_distances(state, rows[start:stop])[0])
    state.calibration[:n] = np.sort(np.concatenate(distances))
    _learn(state, rows, shrinkage)
    state.head[FITTED] = 1.0


@njit(cache=True)
def p_value(state: State, distance: float) -> float:
    """Share of the reference at least as far, the row itself counted; beyond all of it the tail falls by the 3rd power.

    Between two rows of the reference it is interpolated. The tail is no promise: it keeps the order of what is farther
    than everything in the reference.
    """
    n = int(state.head[KEPT])
    known = state.calibration[:n]
    # In float32 as distances of the reference are held: else one as far as a row of it would be nearer or farther by
    # rounding alone.
    nearer = np.searchsorted(known, np.float32(distance))
    if nearer == n:
        return float(((1.0 + known[n - 1]) / (1.0 + distance)) ** 3 / (n + 1.0))
    below = known[nearer - 1] if nearer > 0 else 0.0
    between = (known[nearer] - distance) / max(known[nearer] - below, 1e-12)
    return float(min((1.0 + n - nearer + between) / (n + 1.0), 1.0))
