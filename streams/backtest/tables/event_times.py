"""A column as event times: ISO in its variants, other orders of day and month, epochs of any unit.

How a column is written is decided over all its values. A time without an offset is of the time zone given; in the hour
that an autumn clock repeats it is the first, and in the one that a spring clock skips it is the end of that hour.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import available_timezones

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.batch import FloatVector
from weir.streams.backtest.tables.texts import Cells

_UNITS = {"unix": 1.0, "unix_ms": 1e3, "unix_us": 1e6, "unix_ns": 1e9}
_NAMES = {"unix": "seconds", "unix_ms": "milliseconds", "unix_us": "microseconds", "unix_ns": "nanoseconds"}
_YEAR_2000, _YEAR_2100 = 946_684_800.0, 4_102_444_800.0
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DATES = tuple(re.compile(pattern, re.IGNORECASE) for pattern in (
    r"(?P<y>\d{4})([-/.])(?P<m>\d{1,2})\2(?P<d>\d{1,2})",
    r"(?:[^\W\d_]{2,9}\.?,? )?(?P<a>\d{1,2})([-/.])(?P<b>\d{1,2})\2(?P<y>\d{4}|\d\d)(?!\d)",
    r"(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)",
    r"(?:[^\W\d_]{2,9}\.?,? )?(?P<d>\d{1,2})(?:st|nd|rd|th)?[-/. ]*(?P<m>[^\W\d_]{3,9})[-/., ]*(?P<y>\d{4}|\d\d)(?!\d)",
    r"(?:[a-z]{3,9}\.?,? )?(?P<m>[a-z]{3,9})\.? (?P<d>\d{1,2})(?:st|nd|rd|th)?,? (?P<y>\d{4})",
))  # fmt: skip
_CLOCK = re.compile(
    r"(?:(?: at )?[t ,:-]*(?P<h>\d{1,2})(?:[:.h]?(?P<min>\d\d)(?:[:.]?(?P<s>\d\d)(?:[.,:](?P<f>\d+))?)?)?"
    r" ?(?:(?P<half>[ap])\.? ?m\.?)?)? ?(?P<zone>\D.*)?",
    re.IGNORECASE,
)
_OFFSET = re.compile(r"(?:UTC|GMT)?([+\u2212-])(\d\d?):?(\d\d)?(?: ?[(\[].*)?")
_UNIX_DATE = re.compile(r"(?:[A-Z][a-z]{2} )?([A-Z][a-z]{2} \d{1,2}) ([\d:]+)( [A-Z]+)? (\d{4})")
# A letter is what is neither another sign of ASCII nor a digit: with the table of all letters (\pL) in it Arrow takes
# 80 times as long to read the pattern, which it does for each column.
_LETTERS = r"[^\x00-@\[-`{-\x7f]{2,9}"
_ORDERED = rf"^(?:{_LETTERS}\.?,? )?(?P<a>\d{{1,2}})(?P<mark>[./-])(?P<b>\d{{1,2}})[./-](?P<y>\d{{4}}|\d\d)(?:\D|$)"
_LEFT = pa.scalar(None, pa.string())


class _OddZoneError(ValueError):
    """A time whose zone has a name that says no offset."""


def read_times(cells: Cells, time_format: str, time_zone: str) -> FloatVector:
    """Event times ``(n,) float64`` in epoch seconds, NaN where one cannot be read.

    Raises
    ------
    UsageError
        Where no value of the column can be a time, or it may be read in two ways.
    """
    column, kind = cells.values, cells.values.type
    if pa.types.is_time(kind):
        raise cells.refuse(0, f"{kind}, a time of day without a date; give a column with date and time")
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        # Not safe: nanoseconds are cut to microseconds, which a safe cast would refuse.
        return _epoch(pc.cast(column, pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False), time_zone)
    if pa.types.is_duration(kind) or pa.types.is_boolean(kind):
        raise cells.refuse(0, f"{kind}, no time; give a column of times or epoch seconds")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _numbers(cells, time_format, time_zone)
    cells = replace(cells, values=(texts := cells.texts()))
    if time_format == "iso" or "%" in time_format:
        return _texts(cells, time_format, time_zone)
    digits = pc.fill_null(pc.match_substring_regex(texts, r"^-?\d+([.,]\d+)?([eE]\+?\d+)?$"), False)
    if not pc.any(digits).as_py():
        return np.full(len(texts), np.nan) if time_format in _UNITS else _texts(cells, time_format, time_zone)
    rounded = pc.fill_null(pc.match_substring_regex(texts, r"^\d([.,]\d{1,5})?[eE]\+\d\d$"), False)
    if pc.any(rounded).as_py():
        row = int(pc.index(rounded, True).as_py())
        lost = "digits of the time are lost, as a spreadsheet does with long numbers; export the column as text"
        raise cells.refuse(row, f"{texts[row].as_py()!r}: {lost}")
    numbers = pc.cast(pc.replace_substring(pc.if_else(digits, texts, _LEFT), ",", "."), pa.float64())
    found = _numbers(replace(cells, values=numbers), time_format, time_zone)
    if time_format in _UNITS or pc.all(digits).as_py():
        return found
    rest = replace(cells, values=pc.if_else(digits, _LEFT, texts))
    return np.where(np.isnan(found), _texts(rest, time_format, time_zone), found)


def _epoch(stamps: pa.ChunkedArray, time_zone: str) -> FloatVector:
    if stamps.type.tz is None and time_zone != "UTC":
        stamps = pc.assume_timezone(stamps, time_zone, ambiguous="earliest", nonexistent="latest")
    # Not safe: above 2**53 us, the year 2255, a float64 rounds, and the safe cast would refuse the column for one such
    # time.
    number = pc.cast(pc.cast(stamps, pa.int64()), pa.float64(), safe=False).fill_null(np.nan)
    return np.asarray(number, np.float64) / 1e6


def _numbers(cells: Cells, time_format: str, time_zone: str) -> FloatVector:
    """Epochs; by their size where no format is given."""
    number = np.asarray(pc.cast(cells.values, pa.float64(), safe=False).fill_null(np.nan), np.float64)
    if time_format in _UNITS:
        return number / _UNITS[time_format]
    known = np.abs(number[np.isfinite(number)])
    # The median: a few zeros, or dates such as 9999-12-31, must not choose the unit of all.
    middle = float(np.median(known)) if len(known) else 0.0
    if cells.values.type == pa.float32() and middle > 2.0**24:
        cells.say(f"of type float, which holds such times to {np.spacing(np.float32(middle)):g} only; write double")
    # k: with hour and minute, or also the second, behind the day. No such number is an epoch of 2000 to 2100 in any
    # unit: 20260105 s is in 1970, 202601051200 ms in 1976, 20260105120000 ms in 2612.
    if time_format != "auto" or any(19_000_101 * k <= middle < 21_001_232 * k for k in (1, 1e4, 1e6)):
        cells.say(f"year, month and day in one number, as {time_zone}")
        texts = pc.cast(pc.cast(cells.values, pa.int64(), safe=False), pa.string())
        return _texts(replace(cells, values=texts), time_format, time_zone)
    # Spreadsheets count days from 1900: these are 1954 to 2119. As seconds they are the first day of 1970.
    if 20_000 < middle < 80_000:
        first = int(np.isfinite(number).argmax())
        words = "a spreadsheet's day number? Export the column as a date and time (2026-01-05 00:00:14), or set"
        raise cells.refuse(first, f'{number[first]:.15g}: {words} time_format = "unix" in [source]')
    return number / _UNITS[_unit(number, middle, cells)]


def _unit(number: FloatVector, middle: float, cells: Cells) -> str:
    """The unit that the sizes tell; refused where many are of one and many of another."""
    # 1e11 is the year 5138 in seconds and 1973 in milliseconds; each further unit is a thousand times that.
    unit = "unix" if middle < 1e11 else "unix_ms" if middle < 1e14 else "unix_us" if middle < 1e17 else "unix_ns"
    for other in _UNITS.keys() - {unit}:
        fits = (number >= _YEAR_2000 * _UNITS[other]) & (number < _YEAR_2100 * _UNITS[other])
        if np.count_nonzero(fits) > 0.01 * len(number):
            mine = (number >= _YEAR_2000 * _UNITS[unit]) & (number < _YEAR_2100 * _UNITS[unit])
            one, two = int(fits.argmax()), int(mine.argmax())
            words = f"{number[one]:.15g}, in {_NAMES[other]}, but {number[two]:.15g}, in {_NAMES[unit]}, in "
            raise cells.refuse(one, f"{words}{cells.where(two)}; write all times in one unit")
    if unit != "unix":
        cells.say(f"{unit.removeprefix('unix_')} since 1970, by their size")
    return unit


def _texts(cells: Cells, time_format: str, time_zone: str) -> FloatVector:
    """Times in words: all at once where Arrow reads them, else each distinct text once."""
    texts = cells.values
    if "%" not in time_format:
        for made in (texts, pc.replace_substring_regex(texts, r" ?(?:UTC|GMT)$", "Z")):  # as BigQuery has it
            for exact in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
                try:
                    return _epoch(pc.cast(made, exact), time_zone)
                except pa.ArrowInvalid:
                    continue
    coded = pc.dictionary_encode(texts.combine_chunks())
    read, words = _Reader(time_format, time_format == "auto" and _month_first(cells)), coded.dictionary.to_pylist()
    found = [_moment(read, text, cells) for text in words]
    place = np.asarray(pc.fill_null(coded.indices, len(found)))
    seconds = np.full(len(found) + 1, np.nan)
    zones = {zone for _, zone in filter(None, found)}
    for zone in zones:
        mine = [one[0] if one and one[1] == zone else None for one in found]
        # By Arrow, as a column of timestamps: both read an hour alike that a clock repeats or skips.
        stamps = _epoch(pa.array(mine, pa.timestamp("us")), zone or time_zone)
        seconds[:-1] = np.where(np.isnan(stamps), seconds[:-1], stamps)
    if "" in zones and len(zones) > 1:
        bare = np.array([*(one is not None and not one[1] for one in found), False])
        example, rows = words[int(bare.argmax())], int(np.count_nonzero(bare[place]))
        cells.say(f"{rows:,} of {len(place):,} times have no offset, as {example!r}: taken to be of {time_zone}")
    return np.asarray(seconds[place], np.float64)


def _moment(read: _Reader, text: str, cells: Cells) -> tuple[datetime, str] | None:
    try:
        return read(text)
    except _OddZoneError as exc:
        raise cells.refuse(int(pc.index(cells.values, text).as_py()), f"{text!r}: {exc}") from None
    except (ValueError, OverflowError):
        return None  # the row is refused, with its text


def _month_first(cells: Cells) -> bool:
    """Whether ``05.01.2026`` is of May; the order is what a value over 12 tells."""
    texts, parts = cells.values, pc.extract_regex(cells.values, _ORDERED)
    if parts.null_count == len(parts):
        return False
    whole = parts.combine_chunks()
    a, b = (pc.cast(pc.struct_field(whole, name), pa.int32()) for name in "ab")
    most_a, most_b = pc.max(a).as_py(), pc.max(b).as_py()
    first = int(pc.index(pc.is_valid(whole), True).as_py())
    example = texts[first].as_py()
    if most_a > 12 and most_b > 12:
        days, months = int(pc.index(pc.greater(a, 12), True).as_py()), int(pc.index(pc.greater(b, 12), True).as_py())
        words = f"{texts[days].as_py()!r}, but {texts[months].as_py()!r} in {cells.where(months)}: day and month change"
        raise cells.refuse(days, f"{words} places; write all times alike, or set time_format in [source]")
    years = pc.struct_field(whole, "y")
    # Two digits that change from row to row while the first stay: 25/03/01, 25/03/02 begin with the year.
    swapped = pc.all(pc.equal(pc.utf8_length(years), 2)).as_py() and pc.count_distinct(a).as_py() == 1 < (
        pc.count_distinct(years).as_py())  # fmt: skip
    untold = most_a <= 12 and most_b <= 12 and pc.any(pc.not_equal(pc.struct_field(whole, "mark"), ".")).as_py()
    if swapped or untold:
        words = f"{example!r}: no value tells whether {'the year' if swapped else 'day or month'} comes first; set "
        shown = '"%y/%m/%d" or "%d/%m/%y"' if swapped else '"%d/%m/%Y %H:%M:%S" or "%m/%d/%Y %I:%M:%S %p"'
        raise cells.refuse(first, f"{words}time_format in [source], such as {shown}")
    cells.say(f"{'day, month, year' if most_b <= 12 else 'month, day, year'}, as in {example!r}")
    return bool(most_b > 12)


class _Reader:
    """Reads one time at a time, such as ``Jan 5, 2026``, RFC 2822 or a web server's log."""

    def __init__(self, time_format: str, month_first: bool) -> None:
        self._format = time_format if "%" in time_format else ""
        self._order = "ba" if month_first else "ab"
        self._dates = list(_DATES[:1] if time_format == "iso" else _DATES)

    def __call__(self, text: str) -> tuple[datetime, str]:
        """The time on the clock, and its zone, "" where none is told; raises ``ValueError`` for what is no time."""
        try:
            moment = datetime.strptime(text, self._format) if self._format else datetime.fromisoformat(text)
        except ValueError:
            if self._format:
                raise
            return self._in_words(_UNIX_DATE.sub(r"\1 \4 \2\3", " ".join(text.lstrip("[").split())))
        if moment.tzinfo is None:
            return moment, ""
        return moment.astimezone(UTC).replace(tzinfo=None), "UTC"

    def _in_words(self, text: str) -> tuple[datetime, str]:
        for at, pattern in enumerate(self._dates):
            if (date := pattern.match(text)) and (clock := _CLOCK.fullmatch(text, date.end())):
                self._dates.insert(0, self._dates.pop(at))  # the next is written alike
                day = _day(date.groupdict(), self._order)
                return _zoned(day + _since_midnight(clock), (clock["zone"] or "").strip(" []()"))
        raise ValueError(text)


