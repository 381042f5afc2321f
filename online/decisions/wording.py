"""Sentences for features, by what their operations say. It knows names and numbers, not how they are computed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from weir.online.decisions.feature_name import FeatureName, words
from weir.online.decisions.operations import ABSENT, OPERATIONS, plain, times

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
    positive: str
    """What a positive label is called: ``fraud``."""
    other: bool = False
    """Whether the feature is of another entity than the one scored, which then needs naming."""

    def usually(self, show: Callable[[float], str]) -> str:
        """Return `` (usually 2)``, or nothing where that is unknown or would read the same."""
        if math.isnan(self.typical) or show(self.typical) == show(self.value):
            return ""
        return f" (usually {show(self.typical)})"


def money(value: float) -> str:
    """Return an amount with two decimals."""
    return f"{value:,.2f}"


def shower(name: FeatureName) -> Callable[[float], str]:
    """Return how values of a feature are written."""
    op = OPERATIONS[name.of].get(name.op)
    if op is not None and op.show is not None:
        return op.show
    return _in_unit_of(name)


def _in_unit_of(name: FeatureName) -> Callable[[float], str]:
    """How the values that an aggregate is of are written; what it is of counts more than what it is called."""
    return money if _value_of(name, name.subject) in _MONEY else plain


def _value_of(name: FeatureName, unknown: str) -> str:
    return (name.declared and name.declared.value) or unknown


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
    op = OPERATIONS[name.of].get(name.op)
    return fallback(fact) if op is None else _filled(op.text, fact)


def missing_sentence(fact: Fact) -> str:
    """Return that a feature has no value."""
    name = fact.name
    if name.entity is None:
        return f"{words(name.subject)} is missing"
    op = OPERATIONS[name.of].get(name.op)
    return _filled((op and op.absent) or ABSENT[name.of], fact)


def _filled(template: str, fact: Fact) -> str:
    name, value, show = fact.name, fact.value, shower(fact.name)
    one, many = name.noun.removesuffix("s"), _plural(fact.positive)
    subject = words(name.subject or name.op or "value")
    own = "" if math.isnan(fact.subject_value) else f" {_in_unit_of(name)(fact.subject_value)}"
    return template.format(
        this=name.this,
        whose=f" of {name.this}" if fact.other else "",
        adjective=name.adjective,
        span=name.span,
        span_or_yet=name.span or " yet",
        subject=subject,
        subjects=_plural(subject),
        what=subject if name.noun == "events" else one,
        own=own,
        shown=show(value),
        usually=fact.usually(show),
        noun=one if value == 1 else name.noun,
        one=one,
        kind=f"{words(name.subject)} " if name.declared and name.declared.chosen else "",
        least=words(_value_of(name, "value")),
        positive=fact.positive,
        positives=many,
        counted=fact.positive if value == 1 else many,
        verdict=fact.positive if value > 0 else f"no {fact.positive}",
    )


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
