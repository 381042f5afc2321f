"""Times and durations as options say them."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime

from weir.online.durations import parse_duration
from weir.streams.errors import UsageError


def duration(option: str, text: str) -> float:
    """Seconds of ``7d``; raises ``UsageError`` naming the option.

    >>> duration("--older-than", "6h")
    21600.0
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def moment(option: str, text: str) -> float:
    """Epoch seconds of a time (UTC without an offset), of epoch seconds, or of a duration ago.

    >>> moment("--since", "2023-11-14T22:13:20"), moment("--since", "1700000000")
    (1700000000.0, 1700000000.0)
    """
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    if text.replace(".", "", 1).isdecimal():
        return float(text)
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: give a time as 2024-05-01T12:00 (UTC), or how long ago as 7d") from None
