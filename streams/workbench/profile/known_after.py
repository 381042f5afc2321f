"""Finds the numbers of an event that say when both of its outcomes would be known, such as days until a guest leaves.

Where one value of the label is known at once and the other only when something is over, a fixed wait is too long for
most events and too short for some. The event often says itself when that is: lead time and nights of a booking, the
term of a loan, the days of a trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from weir.online.batch import BoolVector, FloatVector, IntVector

_UNITS_S: Final = (86_400.0, 3_600.0, 60.0, 1.0)
_MOST_SUMMED: Final = 4
_LOOKED_AT: Final = 5_000
"""Rows are plenty to see that a sum is exact."""
_NEARLY_ALL: Final = 0.95
_EVEN: Final = 0.1
"""A delay that varies by less of its middle needs no sum: one wait fits all events."""


class KnownAfter(NamedTuple):
    """A sum of an event's numbers, in a unit, after which both of its outcomes are known."""

    names: tuple[str, ...]
    unit_s: float
    more_s: float
    """What comes on top of it, seconds."""

    @property
    def formula(self) -> str:
        """The same in seconds, as an expression of a task file.

        >>> KnownAfter(("lead_days", "nights"), 86_400.0, 3_600.0).formula
        '(lead_days + nights) * 86400 + 3600'
        """
        terms = " + ".join(self.names)
        terms = f"({terms})" if len(self.names) > 1 else terms
        unit = f" * {self.unit_s:.0f}" if self.unit_s != 1.0 else ""
        return f"{terms}{unit}" + (f" + {self.more_s:.0f}" if self.more_s else "")


def known_after(numbers: Mapping[str, FloatVector], late: FloatVector, slow: BoolVector) -> KnownAfter | None:
    """The sum after which both values of the label are known, or ``None`` where no sum says it.

    Parameters
    ----------
    numbers : by name ``(n,)`` numbers of events, NaN where one is missing.
    late : ``(n,)`` seconds from an event to its label; NaN where it has none.
    slow : ``(n,)`` whether a label is of the value that is known later.
    """
    whole = {name: each for name, each in numbers.items() if np.isfinite(each).all()}
    at = np.flatnonzero(np.isfinite(late) & slow)
    at = at[:: max(len(at) // _LOOKED_AT, 1)]
    if len(at) < 100 or _spread(late[at]) <= _EVEN * float(np.median(late[at])):
        return None
    for unit_s in _UNITS_S:
        rest, names = late[at] / unit_s, tuple[str, ...]()
        while len(names) < _MOST_SUMMED and (name := _next(whole, names, rest, at)):
            names, rest = (*names, name), rest - whole[name][at]
        # To the unit, as dates are rounded, and no wider than a tenth of what it explains.
        if not names or _spread(rest) > min(1.0, _EVEN * _spread(late[at]) / unit_s):
            continue
        more_s = max(np.ceil(np.quantile(rest, _NEARLY_ALL) * unit_s / 60.0) * 60.0, 0.0)
        found = KnownAfter(names, unit_s, float(more_s))
        due = np.sum([whole[name] for name in names], axis=0) * unit_s + more_s
        there = np.isfinite(late)
        if np.mean(late[there] <= due[there]) >= _NEARLY_ALL:
            return found
    return None


def _next(whole: Mapping[str, FloatVector], names: Sequence[str], rest: FloatVector, at: IntVector) -> str:
    """The number that explains most of the rest; empty where none makes it a fifth narrower on average."""
    left = {name: _wide(rest - each[at]) for name, each in whole.items() if name not in names}
    best = min(left, key=left.__getitem__, default="")
    return best if best and left[best] <= 0.8 * _wide(rest) else ""


def _wide(values: FloatVector) -> float:
    return float(np.mean(np.abs(values - np.median(values))))


def _spread(values: FloatVector) -> float:
    """Between them lie nine tenths of the values."""
    low, high = np.quantile(values, [0.05, 0.95])
    return float(high - low)
