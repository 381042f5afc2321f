"""Columns every event has because it has a time: hour, night, weekend and the like."""

from __future__ import annotations

import numpy as np

from weir.online.batch import FloatVector

DAY_S = 86_400.0
TIME_COLUMNS = ("ts", "day", "hour", "weekday", "weekend", "night")


def time_column(name: str, ts: FloatVector, utc_offset_s: float = 0.0) -> FloatVector:
    """A built-in time column, ``(n,) float64``, in the time zone ``utc_offset_s`` ahead of UTC.

    ``day`` counts days since 1970, ``hour`` is in [0, 24), ``weekday`` is 0 for Monday, ``weekend`` is Saturday and
    Sunday, ``night`` is the hours 0 to 6 (the Fraud Detection Handbook's definition).

    >>> monday_noon = np.array([1_700_481_600.0])
    >>> [float(time_column(c, monday_noon)[0]) for c in ("hour", "weekday", "weekend", "night")]
    [12.0, 0.0, 0.0, 0.0]
    """
    local = ts + utc_offset_s
    match name:
        case "ts":
            return ts
        case "day":
            return np.floor(local / DAY_S)
        case "hour":
            return (local % DAY_S) / 3600.0
        case "weekday":
            return (np.floor(local / DAY_S) + 3) % 7
        case "weekend":
            return ((np.floor(local / DAY_S) + 3) % 7 >= 5).astype(np.float64)
        case "night":
            return ((local % DAY_S) < 7 * 3600.0).astype(np.float64)
    raise KeyError(name)
