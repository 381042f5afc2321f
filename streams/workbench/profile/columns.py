"""What each column of a table holds: times, numbers, texts, or nothing of use; how much of it is known and differs.

It reads columns as a backtest does, and knows values, not what a column means to the one who has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise, product
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.batch import FloatVector
from weir.online.codec.limits import DEFAULT_LIMITS
from weir.online.codec.wire import NO_DATA, TEXT_CHARS, TS_MAX, TS_MIN
from weir.streams.backtest.notes import SENTINELS, far_off
from weir.streams.backtest.tables.event_times import read_times
from weir.streams.backtest.tables.numbers import read_numbers
from weir.streams.backtest.tables.texts import MISSING, MISSING_TEXTS, Cells, as_text, without_missing
from weir.streams.errors import UsageError
from weir.streams.workbench.profile import terms
from weir.streams.workbench.profile.sampled import Sample

Kind = Literal["times", "numbers", "texts", "useless"]
_TRIED: Final = 400
"""Values by which it is told how a column is written, before all are read so."""
_MOSTLY: Final = 0.9
_SHOWN_CHARS: Final = 40
_CLOCKS: Final = ("", " %H:%M", " %H:%M:%S", "T%H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_DATE: Final = re.compile(r"\d{1,2}([-/.])\d{1,2}\1\d{2}")
_WORDS: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A column of a sample of n rows."""

    name: str
    kind: Kind
    cells: Cells
    texts: pa.ChunkedArray
    """Null where missing."""
    known: float
    """Share of the rows that have a value."""
    distinct: int
    numbers: FloatVector | None = None
    """``(n,) float64``, NaN where missing."""
    times: FloatVector | None = None
    """``(n,) float64`` epoch seconds, NaN where missing; of numbers too that may be times."""
    time_format: str = "auto"
    unsure: str = ""
    """What of its times is a guess."""
    missing: tuple[float, ...] = ()
    """Numbers that probably stand for no reading."""
    why: str = ""
    """Why it is of no use."""

    @property
    def words(self) -> frozenset[str]:
        """The words of its name."""
        return words_of(self.name)

    @property
    def useful(self) -> bool:
        """Whether it can be an input, an id or a label."""
        return self.kind in ("numbers", "texts")

    @property
    def whole(self) -> bool:
        """Whether all its numbers are whole."""
        return self.numbers is not None and bool(np.all(np.mod(self.numbers[np.isfinite(self.numbers)], 1) == 0))

    def spoken(self, most: int) -> list[tuple[str, int]]:
        """Its most frequent values with their counts."""
        counts = pc.value_counts(self.texts.drop_null()).to_pylist()
        return [(v["values"], int(v["counts"])) for v in sorted(counts, key=lambda v: -int(v["counts"]))[:most]]


def words_of(name: str) -> frozenset[str]:
    """The words of a column's name in lower case.

    >>> sorted(words_of("isFraud")), sorted(words_of("meta.IS_FRAUD"))
    (['fraud', 'is'], ['fraud', 'is'])
    """
    return frozenset(word.lower() for word in _WORDS.findall(re.split(r"\.(?=\w)", name)[-1]))


def columns_of_sample(sample: Sample) -> list[Column]:
    """What every column holds; times without an offset are read in UTC, until somebody says more (`read_anew`)."""
    table = sample.table
    made = []
    for name in table.table.column_names:
        cells = Cells(table.table.column(name), name, MISSING_TEXTS, table.where, [])
        try:
            made.append(_column(cells, table.semicolons, "UTC"))
        except (UsageError, pa.ArrowException) as exc:
            made.append(_unusable(cells, str(exc).partition(f"column {name!r} is ")[2] or str(exc)))
    return made


def _unusable(cells: Cells, why: str) -> Column:
    nothing = pa.chunked_array([pa.nulls(len(cells.values), pa.string())])
    return Column(cells.name, "useless", cells, nothing, 0.0, 0, why=why)


