"""Columns every event has because it has a time: hour, night, weekend and the like."""

from __future__ import annotations

import numpy as np

from weir.online.batch import FloatVector
from weir.online.jit import njit, plain

DAY_S = 86_400.0
TIME_COLUMNS = ("ts", "day", "hour", "weekday", "weekend", "night")
_NUMBERS = {name: number for number, name in enumerate(TIME_COLUMNS)}


def time_column(name: str, ts: FloatVector, utc_offset_s: float = 0.0) -> FloatVector:
    """A built-in time column, ``(n,) float64``, in the time zone ``utc_offset_s`` ahead of UTC.

    ``day`` counts days since 1970, ``hour`` is in [0, 24), ``weekday`` is 0 for Monday, ``weekend`` is Saturday and
    Sunday, ``night`` is the hours 0 to 6 (the Fraud Detection Handbook's definition).

    >>> monday_noon = np.array([1_700_481_600.0])
    >>> [float(time_column(c, monday_noon)[0]) for c in ("hour", "weekday", "weekend", "night")]
    [12.0, 0.0, 0.0, 0.0]
    """
    if name == "ts":
        return ts
    out = np.empty(len(ts))
    _fill(_NUMBERS[name], plain(ts), utc_offset_s, out)
    return out


@njit(cache=True, nogil=True)
def _fill(number: int, ts: FloatVector, utc_offset_s: float, out: FloatVector) -> None:
    """As `time_column`, by the column's place in ``TIME_COLUMNS``."""
    for i in range(len(ts)):
        local = ts[i] + utc_offset_s
        day = np.floor(local / DAY_S)
        weekday, second = (day + 3.0) % 7.0, local % DAY_S
        if number == 1:
            out[i] = day
        elif number == 2:
            out[i] = second / 3600.0
        elif number == 3:
            out[i] = weekday
        elif number == 4:
            out[i] = weekday >= 5.0
        else:
            out[i] = second < 7 * 3600.0
