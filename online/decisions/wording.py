"""Sentences for features, read off their names. It knows how features are called, not how they are computed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WINDOW = re.compile(r"(\d+)([smhdw])$")
_FULL = re.compile(r"full\.(logit|known|e\d+)$")
_ADJECTIVES = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}
_SHORT = {"s": "s", "m": "min", "h": "h", "d": "d", "w": "weeks"}
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONEY = ("amount", "price", "cost", "spend", "balance")

# Longest first: "since_first_positive" also ends in "positive", "over_mean" in "mean".
OPS = (
    "since_first_positive",
    "since_positive",
    "over_ewmean",
    "since_first",
    "since_last",
    "over_mean",
    "positives",
    "distinct",
    "ewmean",
    "count",
    "share",
    "last",
    "mean",
    "std",
    "sum",
    "min",
    "max",
)


@dataclass(frozen=True, slots=True)
class FeatureName:
    """A name taken apart: ``user.amount_over_mean_30d`` is (user, amount, over_mean, 30d)."""

    full: str
    entity: str | None
    subject: str
    op: str | None
    window: str | None
    missing: bool = False

    @classmethod
    def parse(cls, full: str) -> FeatureName:
        """Take a name apart; what does not follow the pattern is all subject.

        >>> FeatureName.parse("user.amount_over_mean_30d")
        FeatureName(full='user.amount_over_mean_30d', entity='user', subject='amount', op='over_mean', window='30d', \
missing=False)
        """
        missing = full.endswith("_missing")
        entity, dot, rest = full.removesuffix("_missing").partition(".")
        if not dot:
            return cls(full, None, entity, None, None, missing)
        stem, _, last = rest.rpartition("_")
        window = last if stem and WINDOW.match(last) else None
        rest = stem if window else rest
        for op in OPS:
            if rest == op or rest.endswith(f"_{op}"):
                return cls(full, entity, rest.removesuffix(op).rstrip("_"), op, window, missing)
        return cls(full, entity, rest, None, window, missing)

    @property
    def this(self) -> str:
        """Name the entity as the one at hand: ``this user``."""
        return f"this {words(self.entity or 'entity')}"

    @property
    def adjective(self) -> str:
        """The window before a noun: ``30-day ``, or nothing."""
        return f"{int(self.window[:-1])}-{_ADJECTIVES[self.window[-1]]} " if self.window else ""

    @property
    def span(self) -> str:
        """The window after a verb: `` in 30 d``, or nothing."""
        return f" in {int(self.window[:-1])} {_SHORT[self.window[-1]]}" if self.window else ""


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

    def usually(self, show: Callable[[float], str]) -> str:
        """Return `` (usually 2)``, or nothing where that is unknown or would read the same."""
        if math.isnan(self.typical) or show(self.typical) == show(self.value):
            return ""
        return f" (usually {show(self.typical)})"


def indicator_of(name: FeatureName, columns: Mapping[str, int]) -> int | None:
    """Column of the indicator that says a feature is missing: its own, or the one that its window shares."""
    if name.missing or name.op in ("count", "sum", "distinct", "positives"):
        return None
    stem = f"{name.entity}.{name.subject}"
    for group in (name.full, f"{stem}_{name.window}" if name.window else stem):
        if f"{group}_missing" in columns:
            return columns[f"{group}_missing"]
    return None


def words(name: str) -> str:
    """Return a name as words."""
    return name.replace("_", " ").replace(".", " ")


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


def shower(name: FeatureName) -> Callable[[float], str]:
    """Return how values of a feature are written."""
    if name.op == "share":
        return percent
    if name.op in ("since_last", "since_first", "since_positive", "since_first_positive"):
        return duration
    if name.op in (None, "sum", "mean", "min", "max", "std", "last", "ewmean") and name.subject in _MONEY:
        return money
    return plain


def sentence(fact: Fact) -> str:
    """Return what a feature says, for a person who has never seen its name."""
    name = fact.name
    if _FULL.match(name.full):
        return _full(fact)
    if name.missing:
        return _missing(fact)
    if name.entity is None:
        return _column(fact)
    write = _SENTENCES.get(name.op or "")
    return write(fact) if write else fallback(fact)


def fallback(fact: Fact) -> str:
    """Return ``name = value (raises the odds 2.1x)``."""
    usual = "" if math.isnan(fact.typical) else f"usually {plain(fact.typical)}; "
    return (
        f"{fact.name.full} = {plain(fact.value)} ({usual}raises the odds {math.exp(min(fact.contribution, 50)):.1f}x)"
    )


def missing_sentence(name: FeatureName) -> str:
    """Return that a feature has no value."""
    what = words(name.subject or name.op or "value")
    return f"{what} is missing" if name.entity is None else f"no {name.adjective}{what} known of {name.this} yet"


def _missing(fact: Fact) -> str:
    """Read an indicator, which may also raise a score by being 0."""
    absent = missing_sentence(fact.name)
    return absent if fact.value > 0 else f"not so: {absent}"


def _full(fact: Fact) -> str:
    """Read a column that the full model made: its log-odds, whether it answered, a coordinate of its embedding."""
    if fact.name.subject == "logit":
        return f"the full model gives {fact.positive} odds of {_odds(fact.value)}{fact.usually(_odds)}"
    if fact.name.subject == "known":
        return "the full model answered" if fact.value > 0 else "the full model did not answer"
    return f"the full model sees a pattern of events that raises the odds {math.exp(min(fact.contribution, 50)):.1f}x"


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
    if subject == "night":
        return "at night" if value > 0 else "not at night"
    if subject == "weekend":
        return "on a weekend" if value > 0 else "not on a weekend"
    if subject == "weekday":
        return f"on a {_WEEKDAYS[int(value) % 7]}"
    if subject in _MONEY:
        return f"{subject} is {money(value)}{fact.usually(money)}"
    return fallback(fact)


def _count(fact: Fact) -> str:
    noun = fact.noun.removesuffix("s") if fact.value == 1 else fact.noun
    whose = f" of {fact.name.this}" if fact.other else ""
    return f"{plain(fact.value)} {noun}{whose}{fact.name.span}{fact.usually(plain)}"


def _over_mean(fact: Fact) -> str:
    name = fact.name
    shown = "" if math.isnan(fact.subject_value) else f" {shower(FeatureName.parse(name.subject))(fact.subject_value)}"
    mean = f"{name.adjective}mean" if name.op == "over_mean" else "running mean"
    return f"{words(name.subject)}{shown} is {fact.value:.1f}x {name.this}'s {mean}"


def _statistic(word: str) -> Callable[[Fact], str]:
    def write(fact: Fact) -> str:
        name, show = fact.name, shower(fact.name)
        what = f"{name.adjective}{word} {words(name.subject)}".strip()
        return f"{name.this}'s {what} is {show(fact.value)}{fact.usually(show)}"

    return write


def _distinct(fact: Fact) -> str:
    name = fact.name
    return (
        f"{plain(fact.value)} different {_plural(words(name.subject))} of {name.this}{name.span}{fact.usually(plain)}"
    )


def _positives(fact: Fact) -> str:
    name = fact.name
    what = fact.positive if fact.value == 1 else _plural(fact.positive)
    return f"{plain(fact.value)} {what} known at {name.this}{name.span}{fact.usually(plain)}"


def _share(fact: Fact) -> str:
    name = fact.name
    return (
        f"{percent(fact.value)} of labels at {name.this}{name.span} are {_plural(fact.positive)}{fact.usually(percent)}"
    )


def _since(event: str) -> Callable[[Fact], str]:
    def write(fact: Fact) -> str:
        what = event.format(positive=fact.positive, event=fact.noun.removesuffix("s"))
        return f"{duration(fact.value)} since {fact.name.this}'s {what}{fact.usually(duration)}"

    return write


def _plural(word: str) -> str:
    if word.endswith("s"):
        return word
    return f"{word[:-1]}ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else f"{word}s"


_SENTENCES: dict[str, Callable[[Fact], str]] = {
    "count": _count,
    "sum": _statistic("total"),
    "mean": _statistic("mean"),
    "std": _statistic("spread of"),
    "min": _statistic("smallest"),
    "max": _statistic("largest"),
    "last": _statistic("last"),
    "ewmean": _statistic("running mean"),
    "distinct": _distinct,
    "over_mean": _over_mean,
    "over_ewmean": _over_mean,
    "positives": _positives,
    "share": _share,
    "since_last": _since("last {event}"),
    "since_first": _since("first {event}"),
    "since_positive": _since("last known {positive}"),
    "since_first_positive": _since("first known {positive}"),
}