def _column(cells: Cells, semicolons: bool, time_zone: str) -> Column:
    kind, n = cells.values.type, len(cells.values)
    texts = without_missing(as_text(cells.values, "the column"), MISSING_TEXTS)
    known, distinct = n - texts.null_count, pc.count_distinct(texts).as_py()
    if not known:
        return _unusable(cells, "no value is known")
    # A float64 would make two cards one.
    numbers = None if _is_long_id(texts) else _numbers(cells, semicolons)
    if numbers is not None and _is_code(words_of(cells.name), texts, numbers):
        numbers = None
    times, form, unsure = (None, "auto", "") if pa.types.is_boolean(kind) else _times(cells, texts, time_zone)
    if numbers is not None:
        known, distinct = int(np.isfinite(numbers).sum()), len(np.unique(numbers[np.isfinite(numbers)]))
    no_reading = _no_readings(numbers)
    made = Column(cells.name, "texts", cells, texts, known / n, distinct, numbers, times, form, unsure, no_reading)
    held, why = _kind(made)
    return replace(made, kind=held, why=why)


def _kind(c: Column) -> tuple[Kind, str]:
    """What a column holds, and why that is of no use."""
    if c.distinct < 2:
        return "useless", f"it is {(c.spoken(1) or [('', 0)])[0][0][:40]!r} wherever it is known"
    if c.numbers is not None:
        odd = c.numbers[(np.abs(c.numbers) > DEFAULT_LIMITS.number) & (np.abs(c.numbers) < NO_DATA)]
        return ("useless", f"{odd[0]:g} is beyond [limits] number") if len(odd) else ("numbers", "")
    if c.times is not None and not (c.words & terms.ENTITY and _is_long_id(c.texts)):  # which may pass for nanoseconds
        return "times", ""
    longest = pc.max(pc.utf8_length(c.texts)).as_py()
    if longest > TEXT_CHARS or pc.any(pc.match_substring_regex(c.texts, r"[\x00-\x1f\x7f-\x{9f}]")).as_py():
        return "useless", f"texts of up to {longest} characters or several lines, the limit is {TEXT_CHARS}"
    return "texts", ""


def _is_long_id(texts: pa.ChunkedArray) -> bool:
    """Whether values are whole numbers of so many digits as no number of an event has: a card, an account, a hash."""
    some = texts.drop_null()
    digits = pc.all(pc.match_substring_regex(some, r"^\d+$")).as_py()
    return bool(digits) and pc.max(pc.utf8_length(some)).as_py() > len(f"{DEFAULT_LIMITS.number:.0f}") - 1


def _is_code(words: frozenset[str], texts: pa.ChunkedArray, numbers: FloatVector) -> bool:
    """Whether digits are the names of places or kinds, of which none is more than another."""
    some = texts.drop_null()
    if not pc.all(pc.match_substring_regex(some, r"^\d+(\.0|-\d+)?$")).as_py():
        return False
    if words & terms.POSTAL and words <= terms.POSTAL_OF:
        return True
    # Nobody writes a number as 0042, but for amounts of a fixed width; and what counts rows is their id.
    padded = pc.any(pc.match_substring_regex(some, r"^0\d\d+")).as_py()
    return bool(padded) and not words & terms.WORTH and bool(np.any(np.diff(numbers) != 1))


def _numbers(cells: Cells, semicolons: bool) -> FloatVector | None:
    """The column as numbers, where most of its values are."""
    try:
        found = read_numbers(cells, "auto", semicolons).values
        numbers = np.asarray(pc.cast(found, pa.float64(), safe=False).fill_null(np.nan), np.float64)
    except (UsageError, pa.ArrowException):
        return None
    return numbers if np.isfinite(numbers).any() else None


def _no_readings(numbers: FloatVector | None) -> tuple[float, ...]:
    """Words of devices for no number, far from all other values."""
    if numbers is None:
        return ()
    # Twice at least: a single one is an outlier like any other.
    marks = [float(mark) for mark in SENTINELS if np.count_nonzero(numbers == mark) > 1]
    rest = numbers[np.isfinite(numbers) & ~np.isin(numbers, marks)]
    return tuple(m for m in marks if len(rest) and far_off(m, float(rest.min()), float(rest.max())))


