"""What each operation of a feature says, as a template, and how its value is written. It knows no task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

Of = Literal["events", "labels", "anomaly", "state"]
"""What a feature is computed of: ``anomaly`` is what a detector says of events, ``state`` what one of states says."""


def plain(value: float) -> str:
    """Return a number in few digits.

    >>> [plain(v) for v in (3.0, 0.123456, 17.26, 12345.6, 2e-7)]
    ['3', '0.123', '17.3', '12,346', '2e-07']
    """
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(value: float) -> str:
    """Return a share of 1 as percent.

    >>> [percent(share) for share in (0.25, 0.004, 0.998, 1.0)]
    ['25 %', '0.4 %', 'over 99 %', '100 %']
    """
    if 0.995 <= value < 1.0:
        return "over 99 %"  # not all
    return f"{100 * value:.0f} %" if value >= 0.095 or value <= 0 else f"{100 * value:.2g} %"


def duration(seconds: float) -> str:
    """Return a time span in its largest fitting unit, to two digits.

    >>> [duration(s) for s in (4, 90, 7300, 200_000, 4e6, -90)]
    ['4 s', '1.5 min', '2 h', '2.3 d', '46 d', '-1.5 min']
    """
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if abs(seconds) >= size:
            count = seconds / size
            return f"{count:.2g} {unit}" if abs(count) < 9.95 else f"{count:,.0f} {unit}"
    return f"{seconds:.1g} s"


def times(ratio: float) -> str:
    """Return a ratio as a multiple.

    >>> [times(ratio) for ratio in (1234.5, 8.34, 0.034, 2e-7)]
    ['1,234x', '8.3x', '0.034x', 'under 0.01x']
    """
    if 0.0 < ratio < 0.01:
        return "under 0.01x"
    return f"{ratio:,.0f}x" if abs(ratio) >= 99.95 else f"{ratio:.1f}x" if abs(ratio) >= 0.95 else f"{ratio:.2g}x"


def side(off: float) -> str:
    """Return how far, and on which side: ``3.1 below``."""
    return f"{plain(abs(off))} {'below' if off < 0 else 'above'}"


def whole(value: float) -> str:
    """Return a count that may have been estimated."""
    return f"{value:,.0f}"


def deviations(surprise: float) -> str:
    """Return standard deviations."""
    return f"{surprise:.1f} standard deviations"


class Operation(NamedTuple):
    """How a feature of an operation is told; the fields of templates are those of ``wording``."""

    text: str
    show: Callable[[float], str] | None = None
    """None for values in the subject's own unit: money has two decimals, others few digits."""
    absent: str = ""
    """What is said where there is no value; else what ``ABSENT`` says."""


