"""What is wrong with the time of a record: its unit, its quotes, its format, or a clock that was never set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from weir.online.codec.wire import TS_MAX, TS_MIN
from weir.online.mistakes import shown

# Name, how many make a second, and seconds from its year 0 to 1970.
_UNITS: Final = (
    ("milliseconds", 1e3, 0.0),
    ("microseconds", 1e6, 0.0),
    ("nanoseconds", 1e9, 0.0),
    ("days of a spreadsheet", 1 / 86_400, 2_209_161_600.0),
)
_ENDLESS: Final = 1e30
TIME: Final = "epoch seconds, or RFC 3339 with an offset, as 2024-03-01T12:00:00Z"


def time_words(given: Any) -> str:
    """Say what ``given`` is and what to give instead.

    >>> time_words(1_700_000_000_000)
    'got 1700000000000, in milliseconds; give seconds, as 1700000000'
    >>> time_words("2024-03-01 12:00:00")
    "got '2024-03-01 12:00:00', without an offset; give 2024-03-01T12:00:00Z if it is UTC"
    """
    if isinstance(given, datetime):
        given = given.isoformat()
    if isinstance(given, int | float) and not isinstance(given, bool):
        return _number(float(max(min(given, _ENDLESS), -_ENDLESS)), shown(given))  # an int may be too large
    if not isinstance(given, str):
        return f"got {shown(given)}; give {TIME}"
    text = given.strip()
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return _text(text, shown(given))
    fits = TS_MIN <= number <= TS_MAX
    return f"got the text {shown(given)}; give a number without quotes" if fits else _number(number, shown(given))


def _number(number: float, said: str) -> str:
    for name, a_second, zero in _UNITS:
        seconds = number / a_second - zero
        if TS_MIN <= seconds <= TS_MAX:
            return f"got {said}, in {name}; give seconds, as {seconds:.15g}"
    if number < TS_MIN:
        day = datetime.fromtimestamp(0, UTC) + timedelta(seconds=max(number, -6e10))
        return f"got {said}, which is {day:%Y-%m-%d}: before 2000, as of a clock that was not set; give epoch seconds"
    return f"got {said}: after 2100; give epoch seconds"


def _text(text: str, said: str) -> str:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return f"got {said}; give {TIME}"
    if found.tzinfo is None:
        return f"got {said}, without an offset; give {found.isoformat()}Z if it is UTC"
    seconds = (found - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    return f"got {said}; give it as {found.isoformat()}" if TS_MIN <= seconds <= TS_MAX else _number(seconds, said)
