"""Sentences for features: one template for each operation. It knows what an operation means, not how it is computed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from weir.online.decisions.feature_name import FeatureName, words

_FULL = re.compile(r"full\.(logit|known|e\d+)$")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONEY = ("amount", "price", "cost", "spend", "balance")


@dataclass(frozen=True, slots=True)
class Fact:
    """What a sentence is about."""

    name: FeatureName
    value: float
    contribution: float
    typical: float
    """NaN where unknown."""
    subject_value: float
    """The row's own value of the subject (the amount that a mean is of), NaN where the row has none."""
    noun: str
    """What a count counts."""
    positive: str
    """What a positive label is called: ``fraud``."""
    other: bool = False
    """Whether the feature is of another entity than the one scored, which then needs naming."""
    kind: str = ""
    """Before ``label`` and ``fraud``: the name of what the aggregate's ``where`` chooses, and a blank."""
    least: str = "value"
    """What ``run_min`` is the smallest of."""

    def usually(self, show: Callable[[float], str]) -> str:
        """Return `` (usually 2)``, or nothing where that is unknown or would read the same."""
        if math.isnan(self.typical) or show(self.typical) == show(self.value):
            return ""
        return f" (usually {show(self.typical)})"


def plain(value: float) -> str:
    """Return a number in few digits.

    >>> [plain(v) for v in (3.0, 0.123456, 17.26, 12345.6, 2e-7)]
    ['3', '0.123', '17.3', '12,346', '2e-07']
    """
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def money(value: float) -> str:
    """Return an amount with two decimals."""
    return f"{value:,.2f}"


def percent(value: float) -> str:
    """Return a share of 1 as percent."""
    return f"{100 * value:.0f} %" if value >= 0.095 or value <= 0 else f"{100 * value:.2g} %"


def duration(seconds: float) -> str:
    """Return a time span in its largest fitting unit.

    >>> [duration(s) for s in (4, 200, 7300, 200_000)]
    ['4 s', '3 min', '2 h', '2 d']
    """
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def times(ratio: float) -> str:
    """Return a ratio as a multiple: ``8.3x``."""
    return f"{ratio:.1f}x"


def deviations(surprise: float) -> str:
    """Return standard deviations."""
    return f"{surprise:.1f} standard deviations"


class _Op(NamedTuple):
    """How an operation is told, and how its value is written."""

    text: str
    show: Callable[[float], str] | None = None
    """None for values in the subject's own unit: money has two decimals, others few digits."""
    absent: str = ""


_NO_LABEL: Final = "no {kind}label known at {this}{span_or_yet}"
_NO_POSITIVE: Final = "no {kind}{positive} known at {this} yet"
_NO_RUN: Final = "no run of known {kind}{positives} at {this}"
_NO_VALUE: Final = "no {what} known of {this}{span_or_yet}"
_NO_READING: Final = "no {subject} of {this} to judge"
_OF_VALUE: Final = "{this}'s {adjective}%s {subject} is {shown}{usually}"
_SURPRISE: Final = "%s of {this}'s {subject} surprises by {shown}{usually}"

_EVENTS: Final = {
    "count": _Op("{shown} {noun}{whose}{span}{usually}", plain),
    "sum": _Op(_OF_VALUE % "total"),
    "mean": _Op(_OF_VALUE % "mean"),
    "std": _Op(_OF_VALUE % "spread of"),
    "min": _Op(_OF_VALUE % "smallest"),
    "max": _Op(_OF_VALUE % "largest"),
    "last": _Op(_OF_VALUE % "last"),
    "ewmean": _Op(_OF_VALUE % "running mean"),
    "distinct": _Op("{shown} different {subjects} of {this}{span}{usually}", plain),
    "over_mean": _Op("{subject}{own} is {shown} {this}'s {adjective}mean", times),
    "over_ewmean": _Op("{subject}{own} is {shown} {this}'s running mean", times),
    "since_last": _Op("{shown} since {this}'s last {one}{usually}", duration),
    "since_first": _Op("{shown} since {this}'s first {one}{usually}", duration),
}
_LABELS: Final = {
    "count": _Op("{shown} {kind}{noun} known at {this}{span}{usually}", plain),
    "positives": _Op("{shown} {kind}{counted} known at {this}{span}{usually}", plain),
    "share": _Op("{shown} of {kind}labels at {this}{span} are {positives}{usually}", percent),
    "last": _Op("the last {kind}label known at {this} says {verdict}", plain),
    "ewmean": _Op("{shown} of {kind}labels at {this} are {positives}, newer ones counting more{usually}", percent),
    "since_last": _Op("{shown} since a {kind}label of {this} became known{usually}", duration),
    "since_positive": _Op("{shown} since {this}'s last {kind}{positive} became known{usually}", duration, _NO_POSITIVE),
    "since_first_positive": _Op(
        "{shown} since {this}'s first {kind}{positive} became known{usually}", duration, _NO_POSITIVE
    ),
    "run_count": _Op("{shown} known {kind}{counted} in a row at {this}{usually}", plain),
    "run_min": _Op("the smallest {least} of known {kind}{positives} in a row at {this} is {shown}{usually}"),
    "run_since_first": _Op("known {kind}{positives} in a row at {this} for {shown}{usually}", duration),
    "run_since_negative": _Op(
        "{shown} since {this}'s last event known to be no {positive}{usually}",
        duration,
        "no event of {this} known to be no {positive} yet",
    ),
}
_ANOMALIES: Final = {
    "": _Op("{this}'s {subject} has an anomaly score of {shown} of 1{usually}", plain),
    "expected": _Op("{this}'s {subject} was expected to be {shown}{usually}"),
    "level": _Op(_SURPRISE % "the level", deviations),
    "change": _Op(_SURPRISE % "the last step", deviations),
    "spread": _Op(_SURPRISE % "the roughness", deviations),
    "seasonal": _Op(_SURPRISE % "the distance from what is usual at this hour", deviations),
    "pattern": _Op(_SURPRISE % "the course over the last values", deviations),
    "context": _Op(_SURPRISE % "the course over a longer time", deviations),
    "density": _Op(_SURPRISE % "the rarity", deviations),
}
_TABLES: Final = {"events": _EVENTS, "labels": _LABELS, "anomaly": _ANOMALIES}


