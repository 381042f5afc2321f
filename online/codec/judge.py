"""Judges what records hold: numbers against the limits an operator sets, and computed values against the fixed one.

The limits are part of the types that decode (``weir.online.codec.hot_structs``), so that judging costs nothing. Here
are the words for a record that is out of range, the check of columns that compiled code has read, and the cut of
columns that Weir makes. Sizes are judged before decoding, by whoever holds the bytes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector
from weir.online.codec.hot_structs import limited_fields
from weir.online.codec.limits import InputLimits
from weir.online.codec.wire import FEATURE_MAX, NO_DATA, WireModel
from weir.online.jit import njit

OUT_OF_RANGE = "out of range"
"""The first words of the reason; metrics count by them."""


def out_of_range(record: WireModel, limits: InputLimits) -> str | None:
    """Say which number of a valid record is beyond its limit, or None. What stands for "no data" is not.

    >>> from weir.online.codec.limits import DEFAULT_LIMITS
    >>> from weir.online.codec.wire import DeviceEvent
    >>> event = DeviceEvent(v=1, event_id="e", device_id="d", ts=1.7e9, metrics={"temp": 3.4e28})
    >>> out_of_range(event, DEFAULT_LIMITS)
    'out of range: metrics.temp is 3.4e+28, allowed 1e+15; correct the sensor, or raise [limits] number'
    """
    for field, name in limited_fields(type(record)).items():
        held, most = getattr(record, field), getattr(limits, name)
        for key, value in (held or {}).items() if isinstance(held, dict | None) else [("", held)]:
            if isinstance(value, float | int) and most < abs(value) < (np.inf if name == "weight" else NO_DATA):
                shown = key if key.isprintable() else ascii(key)
                said = f"{field}.{shown}" if key else field
                fix = f"correct the {'sensor' if key else 'sender'}, or raise [limits] {name}"
                return f"{OUT_OF_RANGE}: {said} is {value:g}, allowed {most:g}; {fix}"
    return None


def computed(values: FloatMatrix) -> BoolVector:
    """Which rows ``(n, C)`` hold only what Weir may have computed: numbers up to ``FEATURE_MAX``, NaN where missing.

    >>> computed(np.array([[1e18, np.nan], [1e19, 0.0]])).tolist()
    [True, False]
    """
    bad = np.abs(values) > FEATURE_MAX
    return np.asarray(~bad.any(axis=1)) if bad.any() else np.ones(len(values), np.bool_)


@njit(cache=True, nogil=True)
def within(values: FloatVector, least: float, most: float) -> bool:
    """Whether all of ``(n,)`` are from ``least`` to ``most``; NaN is not."""
    for i in range(len(values)):  # noqa: SIM110 - numba compiles no ``all``
        if not least <= values[i] <= most:
            return False
    return True


def cut(values: NDArray[np.float64], most: float = FEATURE_MAX) -> NDArray[np.float64]:
    """In place: what is infinite (a division by 0) is missing, what is larger than ``most`` is ``most``.

    ``values`` of any shape are C-contiguous.

    >>> cut(np.array([np.inf, -1e300, 2.0])).tolist()
    [nan, -1e+18, 2.0]
    """
    _cut(values.reshape(-1), most)
    return values


@njit(cache=True, nogil=True)
def _cut(values: FloatVector, most: float) -> None:
    for i in range(len(values)):
        if abs(values[i]) > most:
            values[i] = np.nan if abs(values[i]) == np.inf else math.copysign(most, values[i])