ABSENT: Final[dict[Of, str]] = {
    "events": "no earlier {what} known of {this}{span_or_yet}",
    "labels": "no {kind}label {known} at {this}{span_or_yet}",
    "anomaly": "no {subject} of {this} to judge",
    "state": "no {subject} of {this} to judge by a reference",
}
_NO_COMPARISON: Final = "{subject} cannot be compared with {this}'s %smean"
_NO_POSITIVE: Final = "no {kind}{positive} known at {this} yet"
_NO_RUN: Final = "no run of known {kind}{positives} at {this}"
_NO_NEGATIVE: Final = "no event of {this} known to be no {positive} yet"
_NO_GAP: Final = "no time from one {one} of {this} to the next known{span_or_yet}"
_NO_TREND: Final = "no change known of the time from one {one} of {this} to the next{span_or_yet}"
_OF_VALUE: Final = "{this}'s {adjective}%s {subject} is {shown}{usually}"
_SURPRISE: Final = "%s of {this}'s {subject} surprises by {shown}{usually}"
# Of labels: ``since_...`` counts from when a label became known, ``run_since_...`` from its event.
OPERATIONS: Final[dict[Of, dict[str, Operation]]] = {
    "events": {
        "count": Operation("{shown} {noun}{whose}{span}{usually}", plain),
        "sum": Operation(_OF_VALUE % "total"),
        "mean": Operation(_OF_VALUE % "mean"),
        "std": Operation(_OF_VALUE % "spread of"),
        "min": Operation(_OF_VALUE % "smallest"),
        "max": Operation(_OF_VALUE % "largest"),
        "last": Operation(_OF_VALUE % "last"),
        "ewmean": Operation(_OF_VALUE % "running mean"),
        "q50": Operation(_OF_VALUE % "median"),
        "q90": Operation(_OF_VALUE % "90th percentile of"),
        "q99": Operation(_OF_VALUE % "99th percentile of"),
        "rate": Operation("{shown} {noun}{whose} a day{span}{usually}", plain),
        "over_window": Operation(
            "{subject} of {this}{span} is {shown} that{than}{usually}",
            times,
            "{subject} of {this}{span} cannot be compared with that{than}",
        ),
        "gap_mean": Operation(
            "{this}'s mean time from one {one} to the next{span} is {shown}{usually}", duration, _NO_GAP
        ),
        "gap_std": Operation(
            "the time from one {one} of {this} to the next{span} varies by {shown}{usually}", duration, _NO_GAP
        ),
        "gap_trend": Operation(
            "the time from one {one} of {this} to the next{span} is lately {shown} what it was", times, _NO_TREND
        ),
        "distinct": Operation("about {shown} different {subjects} of {this}{span}{usually}", whole),
        "over_mean": Operation(
            "{subject}{own} is {shown} {this}'s {adjective}mean", times, _NO_COMPARISON % "{adjective}"
        ),
        "over_ewmean": Operation("{subject}{own} is {shown} {this}'s running mean", times, _NO_COMPARISON % "running "),
        "since_last": Operation("{shown} since {this}'s last {one}{usually}", duration),
        "since_first": Operation("{shown} since {this}'s first {one}{usually}", duration),
    },
    "labels": {
        "count": Operation("{shown} {kind}{noun} {known} at {this}{span}{usually}", plain),
        "positives": Operation("{shown} {kind}{counted} {known} at {this}{span}{usually}", plain),
        "share": Operation(
            "{estimated}{shown} of {kind}labels that {known} at {this}{span} are {are}{usually}", percent
        ),
        "last": Operation("the last {kind}label known at {this} says {verdict}", plain),
        "ewmean": Operation("{shown} of {kind}labels at {this} are {are}, newer ones counting more{usually}", percent),
        "since_last": Operation("{shown} since a {kind}label of {this} became known{usually}", duration),
        "since_positive": Operation(
            "{shown} since {this}'s last {kind}{positive} became known{usually}", duration, _NO_POSITIVE
        ),
        "since_first_positive": Operation(
            "{shown} since {this}'s first {kind}{positive} became known{usually}", duration, _NO_POSITIVE
        ),
        "run": Operation("", None, _NO_RUN),
        "run_count": Operation("{shown} known {kind}{counted} in a row at {this}{usually}", plain),
        "run_min": Operation(
            "the smallest {least} of known {kind}{positives} in a row at {this} is {shown}{usually}", None, _NO_RUN
        ),
        "run_since_first": Operation(
            "known {kind}{positives} in a row at {this} for {shown}{usually}", duration, _NO_RUN
        ),
        "run_since_negative": Operation(
            "{shown} since {this}'s last event known to be no {positive}{usually}", duration, _NO_NEGATIVE
        ),
    },
    "anomaly": {
        "": Operation("{this}'s {subject} has an anomaly score of {shown} of 1{usually}", plain),
        "expected": Operation(
            "{this}'s {subject} was expected to be {shown}{usually}", None, "no earlier {subject} of {this} to go by"
        ),
        "level": Operation(_SURPRISE % "the level", deviations),
        "change": Operation(_SURPRISE % "the last step", deviations),
        "spread": Operation(_SURPRISE % "the roughness", deviations),
        "seasonal": Operation(_SURPRISE % "the distance from what is usual at this hour", deviations),
        "pattern": Operation(_SURPRISE % "the course over the last values", deviations),
        "context": Operation(_SURPRISE % "the course over a longer time", deviations),
        "density": Operation(_SURPRISE % "the rarity", deviations),
    },
    "state": {
        "": Operation("{this} is farther from its reference than {shown} of the reference itself{usually}", percent),
        "distance": Operation("{this} is {shown} usual deviations from its reference{usually}", plain),
        "sensor": Operation("{this}'s {shown} is what is farthest from its reference{usually}", plain),
        "view": Operation("it is {shown} that is farthest from {this}'s reference{usually}", plain),
        "expected": Operation("{shown} was expected of {this}'s sensor that is farthest off{usually}", plain),
        "part": Operation("{this}'s {subject} makes {shown} of its distance from its reference{usually}", percent),
        "off": Operation("{this}'s {subject} is {shown} its usual level", side),
        "implied": Operation("{this}'s {subject} is {shown} what {others}", side),
        "rough": Operation("{this}'s {subject} moves {shown} as much as usual from reading to reading", times),
    },
}
"""By what an operation is of, and by its name; ``run`` is the indicator of a label run, which three of them share."""
