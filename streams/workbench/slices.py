"""Cuts rows by the values of a field: numbers into a few ranges, texts by value, rare ones together.

It knows values as texts, as outcomes keep them, not scores.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.batch import FloatVector, IntVector
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.tables.numbers import read_numbers
from weir.streams.backtest.tables.texts import MISSING, Cells
from weir.streams.errors import UsageError

MOST_VALUES: Final = 20
RANGES: Final = 6
_FEW: Final = 12
"""So many different numbers, such as months, are values of their own."""
_DIGITS: Final = 15
"""More digits are of no number, but of an id."""


class Cut(NamedTuple):
    """The slices of n rows."""

    at: IntVector
    """``(n,)`` the slice of each row."""
    names: list[str | None]
    """Of each slice: a value, a range, or ``None`` where there is no value."""


def cut(values: pa.ChunkedArray, *, ids: bool = False) -> Cut:
    """The slices of rows by their values: ranges from low to high, few numbers so, or the values of most rows first.

    ``ids`` are never taken for numbers.

    >>> made = cut(pa.chunked_array([[f"{k / 10}" for k in range(1000)]]))
    >>> made.names
    ['below 17', '17 to 33', '33 to 50', '50 to 67', '67 to 83', '83 or more']
    >>> np.bincount(made.at).tolist()
    [170, 160, 170, 170, 160, 170]
    >>> cut(pa.chunked_array([["de", None, "at", "de"]])).names
    ['de', 'at', None]
    """
    coded = values.combine_chunks().dictionary_encode()
    words: list[str] = coded.dictionary.to_pylist()
    codes = np.asarray(pc.fill_null(coded.indices, len(words)), np.int64)
    numbers = None if ids else _numbers(words)
    if numbers is not None and len(np.unique(numbers)) > _FEW:
        return _ranges(np.append(numbers, np.nan)[codes])
    return _values(codes, words, numbers)


def is_id(task: TaskSpec, field: str) -> bool:
    """Whether a field names something, so that no number of it is more than another."""
    return field in {"event_id", *(entity.key for entity in task.entities)}


def _numbers(words: list[str]) -> FloatVector | None:
    """The number that each text is; ``None`` where one of them is none, or digits that are no amount."""
    if not words or any(w.isdigit() and (len(w) > _DIGITS or (w[0] == "0" and len(w) > 1)) for w in words):
        return None
    # Read as a backtest reads a column, so that "1.250,00" is a number here as well.
    cells = Cells(pa.chunked_array([pa.array(words)]), "", MISSING, lambda _: "", [])
    try:
        found = read_numbers(cells, "auto", comma_first=False)
    except (UsageError, pa.ArrowException):
        return None
    if found.raw:
        return None
    return np.asarray(pc.cast(found.values, pa.float64()).fill_null(np.nan), np.float64)


def _ranges(numbers: FloatVector) -> Cut:
    """About as many rows in each range, between edges that can be read; what is infinite is in the outer ones."""
    known = numbers[np.isfinite(numbers)]
    quantiles = np.quantile(known, np.arange(1, RANGES) / RANGES)
    # Without the ends: one outlier would make the span so wide that all edges round to one.
    span = float(np.quantile(known, 0.95) - np.quantile(known, 0.05)) or float(np.ptp(known))
    rounded = {_readable(float(edge), span) for edge in quantiles}
    edges = sorted(edge for edge in rounded if known.min() < edge <= known.max())
    if not edges:
        above = known[known > quantiles[0]]  # most rows have one value, the least or the largest
        edges = [float(above.min() if len(above) else known.max())]
    said = [f"{edge:,.15g}" for edge in edges]
    inner = [f"{low} to {high}" for low, high in pairwise(said)]
    names: list[str | None] = [f"below {said[0]}", *inner, f"{said[-1]} or more", None]
    # "right": an edge belongs to the range above it, as its name says.
    at = np.where(np.isnan(numbers), len(names) - 1, np.searchsorted(edges, numbers, "right"))
    return Cut(at.astype(np.int64), names if np.isnan(numbers).any() else names[:-1])


def _readable(edge: float, span: float) -> float:
    """An edge with two digits, or as many as two digits of the span ask for."""
    return round(edge, 1 - math.floor(math.log10(min(abs(edge), span)))) if edge else 0.0


def _values(codes: IntVector, words: list[str], numbers: FloatVector | None) -> Cut:
    """Each value with its rows, those of most rows first; the rest of many together, and last the rows without."""
    counts = np.bincount(codes, minlength=len(words) + 1)
    rank = -counts if numbers is None else np.nan_to_num(numbers, nan=np.inf)  # nothing is in order with a NaN
    order = sorted(range(len(words)), key=lambda k: (rank[k], words[k]))
    shown = order if len(order) <= MOST_VALUES else order[: MOST_VALUES - 1]
    names: list[str | None] = [words[k] for k in shown]
    place = np.full(len(words) + 1, len(names), np.int64)
    place[shown] = np.arange(len(shown))
    if rest := len(order) - len(shown):
        names.append(f"other ({rest:,} values)")
    if counts[-1]:
        place[-1] = len(names)
        names.append(None)
    return Cut(place[codes], names)
