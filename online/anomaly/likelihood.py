"""Anomaly likelihood: are the recent errors of one component larger than its own history says they should be.

Ahmad, Lavin, Purdy & Agha, "Unsupervised real-time anomaly detection for streaming data", Neurocomputing 262 (2017).
The paper takes the Gaussian tail of the short mean of the errors under their long-run mean and variance. Here the
number of standard deviations itself is returned (its tail probability saturates), on the log of the errors, and the
long run is an exponentially weighted one: no window of past errors has to be kept beyond the short one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.anomaly.layout import LIKELIHOOD, LIKELIHOOD_SIZE, RECENT
from weir.online.jit import njit

Row = NDArray[np.float64]

CAP = 8.0
"""Largest surprise one component can add, in standard deviations."""
_WARM_UP = 30.0


@njit(cache=True)
def surprise(row: Row, component: int, error: float, count: float, rate: float) -> float:
    """Short-run mean of ``log(1 + error)`` in long-run standard deviations above its mean, in [0, CAP]; then learn.

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
