"""Readings of one device, each metric beside the band in which its own recent past lets it be expected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from pydantic import ValidationError

from weir.online.batch import BoolVector, FloatVector
from weir.online.codec.wire import DeviceEvent

PAST: Final = 48
"""Readings of the past that a band is made of."""
SPREADS: Final = 4.0
_LEAST: Final = 8
"""Of fewer readings no band is made."""
_IQR_OF_NORMAL: Final = 1.349
"""Of a normal distribution, in standard deviations. The median absolute deviation would be 0 for a metric that jumps
between two values."""
_STILL: Final = 0.01
"""A metric that hardly moved may still move by such a share of its median: else the first noise would be odd."""


class Band(NamedTuple):
    """Where readings are expected, ``(n,)`` each; NaN where the past is too short."""

    low: FloatVector
    high: FloatVector

    def outside(self, values: FloatVector) -> BoolVector:
        """Which of the readings lie outside, ``(n,)``."""
        return (values < self.low) | (values > self.high)


def expected_band(values: FloatVector, past: int = PAST) -> Band:
    """The rolling median of the ``past`` readings before each, and four robust spreads to both sides.

    A reading is no part of its own band. Missing ones (NaN) are passed over.

    >>> band = expected_band(np.array([1.0, 2.0] * 10 + [9.0]))
    >>> f"{band.low[-1]:.2f}", f"{band.high[-1]:.2f}", bool(band.outside(np.full(21, 9.0))[-1])
    ('-1.47', '4.47', True)
    """
    n = len(values)
    before = np.concatenate([np.full(past, np.nan), values[:-1]])
    windows = np.lib.stride_tricks.sliding_window_view(before, past)[:n]
    low, high = np.full(n, np.nan), np.full(n, np.nan)
    enough = np.count_nonzero(~np.isnan(windows), axis=1) >= _LEAST
    if enough.any():
        quarter, middle, three = np.nanquantile(windows[enough], (0.25, 0.5, 0.75), axis=1)
        reach = SPREADS * np.maximum((three - quarter) / _IQR_OF_NORMAL, _STILL * np.abs(middle))
        low[enough], high[enough] = middle - reach, middle + reach
    return Band(low, high)


class MetricReadings(NamedTuple):
    """One metric of a device."""

    name: str
    ts: Sequence[float]
    values: FloatVector
    band: Band
    odd: BoolVector
    """Which readings lie outside the band."""


def readings_of(records: Iterable[bytes], most: int) -> list[MetricReadings]:
    """The newest ``most`` readings of a device by metric, those with the most odd ones first.

    Records that are not valid are left out: they are dead letters.
    """
    found = []
    for value in records:
        try:
            found.append(DeviceEvent.model_validate_json(value))
        except ValidationError:
            continue
    found = sorted(found, key=lambda event: event.ts)[-(most + PAST) :]
    names = dict.fromkeys(name for event in found for name in event.metrics)
    made = [_metric(name, found, most) for name in names]
    return sorted(made, key=lambda metric: (-int(metric.odd.sum()), metric.name))


def _metric(name: str, events: Sequence[DeviceEvent], most: int) -> MetricReadings:
    values = np.array([np.nan if (v := event.metrics.get(name)) is None else v for event in events], dtype=np.float64)
    band = expected_band(values)
    shown = slice(-most, None)  # what is before only makes the first bands
    band = Band(band.low[shown], band.high[shown])
    ts, values = [event.ts for event in events][shown], values[shown]
    return MetricReadings(name, ts, values, band, band.outside(values))