def shower(name: FeatureName, least: str = "") -> Callable[[float], str]:
    """Return how values of a feature are written; ``least`` is what ``run_min`` is the smallest of."""
    op = _TABLES[name.of].get(name.op or "")
    if op is not None and op.show is not None:
        return op.show
    return money if (least if name.op == "run_min" else name.subject) in _MONEY else plain


def sentence(fact: Fact) -> str:
    """Return what a feature says, for a person who has never seen its name."""
    name = fact.name
    if _FULL.match(name.full):
        return _full(fact)
    if name.missing:
        # An indicator may also raise a score by being 0.
        return missing_sentence(fact) if fact.value > 0 else f"not so: {missing_sentence(fact)}"
    if name.entity is None:
        return _column(fact)
    op = _TABLES[name.of].get(name.op or "")
    return fallback(fact) if op is None else _filled(op.text, fact)


def missing_sentence(fact: Fact) -> str:
    """Return that a feature has no value."""
    name = fact.name
    if name.entity is None:
        return f"{words(name.subject)} is missing"
    op = _TABLES[name.of].get(name.op or "")
    if name.of == "labels":
        run = name.op is not None and name.op.startswith("run")
        return _filled((op and op.absent) or (_NO_RUN if run else _NO_LABEL), fact)
    return _filled(_NO_READING if name.of == "anomaly" else _NO_VALUE, fact)


def _filled(template: str, fact: Fact) -> str:
    name, value = fact.name, fact.value
    show = shower(name, fact.least)
    one = fact.noun.removesuffix("s")
    own = "" if math.isnan(fact.subject_value) else f" {_in_unit_of(name.subject)(fact.subject_value)}"
    return template.format(
        this=name.this,
        whose=f" of {name.this}" if fact.other else "",
        adjective=name.adjective,
        span=name.span,
        span_or_yet=name.span or " yet",
        subject=words(name.subject or name.op or "value"),
        subjects=_plural(words(name.subject)),
        own=own,
        shown=show(value),
        usually=fact.usually(show),
        noun=one if value == 1 else fact.noun,
        one=one,
        what=words(name.subject or name.op or "value") if fact.noun == "events" else one,
        kind=fact.kind,
        least=words(fact.least),
        positive=fact.positive,
        positives=_plural(fact.positive),
        counted=fact.positive if value == 1 else _plural(fact.positive),
        verdict=fact.positive if value > 0 else f"no {fact.positive}",
    )


def _in_unit_of(subject: str) -> Callable[[float], str]:
    return money if subject in _MONEY else plain


def fallback(fact: Fact) -> str:
    """Return ``name = value (raises the odds 2.1x)``."""
    usual = "" if math.isnan(fact.typical) else f"usually {plain(fact.typical)}; "
    return f"{fact.name.full} = {plain(fact.value)} ({usual}raises the odds {_raised(fact)})"


def _raised(fact: Fact) -> str:
    return times(math.exp(min(fact.contribution, 50)))


def _full(fact: Fact) -> str:
    """Read a column that the full model made: its log-odds, whether it answered, a coordinate of its embedding."""
    if fact.name.subject == "logit":
        return f"the full model gives {fact.positive} odds of {_odds(fact.value)}{fact.usually(_odds)}"
    if fact.name.subject == "known":
        return "the full model answered" if fact.value > 0 else "the full model did not answer"
    return f"the full model sees a pattern of events that raises the odds {_raised(fact)}"


def _odds(logit: float) -> str:
    """Return log-odds as odds of one to many, or many to one.

    >>> [_odds(logit) for logit in (-3.0, 0.0, 2.0)]
    ['1 to 20', '1 to 1', '7.4 to 1']
    """
    odds = math.exp(min(abs(logit), 50.0))
    shown = f"{odds:.2g}" if odds < 99.5 else plain(odds)
    return f"{shown} to 1" if logit > 0 else f"1 to {shown}"


def _column(fact: Fact) -> str:
    subject, value = fact.name.subject, fact.value
    if subject == "hour":
        return f"at {int(value) % 24:02d}:{int(value % 1 * 60):02d}"
    if subject in ("night", "weekend"):
        when = "at night" if subject == "night" else "on a weekend"
        return when if value > 0 else f"not {when}"
    if subject == "weekday":
        return f"on a {_WEEKDAYS[int(value) % 7]}"
    if subject in ("day", "ts"):
        return f"on {np.datetime64(int(value), 'D' if subject == 'day' else 's')}"
    if subject in _MONEY:
        return f"{subject} is {money(value)}{fact.usually(money)}"
    return fallback(fact)


def _plural(word: str) -> str:
    if word.endswith("s"):
        return word
    return f"{word[:-1]}ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else f"{word}s"
