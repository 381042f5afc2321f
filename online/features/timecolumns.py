"""Columns every event has because it has a time: hour, night, weekend and the like."""

from __future__ import annotations

import numpy as np

from weir.online.batch import FloatMatrix, FloatVector
from weir.online.jit import njit, plain

DAY_S = 86_400.0
TIME_COLUMNS = ("ts", "day", "hour", "weekday", "weekend", "night")


def time_columns(ts: FloatVector, utc_offset_s: float = 0.0) -> dict[str, FloatVector]:
    """The built-in time columns by name, each ``(n,) float64``, in the time zone ``utc_offset_s`` ahead of UTC.

    ``day`` counts days since 1970, ``hour`` is in [0, 24), ``weekday`` is 0 for Monday, ``weekend`` is Saturday and
    Sunday, ``night`` is the hours 0 to 6 (the Fraud Detection Handbook's definition).

    >>> monday_noon = time_columns(np.array([1_700_481_600.0]))
    >>> [float(monday_noon[c][0]) for c in ("hour", "weekday", "weekend", "night")]
    [12.0, 0.0, 0.0, 0.0]
    """
    # All of them in one call: of few rows it is the calls that cost.
    out = np.empty((len(TIME_COLUMNS) - 1, len(ts)))
    _fill(plain(ts), utc_offset_s, out)
    return dict(zip(TIME_COLUMNS, (ts, *out), strict=True))


@njit(cache=True, nogil=True)
def _fill(ts: FloatVector, utc_offset_s: float, out: FloatMatrix) -> None:
    """Fill in ``out``, a row a column: ``TIME_COLUMNS`` but for the first."""
    for i in range(len(ts)):
        local = ts[i] + utc_offset_s
        day = np.floor(local / DAY_S)
        weekday, second = (day + 3.0) % 7.0, local % DAY_S
        out[0, i] = day
        out[1, i] = second / 3600.0
        out[2, i] = weekday
        out[3, i] = weekday >= 5.0
        out[4, i] = second < 7 * 3600.0
