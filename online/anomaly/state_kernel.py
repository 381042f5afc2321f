"""One pass of a state detector over rows: carry each sensor's value on, learn the reference, judge what comes after."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weir.online.anomaly.state_fit import LEAST_KEPT, Floats, measure, p_value
from weir.online.anomaly.state_layout import (
    ANCHOR,
    BEFORE,
    BEGAN,
    CENTRE,
    FITTED,
    KEPT,
    KEPT_MOST,
    LAST,
    LAST_ROW,
    LAST_TS,
    LEVEL,
    NEWEST,
    OFFERED,
    ROWS,
    RUNNING,
    SCALE,
    SEEN,
    STEP,
    STEP_FLOOR,
    STRIDE,
    VIEW,
    VIEWS,
    State,
    view_row,
)
from weir.online.anomaly.state_params import NUMBERS
from weir.online.jit import njit

SETTLED = 5.0
"""Values of a sensor after its start that are only smoothed."""
_GLITCH = 6.0  # usual steps outside the two values before it at which a value is cut: a single glitch is no state
_NUMBERS = len(NUMBERS)


class StateSettings(NamedTuple):
    """Spans are in rows or in seconds; that which is 0 does not count. Both 0 of the reference: the flag says it."""

    reference_rows: float
    reference_s: float
    smooth_rows: float
    smooth_s: float
    hold_rows: float
    hold_s: float


@njit(cache=True)
def _too_old(state: State, j: int, ts: float, settings: StateSettings) -> bool:
    """Whether the newest value of sensor ``j`` may not be carried on to now."""
    if settings.hold_s > 0.0:
        return bool(ts - state.sensors[j, LAST_TS] > settings.hold_s)
    return bool(state.head[ROWS] - state.sensors[j, LAST_ROW] > settings.hold_rows)


@njit(cache=True)
def _take(state: State, j: int, value: float, ts: float, settings: StateSettings) -> None:
    """Smooth a value of sensor ``j`` in; one that was away for too long starts again."""
    sensor = state.sensors[j]
    if sensor[LAST_ROW] == 0.0:
        sensor[ANCHOR] = value
    if _too_old(state, j, ts, settings):
        sensor[SEEN] = 0.0
    newest = value - sensor[ANCHOR]
    if sensor[SEEN] == 0.0:
        sensor[NEWEST], sensor[BEFORE] = newest, newest
    low, high = min(sensor[NEWEST], sensor[BEFORE]), max(sensor[NEWEST], sensor[BEFORE])
    x = min(max(newest, low - _GLITCH * sensor[STEP]), high + _GLITCH * sensor[STEP])
    # As it came, not as cut: a step that stays is within the last two values from its second row on.
    sensor[BEFORE], sensor[NEWEST] = sensor[NEWEST], newest
    if settings.smooth_s > 0.0:
        # Event times may step back; a rate below 0 would push the level away.
        rate = 1.0 - 0.5 ** (max(ts - sensor[LAST_TS], 0.0) / settings.smooth_s)
    else:
        rate = 1.0 - 0.5 ** ((state.head[ROWS] - sensor[LAST_ROW]) / settings.smooth_rows)
    if sensor[SEEN] == 0.0:
        sensor[LEVEL], sensor[STEP] = x, 0.0
    else:
        sensor[LEVEL] += max(rate, 1.0 / (sensor[SEEN] + 1.0)) * (x - sensor[LEVEL])
        sensor[STEP] += max(rate, 1.0 / sensor[SEEN]) * (abs(x - sensor[LAST]) - sensor[STEP])
    sensor[SEEN] += 1.0
    sensor[LAST], sensor[LAST_ROW] = x, state.head[ROWS]
    sensor[LAST_TS] = max(sensor[LAST_TS], ts)


@njit(cache=True)
def _keep(state: State, level: Floats, warm_up: float) -> None:
    """Offer the present row of the reference; when there is no room, every second one of those kept makes some."""
    head, kept = state.head, state.kept
    if head[ROWS] <= warm_up:
        return
    head[STRIDE] = max(head[STRIDE], 1.0)
    head[OFFERED] += 1.0
    if (head[OFFERED] - 1.0) % head[STRIDE] != 0.0:
        return
    if head[KEPT] == KEPT_MOST:
        for r in range(KEPT_MOST // 2):
            kept[r] = kept[2 * r]
        head[KEPT], head[STRIDE] = KEPT_MOST // 2, 2.0 * head[STRIDE]
    r = int(head[KEPT])
    for j in range(len(level)):
        missing = np.isnan(level[j])
        kept[r, 0, j] = np.nan if missing else state.sensors[j, LAST]
        kept[r, 1, j], kept[r, 2, j] = level[j], state.sensors[j, STEP]
    head[KEPT] += 1.0


@njit(cache=True)
def _runs(state: State, ts: float, settings: StateSettings) -> bool:
    """Whether a row at ``ts`` still belongs to the reference."""
    if settings.reference_rows > 0.0:
        return bool(state.head[ROWS] < settings.reference_rows)
    if settings.reference_s > 0.0:
        return bool(state.head[ROWS] == 0.0 or ts - state.head[BEGAN] < settings.reference_s)
    return bool(state.head[RUNNING] > 0.0)


@njit(cache=True)
def _judge(state: State, level: Floats, gap: Floats, z: Floats, out: Floats) -> None:
    """Fill one row of the output."""
    d = len(level)
    distance = measure(state, level, state.sensors[:, STEP], gap, z)
    out[0], out[1], out[2], out[3] = 1.0 - p_value(state, distance), distance, 0.0, 0.0
    whole, largest = max(distance**4, 1e-300), 0.0
    for j in range(d):
        scale = state.learned[j, SCALE]
        if scale == 0.0 or np.isnan(level[j]):
            continue
        parts = z[:, j] ** 4
        off = level[j] - state.learned[j, CENTRE] - scale * state.learned[j, VIEW]
        implied = scale * gap[j] if d > 1 else off
        expected = level[j] - (off if parts[0] > parts[1] or d == 1 else implied)
        rough = (1.0 + state.sensors[j, STEP] / state.learned[j, STEP_FLOOR]) / np.exp(state.learned[j, VIEW + 4])
        for k, told in enumerate((parts.sum() / whole, off, implied, rough)):
            out[_NUMBERS + k * d + j] = told
        if parts.sum() > largest:
            largest = parts.sum()
            out[2], out[3], out[4] = j + 1.0, parts.argmax() + 1.0, expected + state.sensors[j, ANCHOR]


@njit(cache=True)
def run_states(
    rows: Floats, slots: NDArray[np.int64], ts: Floats, values: Floats, settings: StateSettings, start: int, out: Floats
) -> int:
    """Judge rows in order from ``start`` and update the state ``rows``; returns where it stopped.

    It stops at the end, or before the first row after a reference: ``fit`` that row's state, then go on.

    Parameters
    ----------
    values : ``(d + 2, n)``: the sensors, the flag of the reference, whether it begins again; NaN changes nothing.
    out : ``(n, C)``, of NaN, a column for each of ``outputs``; left alone in the reference.
    """
    d = len(values) - 2
    level, gap, z = np.zeros(d), np.zeros(d), np.zeros((VIEWS, d))
    flagged = settings.reference_rows == 0.0 and settings.reference_s == 0.0
    for i in range(start, len(ts)):
        row = rows[slots[i]]
        state = view_row(row, d)
        flag = values[d, i]
        if values[d + 1, i] > 0.0 or (flagged and flag > 0.0 and state.head[FITTED] > 0.0):
            # The flag's last word outlives the reset: rows in which it is missing go by it.
            running = state.head[RUNNING]
            row[:] = 0.0
            state.head[RUNNING] = running
        if flagged and not np.isnan(flag):
            state.head[RUNNING] = 1.0 if flag > 0.0 else 0.0
        some = np.isfinite(values[:d, i]).any()
        runs = _runs(state, ts[i], settings)
        if some and state.head[FITTED] == 0.0 and not runs and state.head[KEPT] >= LEAST_KEPT:
            # Nothing of the row has been taken in: it is judged when the caller comes back with the fit made.
            return i
        if some:
            if state.head[ROWS] == 0.0:
                state.head[BEGAN] = ts[i]
            state.head[ROWS] += 1.0
        for j in range(d):
            if np.isfinite(values[j, i]):
                _take(state, j, values[j, i], ts[i], settings)
            known = state.sensors[j, SEEN] > SETTLED and not _too_old(state, j, ts[i], settings)
            level[j] = state.sensors[j, LEVEL] if known else np.nan
        if state.head[FITTED] > 0.0:
            if not np.isnan(level).all():
                _judge(state, level, gap, z, out[i])
        # Without a flag a reference that is over and has too few rows goes on until it has enough; by a flag only where
        # that says so.
        elif some and (runs or not flagged):
            _keep(state, level, settings.smooth_rows)
    return len(ts)
