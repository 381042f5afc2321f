"""A stream's usual course over the hours of a day or a week, from what was seen in each hour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector
from weir.online.drift.monitor_state import SQUARES, TOTAL, DriftState, N

SHRINK = 8.0
"""Values that speak for an hour being like all others: an hour with few of them tells little."""
GAP_S = 86_400.0
"""What a gap in a stream counts for at most: no course is learned in it."""


def hours_of(ts: FloatVector) -> FloatVector:
    """Hours of event time, ``(n,)``, such that whole numbers are the middles of hours; NaN where time is not known."""
    hours: FloatVector = np.where(np.isfinite(ts), ts / 3600.0 - 0.5, np.nan)
    return hours


def live_on(state: DriftState, streams: NDArray[np.int64], now: float) -> None:
    """Count the time up to ``now`` for streams whose season is learned."""
    if not np.isfinite(now):
        return
    lived, newest = state.lived[streams, 0], state.lived[streams, 1]
    gap = np.where(np.isfinite(newest), np.clip(now - newest, 0.0, GAP_S), 0.0)
    state.lived[streams, 0] = lived + gap
    state.lived[streams, 1] = np.maximum(newest, now)


def fit_season(state: DriftState, stream: int) -> None:
    """Set the stream's usual course from what was seen, as differences from its mean, and the doubt that is left."""
    n, total, squares = (state.season[stream, :, k] for k in (N, TOTAL, SQUARES))
    count = float(n.sum())
    mean = float(total.sum()) / count
    some = np.maximum(n, 1.0)
    state.usual[stream] = (total / some - mean) * (n / (n + SHRINK))
    within = max(float((squares - total**2 / some).sum()) / count, 0.0)
    state.doubt[stream] = np.sqrt(within * float(np.average(1.0 / (n + SHRINK), weights=n)))
