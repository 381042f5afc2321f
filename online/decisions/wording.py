"""Sentences for features, by what their operations say. It knows names and numbers, not how they are computed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from weir.online.decisions.feature_name import ALWAYS_KNOWN, FeatureName, Subject, words
from weir.online.decisions.operations import ABSENT, OPERATIONS, duration, percent, plain, times
from weir.online.full_columns import SURPRISE

_FULL = re.compile(r"full\.(logit|known|surprise|e\d+)$")
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
    if name.declared is not None and (codes := name.declared.codes):
        return lambda value: words(codes[int(value) - 1]) if 1 <= value <= len(codes) else "none"
    if op is not None and op.show is not None:
        return op.show
    return _in_unit_of(name)


def _in_unit_of(name: FeatureName) -> Callable[[float], str]:
    """How the values that an aggregate is of are written; what it is of counts more than what it is called."""
    if name.declared is not None and name.declared.duration:
        return duration
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
        return missing_sentence(fact) if fact.value > 0 else _known_sentence(fact)
    if name.declared is not None and name.declared.behind is not None and not name.entity:
        return f"the detector's score is {plain(fact.value)}{fact.usually(plain)}"
    if name.entity is None:
        return _column(fact)
    op = OPERATIONS[name.of].get(name.op)
    return _plainly(fact) if op is None else _filled(op.text, _weightless(fact))


def missing_sentence(fact: Fact) -> str:
    """Return that a feature has no value."""
    if fact.name.full == SURPRISE:
        return "the full model does not say how surprising the event is"
    if fact.name.entity is None:
        return f"{words(fact.name.subject)} is missing"
    return _filled(absent_of(fact.name), fact)


def absent_of(name: FeatureName) -> str:
    """Return the template of what is said where an entity's feature has no value."""
    if name.op in ALWAYS_KNOWN:
        return "the event names no {entity}"
    op = OPERATIONS[name.of].get(name.op)
    return (op and op.absent) or ABSENT[name.of]


def _known_sentence(fact: Fact) -> str:
    said = missing_sentence(fact).removesuffix("is missing")
    return f"{said}is known" if fact.name.entity is None else f"some {said.removeprefix('no ').removesuffix(' yet')}"


def _weightless(fact: Fact) -> Fact:
    """A detector's component as it was before it was weighted."""
    weight = fact.name.declared.weights.get(fact.name.op, 1.0) if fact.name.declared else 1.0
    return replace(fact, value=fact.value / weight, typical=fact.typical / weight) if weight not in (0.0, 1.0) else fact


def _filled(template: str, fact: Fact) -> str:
    name, value, show, declared = fact.name, fact.value, shower(fact.name), fact.name.declared or Subject()
    many = _plural(fact.positive)
    subject = words((name.of in ("anomaly", "state") and declared.given) or name.subject or name.op or "value")
    own = "" if math.isnan(fact.subject_value) else f" {_in_unit_of(name)(fact.subject_value)}"
    valued = declared.value is not None if name.declared else name.noun == "events"
    return template.format(
        this=name.this,
        entity=words(name.entity or ""),
        whose=f" of {name.this}" if fact.other else "",
        adjective=name.adjective,
        span=name.span,
        than=name.than,
        span_or_yet=name.span if name.span not in ("", " ever") else " yet",
        subject=subject,
        subjects=subject.removesuffix("s") if show(value) == "1" else _plural(subject),
        what=subject if valued else name.one,
        own=own,
        others=declared.others,
        shown=show(value),
        usually=fact.usually(show),
        noun=name.one if show(value) == "1" else name.noun,
        one=name.one,
        kind=f"{words(name.subject)} " if declared.chosen else "",
        known="became known" if name.span else "known",
        estimated="an estimated " if declared.estimated else "",
        least=words(_value_of(name, "value")),
        positive=fact.positive,
        positives=many,
        are=many.removesuffix(" labels"),
        counted=fact.positive if value == 1 else many,
        verdict=fact.positive.removesuffix(" label") if value > 0 else f"no {fact.positive}",
    )


def _plainly(fact: Fact) -> str:
    """Return ``name is value (usually 2)``."""
    show = _in_unit_of(fact.name)
    return f"{words(fact.name.full)} is {show(fact.value)}{fact.usually(show)}"


def _raised(fact: Fact) -> str:
    # Bounded, as ``math.exp`` raises beyond 709.
    return times(math.exp(min(fact.contribution, 50))) if fact.contribution >= math.log(1.05) else "a little"


def _full(fact: Fact) -> str:
    """Read a column that the full model made: log-odds, whether it answered, the surprise, a coordinate."""
    if fact.name.subject == "logit":
        return f"the full model gives {fact.positive} odds of {_odds(fact.value)}{fact.usually(_odds)}"
    if fact.name.subject == "known":
        return "the full model answered" if fact.value > 0 else "the full model did not answer"
    if fact.name.subject == "surprise":
        return f"events of late surprise the full model more than {percent(fact.value)} of usual ones do"
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
        minutes = int(value * 60.0 + 1e-6)  # 11.7 h is 702 minutes, if not to the last bit
        return f"at {minutes // 60 % 24:02d}:{minutes % 60:02d}"
    if subject in ("night", "weekend"):
        when = "at night" if subject == "night" else "on a weekend"
        return when if value > 0 else f"not {when}"
    if subject == "weekday":
        return f"on a {_WEEKDAYS[int(value) % 7]}"
    if subject in ("day", "ts"):
        return f"on {np.datetime64(int(value), 'D' if subject == 'day' else 's')}"
    if fact.name.declared is not None and (says := fact.name.declared.says) is not None:
        return says[0] if value > 0 else says[1]
    if fact.name.declared is not None and fact.name.declared.flag:
        return words(subject) if value > 0 else f"not {words(subject)}"
    return _plainly(fact)


def _plural(word: str) -> str:
    if word.endswith("s"):
        return word
    return f"{word[:-1]}ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else f"{word}s"
