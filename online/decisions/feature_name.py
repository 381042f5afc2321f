"""Feature names taken apart. It knows how features are called, not how they are computed or worded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from weir.online.batch import BoolMatrix, FloatMatrix, missing_of
from weir.online.decisions.operations import OPERATIONS, Of

_WINDOW: Final = re.compile(r"(\d+)([smhdw])$|ever$")
_RATIO: Final = re.compile(r"(\w+\.\w+_(?:\d+[smhdw]|ever))_over_(\d+[smhdw]|ever)$")
# What an operation is of, where only its name says so: one that both events and labels have, of events.
_NAMED: Final = {op: of for of in ("anomaly", "labels", "events") for op in OPERATIONS[of] if op}
# Longest first: ``run_since_first`` also ends in ``since_first``.
_OPS: Final = sorted(_NAMED, key=len, reverse=True)
ALWAYS_KNOWN: Final = ("count", "sum", "distinct", "rate", "positives", "run_count")
_ADJECTIVES: Final = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SHORT: Final = {"s": "s", "m": "min", "h": "h", "d": "d", "w": "weeks"}


class Subject(NamedTuple):
    """What a task says of an aggregate or a detector; names alone do not tell events from labels."""

    of: Of = "events"
    value: str | None = None
    """The column or expression that it aggregates; None where it counts."""
    chosen: bool = False
    """Whether a ``where`` chooses what it is fed: then not all events are counted, only those that it is called by."""
    given: str = ""
    """The column that an event must have to be counted; empty where every event counts."""
    duration: bool = False
    """Whether its values are seconds."""
    flag: bool = False
    """Whether its values say yes or no."""
    estimated: bool = False
    """Whether a prior is part of it."""
    weights: Mapping[str, float] = MappingProxyType({})
    """Of a detector's components: what their standard deviations were multiplied by."""
    op: str = ""
    """What of a detector of states the column is."""
    codes: tuple[str, ...] = ()
    """What the values 1, 2, ... stand for."""
    others: str = ""
    """Of a sensor: that the other ones imply something."""
    made_of: tuple[str, Callable[[float], float]] | None = None
    """Of a function of one column that can be undone, such as log1p: that column, and what undoes it."""
    behind: tuple[str, ...] | None = None
    """Of a column that is the score itself: the columns that it is made of."""
    says: tuple[str, str] | None = None
    """Of a column that compares a text: what it says where that is so, and where it is not."""
    one_of: str = ""
    """The category of which it is one column: one of them is 1, and they are told together."""