def _day(date: dict[str, str], order: str) -> datetime:
    day, month = (date[order[0]], date[order[1]]) if "a" in date else (date["d"], date["m"])
    number = int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) + 1
    year = int(date["y"])
    # Two digits as strptime's %y reads them (POSIX): 69 to 99 are of the last century.
    return datetime(year + 2000 if year < 69 else year + 1900 if year < 100 else year, number, int(day))


def _since_midnight(clock: re.Match[str]) -> timedelta:
    hour, minute, second = (int(clock[name] or 0) for name in ("h", "min", "s"))
    # 24:00 is the end of a day (ISO 8601).
    if minute > 59 or second > 59 or hour > (12 if clock["half"] else 24) or (hour == 24 and minute + second):
        raise ValueError(clock[0])
    if clock["half"]:
        hour = hour % 12 + 12 * (clock["half"] in "pP")
    return timedelta(hours=hour, minutes=minute, seconds=second, microseconds=int((clock["f"] or "")[:6].ljust(6, "0")))


def _zoned(moment: datetime, zone: str) -> tuple[datetime, str]:
    if not zone:
        return moment, ""
    if zone.upper() in ("Z", "UTC", "GMT", "Z[UTC"):
        return moment, "UTC"
    if offset := _OFFSET.fullmatch(zone):
        by = timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0))
        return (moment - by if offset[1] == "+" else moment + by), "UTC"
    # Only names of places: the database has abbreviations such as EST as well, and those stand for several offsets.
    if "/" in zone and zone in available_timezones():
        return moment, zone
    if re.fullmatch(r"[A-Z]{2,5}|[A-Z][A-Za-z_]+/[\w/+-]+", zone):
        raise _OddZoneError(
            f"{zone} names no offset, or several; write the offset (+01:00) or the zone's full name (Europe/Berlin) "
            "after the time, or leave it out and set time_zone in [source]"
        )
    raise ValueError(zone)
