"""Durations as people write them: ``30s``, ``15m``, ``1h``, ``7d``, ``2w``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

EVER = float("inf")
"""Seconds of a window that goes back to an entity's first event."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def parse_duration(text: object) -> float:
    """Seconds of a duration; a plain number is seconds.

    >>> parse_duration("7d"), parse_duration("1.5h"), parse_duration(90)
    (604800.0, 5400.0, 90.0)
    """
    # A bool is an int to Python, and ``ttl = true`` would be one second.
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and one of s, m, h, d, w, such as '7d'")
    return float(match[1]) * _UNITS[match[2]]


def format_duration(seconds: float) -> str:
    """The shortest exact form of a duration in whole units; without an end it is ``ever``.

    >>> format_duration(604800), format_duration(3600), format_duration(90), format_duration(EVER)
    ('7d', '1h', '90s', 'ever')
    """
    if seconds == EVER:
        return "ever"
    for unit in ("d", "h", "m"):
        if abs(seconds) >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{seconds:.15g}s"


Seconds = Annotated[float, BeforeValidator(parse_duration)]
"""A pydantic field that reads a duration and holds seconds."""
