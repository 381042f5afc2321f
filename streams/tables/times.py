"""A column as event times: ISO in its variants, other orders of day and month, epochs of any unit.

How a column is written is decided over all its values. A time without an offset is of the time zone given; in the hour
that an autumn clock repeats it is the first, in the one that a spring clock skips the time after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from online.batch import FloatVector
from streams.errors import UsageError
from streams.tables.texts import as_text, without_missing

_UNITS = {"unix": 1.0, "unix_ms": 1e3, "unix_us": 1e6, "unix_ns": 1e9}
_ISO = (
    r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])([T ]([01]\d|2[0-3])(:[0-5]\d(:[0-5]\d(\.\d{1,6})?)?)?)?"
    r"(Z|[+-]\d\d(:?[0-5]\d)?)?$"
)
_TO_ISO = (
    (r"\s+", " "),
    (r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})", r"\1-\2-\3"),
    (r"^((?:19|20)\d\d)(\d\d)(\d\d)(?:[T ]?(\d\d):?(\d\d):?(\d\d)(\.\d+)?)?", r"\1-\2-\3 \4:\5:\6\7"),
    (r" ::$", ""),
    (r"^(\d{4})-(\d)-", r"\1-0\2-"),
    (r"^(\d{4}-\d\d)-(\d)(\D|$)", r"\1-0\2\3"),
    (r"^(\d{4}-\d\d-\d\d)(?:T|t|, ?| )(\d):", r"\1 0\2:"),
    (r"^(\d{4}-\d\d-\d\d)(?:t|, ?)(\d)", r"\1 \2"),
    (r"(:\d\d),(\d)", r"\1.\2"),
    (r"(\.\d{6})\d+", r"\1"),
    (r"(?i)(\d) ?(?:UTC|GMT|Z)$", r"\1Z"),
    (r"(:\d\d(?:\.\d+)?) ?([+-]\d\d):?(\d\d)?$", r"\1\2:\3"),
    (r"([+-]\d\d):$", r"\1:00"),
)  # fmt: skip
_DAY_MONTH = r"^(?P<a>\d{1,2})(?P<mark>[./-])(?P<b>\d{1,2})[./-](?P<y>\d{4})(?P<rest>(?:\D.*)?)$"
_AM_PM = r"(?i)[ ]?([ap])\.?m\.?(Z|[+-]\d\d:?\d\d)?$"
_WORDS = ("%d-%b-%Y", "%d %b %Y", "%b %d, %Y", "%b %d %Y", "%d/%b/%Y", "%B %d, %Y", "%d %B %Y", "%d. %B %Y")
_CLOCKS = ("", " %H:%M:%S", " %H:%M", ":%H:%M:%S", ":%H:%M:%S %z", " %H:%M:%S %z", " %I:%M:%S %p", " %I:%M %p",
           " %I:%M%p", ", %H:%M:%S", ", %I:%M:%S %p", " %H:%M:%S.%f", " %H.%M.%S.%f", " %I.%M.%S.%f %p")  # fmt: skip


def read_times(
    column: pa.ChunkedArray,
    time_format: str,
    time_zone: str,
    words: Collection[str],
    what: str,
    where: Callable[[int], str],
    said: list[str],
) -> FloatVector:
    """Event times ``(n,) float64`` in epoch seconds, NaN where one cannot be read.

    Raises
    ------
    UsageError
        Where no value of the column can be a time, or the order of day and month is not told by any.
    """
    kind = column.type
    if pa.types.is_time(kind):
        raise UsageError(
            f"{where(0)}: {what} is {kind}, a time of day without a date; give a column with date and time"
        )
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _epoch(pc.cast(column, pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False), time_zone)
    if pa.types.is_duration(kind) or pa.types.is_boolean(kind):
        raise UsageError(f"{where(0)}: {what} is {kind}, no time; give a column of times or epoch seconds")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _numbers(column, time_format, time_zone, what, where, said)
    texts = without_missing(as_text(column, f"{where(0)}: {what}"), words)
    if "%" in time_format:
        return _by_text(texts, lambda text: _strptime(text, time_format, time_zone))
    if time_format != "iso":
        try:
            return _numbers(pc.cast(texts, pa.float64()), time_format, time_zone, what, where, said)
        except pa.ArrowInvalid:
            if time_format in _UNITS:
                return _by_text(texts, _number) / _UNITS[time_format]
    for exact in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        try:
            return _epoch(pc.cast(texts, exact), time_zone)
        except pa.ArrowInvalid:
            continue
    digits = pc.fill_null(pc.match_substring_regex(texts, r"^-?\d+(\.\d+)?$"), False)
    if time_format == "iso" or not pc.any(digits).as_py():
        return _texts(texts, time_format, time_zone, what, where, said)
    null = pa.scalar(None, pa.string())
    numbers = pc.cast(pc.if_else(digits, texts, null), pa.float64())
    late = _texts(pc.if_else(digits, null, texts), time_format, time_zone, what, where, said)
    return np.where(np.isnan(late), _numbers(numbers, time_format, time_zone, what, where, said), late)


def _epoch(stamps: pa.ChunkedArray, time_zone: str) -> FloatVector:
    if stamps.type.tz is None and time_zone != "UTC":
        stamps = pc.assume_timezone(stamps, time_zone, ambiguous="earliest", nonexistent="latest")
    number = pc.cast(pc.cast(stamps, pa.int64()), pa.float64(), safe=False).fill_null(np.nan)
    return np.asarray(number.combine_chunks(), np.float64) / 1e6


def _numbers(
    column: pa.ChunkedArray, time_format: str, time_zone: str, what: str, where: Callable[[int], str], said: list[str]
) -> FloatVector:
    """Epochs; by their size where no format is given."""
    if time_format == "iso" or "%" in time_format:
        return read_times(
            pc.cast(column, pa.string()), time_format, time_zone, (), what, where, said
        ) if not pa.types.is_floating(column.type) else np.full(len(column), np.nan)  # fmt: skip
    number = np.asarray(pc.cast(column, pa.float64(), safe=False).fill_null(np.nan).combine_chunks(), np.float64)
    if time_format in _UNITS:
        return number / _UNITS[time_format]
    known = number[np.isfinite(number)]
    middle = float(np.median(np.abs(known))) if len(known) else 0.0
    if 20_000 < middle < 80_000:
        first = float(known[0])
        raise UsageError(
            f"{where(int(np.isfinite(number).argmax()))}: {what} is {first:.15g}: a spreadsheet's day number? Export "
            'the column as a date and time (2026-01-05 00:00:14), or set time_format = "unix" in [source]'
        )
    if 19_000_101 <= middle <= 21_001_231 or 19_000_101e6 <= middle <= 21_001_232e6:
        texts = pc.cast(pc.cast(column, pa.int64(), safe=False), pa.string())
        said.append(f"{what}: year, month and day in one number, as {time_zone}")
        return _texts(texts, "iso", time_zone, what, where, [])
    unit = "unix" if middle < 1e11 else "unix_ms" if middle < 1e14 else "unix_us" if middle < 1e17 else "unix_ns"
    if unit != "unix":
        said.append(f"{what}: {unit.removeprefix('unix_')} since 1970, by their size")
    return number / _UNITS[unit]


def _texts(
    texts: pa.ChunkedArray, time_format: str, time_zone: str, what: str, where: Callable[[int], str], said: list[str]
) -> FloatVector:
    """Times written in one of many ways: turned into ISO all together, and the rest one by one."""
    made = texts
    for pattern, by in _TO_ISO[:1]:
        made = pc.replace_substring_regex(made, pattern, by)
    if time_format != "iso":
        made = _day_month(made, what, where, said)
    for pattern, by in _TO_ISO[1:]:
        made = pc.replace_substring_regex(made, pattern, by)
    half = pc.fill_null(pc.match_substring_regex(made, _AM_PM), False)
    afternoon = pc.and_(half, pc.match_substring_regex(made, r"(?i)p\.?m\.?(Z|[+-]\d\d:?\d\d)?$"))
    made = pc.replace_substring_regex(made, _AM_PM, r"\2")
    good = pc.fill_null(pc.match_substring_regex(made, _ISO), False)
    zoned = pc.fill_null(pc.match_substring_regex(made, r"(Z|[T ][\d:.]+[+-]\d\d(:?\d\d)?)$"), False)
    null = pa.scalar(None, pa.string())
    try:
        local = pc.cast(pc.if_else(pc.and_not(good, zoned), made, null), pa.timestamp("us"))
        fixed = pc.cast(pc.if_else(pc.and_(good, zoned), made, null), pa.timestamp("us", tz="UTC"))
    except pa.ArrowInvalid:  # a 30th of February
        return _by_text(texts, _InWords(time_zone))
    shift = _half_days(made, np.asarray(half.combine_chunks()), np.asarray(afternoon.combine_chunks()))
    if shift is not None:
        local = pc.add(local, pa.array(shift, pa.duration("us")))
        fixed = pc.add(fixed, pa.array(shift, pa.duration("us")))
    found = _epoch(local, time_zone)
    found = np.where(np.isnan(found), _epoch(fixed, time_zone), found)
    rest = pc.if_else(good, null, texts)
    if rest.null_count < len(rest):
        late = _by_text(rest, _InWords(time_zone))
        found = np.where(np.isnan(found), late, found)
    return found


def _half_days(made: pa.ChunkedArray, half: np.ndarray, afternoon: np.ndarray) -> np.ndarray | None:
    """Microseconds to add for AM and PM; ``None`` where neither stands."""
    if not half.any():
        return None
    hours = pc.extract_regex(made, r"[T ](?P<h>\d\d):").combine_chunks()
    hour = np.asarray(pc.cast(pc.struct_field(hours, "h"), pa.float64()).fill_null(0), np.float64)
    shift = np.where(half & afternoon & (hour < 12), 12, 0) - np.where(half & ~afternoon & (hour == 12), 12, 0)
    return (shift * 3_600_000_000).astype(np.int64)


def _day_month(texts: pa.ChunkedArray, what: str, where: Callable[[int], str], said: list[str]) -> pa.ChunkedArray:
    """``05.01.2026`` as ``2026-01-05``; the order is what a value over 12 tells."""
    parts = pc.extract_regex(texts, _DAY_MONTH)
    if parts.null_count == len(parts):
        return texts
    whole = parts.combine_chunks()
    a, b = (pc.cast(pc.struct_field(whole, name), pa.int32()) for name in "ab")
    most_a, most_b = pc.max(a).as_py(), pc.max(b).as_py()
    first = int(pc.index(pc.is_valid(whole), True).as_py())
    example = texts[first].as_py()
    if most_a > 12 and most_b > 12:
        days, months = int(pc.index(pc.greater(a, 12), True).as_py()), int(pc.index(pc.greater(b, 12), True).as_py())
        raise UsageError(
            f"{where(days)}: {what} is {texts[days].as_py()!r}, but {texts[months].as_py()!r} in {where(months)}: day "
            "and month change places; write all times alike, or set time_format in [source]"
        )
    if most_a <= 12 and most_b <= 12 and pc.any(pc.not_equal(pc.struct_field(whole, "mark"), ".")).as_py():
        raise UsageError(
            f"{where(first)}: {what} is {example!r}: no value tells whether day or month comes first; set "
            'time_format in [source], such as "%d/%m/%Y %H:%M:%S" or "%m/%d/%Y %I:%M:%S %p"'
        )
    day_first = most_b <= 12
    said.append(f"{what}: {'day, month, year' if day_first else 'month, day, year'}, as in {example!r}")
    order = r"\4-\3-\1" if day_first else r"\4-\1-\3"
    return pc.replace_substring_regex(texts, re.sub(r"\?P<\w+>", "", _DAY_MONTH), order + r"\5")


def _by_text(texts: pa.ChunkedArray, read: Callable[[str], float]) -> FloatVector:
    """By distinct text, so that each is read once."""
    coded = pc.dictionary_encode(texts.combine_chunks())
    found = np.array([*(read(text) for text in coded.dictionary.to_pylist()), np.nan], np.float64)
    rows: FloatVector = found[np.asarray(pc.fill_null(coded.indices, len(found) - 1))]
    return rows


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _strptime(text: str, pattern: str, time_zone: str) -> float:
    try:
        return _stamp(datetime.strptime(text, pattern), time_zone)
    except (ValueError, OverflowError):
        return np.nan


def _stamp(moment: datetime, time_zone: str) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(time_zone))
    return moment.timestamp()


class _InWords:
    """Reads one time at a time, such as ``Jan 5, 2026``, RFC 2822 or a web server's log."""

    def __init__(self, time_zone: str) -> None:
        self._time_zone = time_zone
        self._patterns = [date + clock for date in _WORDS for clock in _CLOCKS]

    def __call__(self, text: str) -> float:
        text = re.sub(r"\s+", " ", text.strip("[]"))
        if text[:5].count("-") == 1 and "W" not in text:
            try:
                return _stamp(datetime.fromisoformat(re.sub(r" ?(UTC|GMT)$", "Z", text)), self._time_zone)
            except (ValueError, OverflowError):
                pass  # words perhaps
        if not re.search(r"[A-Za-z]{3}", text):
            return np.nan
        bare = re.sub(r"^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? ", "", text)
        utc = re.search(r" (?:UTC|GMT|Z)\b", bare)
        bare = re.sub(r" (?:UTC|GMT|Z)\b", "", bare)
        bare = re.sub(r"^([A-Za-z]{3}) +(\d{1,2}) ([\d:]+) (\d{4})$", r"\1 \2 \4 \3", bare)  # ctime
        for at, pattern in enumerate(self._patterns):
            found = _strptime(bare, pattern, "UTC" if utc else self._time_zone)
            if not np.isnan(found):
                self._patterns.insert(0, self._patterns.pop(at))  # the next is written alike
                return found
        return np.nan