@dataclass(frozen=True, slots=True)
class FeatureName:
    """A name taken apart: ``user.amount_over_mean_30d`` is (user, amount, over_mean, 30d)."""

    full: str
    entity: str | None
    subject: str
    op: str = ""
    window: str | None = None
    missing: bool = False
    of: Of = "events"
    declared: Subject | None = None
    than: str = ""
    """Of a ratio of windows: the other one, as ``span`` tells it."""

    @classmethod
    def parse(cls, full: str, subjects: Mapping[str, Subject] | None = None) -> FeatureName:
        """Take a name apart; what does not follow the pattern is all subject.

        ``subjects`` says what the aggregates of a task are of, by ``<entity>.<aggregate>``.

        >>> name = FeatureName.parse("user.amount_over_mean_30d")
        >>> name.entity, name.subject, name.op, name.window
        ('user', 'amount', 'over_mean', '30d')
        """
        known, missing, base = subjects or {}, full.endswith("_missing"), full.removesuffix("_missing")
        entity, dot, rest = base.partition(".")
        if not dot:
            return cls(full, None, entity, missing=missing, declared=known.get(base))
        if ratio := _RATIO.match(base):
            inner, than = (cls.parse(part, known) for part in (ratio[1], f"{entity}.n_{ratio[2]}"))
            return cls(
                full, entity, f"{inner.subject}_{inner.op}", "over_window", inner.window, missing, than=than.span
            )
        if declared := known.get(base):
            return cls(full, entity, rest, declared.op, missing=missing, of=declared.of, declared=declared)
        stem, _, last = rest.rpartition("_")
        window = last if stem and _WINDOW.match(last) else None
        rest = stem if window else rest
        ends = {op: rest.removesuffix(op).rstrip("_") for op in _OPS if rest == op or rest.endswith(f"_{op}")}
        ends[""] = rest
        # The first that the task declares; without a task, the longest.
        # An aggregate may itself be called ``a_count``: only the task says where its name ends.
        op = next((op for op in ends if f"{entity}.{ends[op]}" in known), next(iter(ends)))
        declared = known.get(f"{entity}.{ends[op]}")
        of = declared.of if declared else _NAMED.get(op, "events")
        return cls(full, entity, ends[op], op, window, missing, of, declared)

    @property
    def this(self) -> str:
        """Name the entity as the one at hand: ``this user``."""
        return f"this {words(self.entity or 'entity')}"

    @property
    def adjective(self) -> str:
        """The window before a noun: ``30-day ``, or nothing."""
        if not self.window or self.window == "ever":
            return "all-time " if self.window else ""
        return f"{int(self.window[:-1])}-{_ADJECTIVES[self.window[-1]]} "

    @property
    def span(self) -> str:
        """The window after a verb: `` in 30 d``, or nothing."""
        if not self.window or self.window == "ever":
            return " ever" if self.window else ""
        return f" in {int(self.window[:-1])} {_SHORT[self.window[-1]]}"

    @property
    def span_s(self) -> float:
        """Seconds of the window, infinite for all time."""
        if not self.window or self.window == "ever":
            return math.inf
        return float(self.window[:-1]) * _SECONDS[self.window[-1]]

    @property
    def noun(self) -> str:
        """What a count counts: labels, all events, or those that the aggregate is called by."""
        if self.of == "labels":
            return "labels"
        told, subject = self.declared, words(self.subject)
        if told is not None and told.value is not None and not told.chosen:
            return f"events with {words(told.given)}" if told.given else "events"
        every = subject in ("", "value", "amount") if told is None else not told.chosen
        return subject if subject.endswith("s") else "events" if every else f"{subject} events"

    @property
    def one(self) -> str:
        """One of what a count counts."""
        counted, of, column = self.noun.partition(" with ")
        return counted.removesuffix("s") + of + column


def indicator_of(name: FeatureName, columns: Mapping[str, int]) -> int | None:
    """Column of the indicator that a feature is missing: its own, or that of its window, label run or detector."""
    if name.missing or name.op in ALWAYS_KNOWN:
        return None
    stem = f"{name.entity}.{name.subject}"
    run = f"{stem}_run" if name.op.startswith("run_") else stem
    for group in (name.full, f"{stem}_{name.window}" if name.window else run):
        if f"{group}_missing" in columns:
            return columns[f"{group}_missing"]
    return None


def indicated(names: Iterable[FeatureName], columns: Mapping[str, int]) -> dict[int, list[int]]:
    """The columns that each indicator speaks for, by its own column."""
    found: dict[int, list[int]] = {}
    for name in names:
        if (indicator := indicator_of(name, columns)) is not None:
            found.setdefault(indicator, []).append(columns[name.full])
    return found


def missing_in(x: FloatMatrix, indicators: Mapping[int, list[int]]) -> BoolMatrix:
    """Which values of logged rows ``(n, F)`` were missing, whether or not there are indicators."""
    out = missing_of(x)
    for indicator, members in indicators.items():
        # Rows that were logged as 0 before a missing value was told from 0: there only the indicator knows.
        before = (x[:, indicator] > 0.0) & ~out[:, members].any(axis=1)
        out[:, members] |= before[:, None] & (x[:, members] == 0.0)
    return out


def words(name: str) -> str:
    """Return a name as words."""
    return name.replace("_", " ").replace(".", " ")
