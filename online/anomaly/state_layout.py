"""Where a state detector keeps its numbers in an entity's row, for ``d`` sensors. It knows offsets and sizes alone.

A row is float64; the kept rows of the reference and the calibration are float32 of the same row. All values of a
sensor are kept relative to its first one, so that float32 also resolves a small movement on a large offset. A row of
zeros is an entity not seen yet.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weir.online.jit import njit

KEPT_MOST: Final = 256
"""Rows of the reference that are kept; of a longer one every 2nd, 4th, ... is."""
VIEWS: Final = 3
"""Level alone, level given the other sensors, roughness."""

# Of the entity.
ROWS: Final = 0
"""Rows with a value so far, of the reference and after it."""
FITTED: Final = 1
"""1 once the reference has been learned."""
BEGAN: Final = 2
"""Event time of the reference's first row."""
OFFERED: Final = 3
"""Rows of the reference that could be kept."""
KEPT: Final = 4
STRIDE: Final = 5
RUNNING: Final = 6
"""1 while the flag says that the reference runs."""
HEAD: Final = 7

# Of a sensor.
ANCHOR, LAST, LAST_TS, LAST_ROW, SEEN, LEVEL, STEP, NEWEST, BEFORE = range(9)
"""First value; newest value without glitches; time and row of the newest value; values since it (re)started; smoothed
value; smoothed absolute step; the newest two values."""
SENSOR: Final = 9

# Of a sensor as learned; a scale of 0 is a sensor that the reference hardly saw.
CENTRE, SCALE, STEP_FLOOR = range(3)
VIEW: Final = 3
"""Centre and scale of each view."""
LEARNED: Final = VIEW + 2 * VIEWS


class State(NamedTuple):
    """Views of one row."""

    head: NDArray[np.float64]
    sensors: NDArray[np.float64]
    """``(d, SENSOR)``."""
    learned: NDArray[np.float64]
    """``(d, LEARNED)``."""
    precision: NDArray[np.float64]
    """``(d, d)``, inverse of the shrunk correlation."""
    calibration: NDArray[np.float32]
    """``(KEPT_MOST,)`` distances of the reference's rows, each by a fit without its part of the reference; sorted."""
    kept: NDArray[np.float32]
    """``(KEPT_MOST, VIEWS, d)`` value, smoothed value and smoothed step; NaN where the sensor was missing."""


def state_width(d: int) -> int:
    """float64 cells of a row; times 8 for bytes.

    >>> 8 * state_width(8)
    28344
    """
    return HEAD + d * (SENSOR + LEARNED + d) + KEPT_MOST * (1 + VIEWS * d + 1) // 2


@njit(cache=True)
def view_row(row: NDArray[np.float64], d: int) -> Any:
    """The ``State`` of a row of ``state_width(d)`` cells."""
    sensors = HEAD + d * SENSOR
    learned = sensors + d * LEARNED
    exact = learned + d * d
    loose = row[exact:].view(np.float32)
    return State(
        row[:HEAD],
        row[HEAD:sensors].reshape(d, SENSOR),
        row[sensors:learned].reshape(d, LEARNED),
        row[learned:exact].reshape(d, d),
        loose[:KEPT_MOST],
        loose[KEPT_MOST : KEPT_MOST * (1 + VIEWS * d)].reshape(KEPT_MOST, VIEWS, d),
    )
