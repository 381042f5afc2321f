"""How values are written on pages and in charts."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

NOTHING: Final = "\u2013"
FOLDER: Final = Path(__file__).parent
"""Where ``templates`` and ``assets`` are that pages share."""


def day(ts: float) -> str:
    """A day (UTC).

    >>> day(1_700_000_000)
    '2023-11-14'
    """
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d")


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: so many significant digits, thousands apart; a dash for none.

    >>> number(0.12345), number(1234567.0), number(0), number(-math.inf)
    ('0.123', '1,234,567', '0', '-∞')
    """
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):  # such as a bound that a rule leaves open; it has no whole part to compare with
        return "\u221e" if value > 0 else "-\u221e"
    # Above some 1e15 the last digits are no longer those that somebody wrote.
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    shown = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e" in shown and abs(value) >= 1 else shown


def percent(share: float) -> str:
    """A share as people read it.

    >>> percent(0.0123), percent(float("nan"))
    ('1.23 %', '–')
    """
    return NOTHING if math.isnan(share) else f"{share * 100:.3g} %"
