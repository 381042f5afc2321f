"""What a task file may say of a detector of states, and what it is told. It knows no numbers of any machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from weir.online.durations import parse_duration
from weir.online.frozen import FrozenModel

NUMBERS: Final = ("", "distance", "sensor", "view", "expected")
"""What is told of a row beside that of each sensor; ``""`` is the score."""
_SPAN = re.compile(r"(\d{1,9}) rows")


def span(text: str) -> tuple[float, float]:
    """Rows and seconds of a span, one of them 0; raises ``ValueError`` for what is neither or not above 0.

    >>> span("400 rows"), span("2m")
    ((400.0, 0.0), (0.0, 120.0))
    """
    match = _SPAN.fullmatch(text)
    found = (float(match[1]), 0.0) if match else (0.0, parse_duration(text))
    if not sum(found) > 0.0:
        raise ValueError(f"{text!r} is no span above 0; write '400 rows' or a duration such as '2m'")
    return found


def is_span(text: str) -> bool:
    """Whether ``text`` is meant as a span: it begins with a number.

    >>> is_span("7 days"), is_span("commissioning > 0")
    (True, False)
    """
    # A number alone, so that "7 days" is told as a span written wrongly, and not as an expression that is none.
    return text[:1].isdigit()


Span = Annotated[str, AfterValidator(lambda text: span(text) and text)]
"""``N rows`` or a duration."""


SENSOR_NUMBERS: Final = ("part", "off", "implied", "rough")
"""What is told of each sensor: part of the distance; level over the usual one, and over what the others imply, both in
its unit; smoothed step over the usual one."""


class StateParams(FrozenModel):
    """What an operator may change.

    Examples
    --------
    >>> StateParams(smooth="1m").hold
    '100 rows'
    """

    smooth: Span = "15 rows"
    """Half-life of the smoothing of a sensor, in rows of its entity or in time: longer finds smaller states, later."""
    hold: Span = "100 rows"
    """How long a sensor's newest value stands for it when others come without it; then it is missing."""
    shrinkage: float = Field(default=0.05, gt=0.0, le=1.0)
    """How much correlations between sensors are pulled towards 0; 1 takes each sensor alone."""


def outputs(sensors: Sequence[str]) -> tuple[str, ...]:
    """What a detector tells of each row; ``""`` is the score.

    >>> outputs(["flow"])
    ('', 'distance', 'sensor', 'view', 'expected', 'part_flow', 'off_flow', 'implied_flow', 'rough_flow')
    """
    return (*NUMBERS, *(f"{told}_{sensor}" for told in SENSOR_NUMBERS for sensor in sensors))
