"""What of the raw numbers can be true: ranges, and the numbers that stand for "no reading"; counts what is taken out.

It knows columns of numbers by name, not what is made of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from weir.online.batch import FloatVector
from weir.online.codec.wire import NO_DATA

_ALL = "*"
# Relative: a sentinel that went through float32 on its way is the same.
_SAME = 1e-6
# Sums of squares below this hold no ``NO_DATA``.
_MODEST = 1e72


class Readings:
    """Takes what cannot be a reading out of raw columns: it is missing.

    Parameters
    ----------
    ranges : by column, the least and the largest value that can be true.
    missing : by column, the values that stand for "no reading"; ``*`` for every column without a list of its own.

    Examples
    --------
    >>> readings = Readings({"kwh": (0.0, 500.0)}, {"*": (-9999.0,)})
    >>> [readings.clean(name, np.array([-9999.0, 7.0, 3.4e38])).tolist() for name in ("kwh", "temp")]
    [[nan, 7.0, nan], [nan, 7.0, nan]]
    >>> dict(readings.taken)
    {'kwh': 2, 'temp': 2}
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]], missing: Mapping[str, Sequence[float]]) -> None:
        # Of numbers alone: what is infinite or NaN is missing as it is, and nothing is a finite share away from either.
        self._ranges, self._missing = ranges, {name: [*filter(math.isfinite, held)] for name, held in missing.items()}
        self.taken: Counter[str] = Counter()
        """By column, how many values were taken out so far."""

    def clean(self, name: str, values: FloatVector) -> FloatVector:
        """The column ``(n,) float64`` with NaN for what is no reading; itself where all are. Never changed in place."""
        sentinels = self._missing.get(name, self._missing.get(_ALL, ()))
        # One sum in place of three comparisons; NaN makes it no number, and the column is looked at.
        if name not in self._ranges and not sentinels and values.dot(values) < _MODEST:
            return values
        low, high = self._ranges.get(name, (-np.inf, np.inf))
        odd = (values < low) | (values > high) | (np.abs(values) >= NO_DATA)
        for sentinel in sentinels:
            odd |= np.abs(values - sentinel) <= _SAME * abs(sentinel)
        if not (count := int(odd.sum())):
            return values
        self.taken[name] += count
        # The batch is other tasks' too, who may have no such range.
        return np.where(odd, np.nan, values)
