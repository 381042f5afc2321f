"""The two-sided Page-Hinkley test, one compiled step per value.

E. S. Page (1954), "Continuous inspection schemes", Biometrika 41. Raises its alarm at the same value as
``river.drift.PageHinkley`` in its mode "both".
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weir.online.jit import njit

MIN_VALUES = 30
ALPHA = 1.0 - 0.0001

# Slots of the state vector.
N, MEAN, UP, DOWN, LOWEST, HIGHEST = range(6)
SLOTS = 6


@njit(cache=True)
def step(x: float, delta: float, state: NDArray[np.float64]) -> float:
    """Add one value to ``state (SLOTS,)`` (zeros is a fresh one) and return the larger of the two test statistics."""
    if state[N] == 0.0:
        # As in River, where the largest sum begins at -1 and the smallest at infinity: alarms are to come at the same
        # value.
        state[LOWEST], state[HIGHEST] = math.inf, -1.0
    state[N] += 1.0
    state[MEAN] += (x - state[MEAN]) / state[N]
    apart = x - state[MEAN]
    state[UP] = ALPHA * state[UP] + apart - delta
    state[DOWN] = ALPHA * state[DOWN] + apart + delta
    state[LOWEST] = min(state[LOWEST], state[UP])
    state[HIGHEST] = max(state[HIGHEST], state[DOWN])
    if state[N] < MIN_VALUES:
        return 0.0
    statistic: float = max(state[UP] - state[LOWEST], state[HIGHEST] - state[DOWN])
    return statistic