def _times(cells: Cells, texts: pa.ChunkedArray, time_zone: str) -> tuple[FloatVector | None, str, str]:
    """The column as times where most of its values can be such, their format, and what of it is a guess."""
    some = texts.drop_null()
    head = some.take(np.unique(np.linspace(0, len(some) - 1, min(_TRIED, len(some))).astype(int)))
    typed = pa.types.is_temporal(cells.values.type)
    if not typed and not plausible(_read(head, cells, "auto", time_zone)):
        form, unsure = _pattern(head.to_pylist())
        return (_read(texts, cells, form, time_zone), form, unsure) if form else (None, "auto", "")
    try:
        times = read_times(Cells(cells.values, cells.name, MISSING, cells.where, []), "auto", time_zone)
    except (UsageError, pa.ArrowException):
        return None, "auto", ""
    return (times, "auto", "") if plausible(times[np.asarray(pc.is_valid(texts))]) else (None, "auto", "")


def why_no_time(c: Column) -> str:
    """Why a column that looks like times cannot be read as such, and what to do; "" for another one."""
    some = c.texts.drop_null()
    if c.numbers is not None:
        days = c.numbers[np.isfinite(c.numbers)] - 25_569  # 1970, in the days that a spreadsheet counts
        if not c.words & terms.TIME or not plausible(days * 86_400):
            return ""
        return f"{some[0].as_py()!r} may be a spreadsheet's day number: export the column as date and time"
    head = some.take(np.unique(np.linspace(0, len(some) - 1, min(_TRIED, len(some))).astype(int)))
    read = np.array([plausible(_read(pa.chunked_array([[text]]), c.cells, "auto", "UTC")) for text in head.to_pylist()])
    odd = str(head[int(np.argmin(read))])[:_SHOWN_CHARS]
    return f"most of its values are times, and others, as {odd!r}, are not: mend them" if 0.5 <= read.mean() < 1 else ""


def _read(texts: pa.ChunkedArray, cells: Cells, form: str, time_zone: str) -> FloatVector:
    try:
        return read_times(Cells(texts, cells.name, MISSING, cells.where, []), form, time_zone)
    except (UsageError, pa.ArrowException):
        return np.full(len(texts), np.nan)


def read_anew(c: Column, time_format: str, time_zone: str) -> Column:
    """A column of times, read by another format, or times without an offset in another zone."""
    # As they were read first: a date that is no text has no pattern, and is read as what it is.
    values = c.cells.values if time_format == "auto" else c.texts
    return replace(c, time_format=time_format, times=_read(values, c.cells, time_format, time_zone))


def plausible(times: FloatVector) -> bool:
    """Whether most are times that an event may have."""
    return len(times) > 0 and float(np.mean((times >= TS_MIN) & (times <= TS_MAX))) >= _MOSTLY


def _pattern(texts: list[str]) -> tuple[str, str]:
    """A pattern for dates of which no value tells whether day or month comes first: the one that runs more evenly."""
    begins = _DATE.match(texts[0])
    if begins is None:
        return "", ""
    found = dict[str, list[datetime]]()
    for date, clock in product(("%d{0}%m{0}%Y", "%m{0}%d{0}%Y", "%d{0}%m{0}%y", "%m{0}%d{0}%y"), _CLOCKS):
        form = date.format(begins[1]) + clock
        try:
            found[form] = [datetime.strptime(text, form) for text in texts]
        except ValueError:
            continue
    if not found:
        return "", ""
    # What the file is sorted by steps back least; spans tell where it is not sorted.
    back = {f: (sum(b < a for a, b in pairwise(at)), max(at) - min(at)) for f, at in found.items()}
    best = min(found, key=back.__getitem__)
    return best, "" if len(found) == 1 else f"whether day or month comes first in {texts[0]!r}"
