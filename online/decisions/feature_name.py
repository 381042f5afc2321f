"""Feature names taken apart. It knows how features are called, not how they are computed or worded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

WINDOW: Final = re.compile(r"(\d+)([smhdw])$")
WINDOWED: Final = ("over_mean", "positives", "distinct", "count", "share", "mean", "std", "sum", "min", "max")
"""Operations whose features end in their window; names of all others end in the operation."""
PLAIN: Final = (
    "since_first_positive",
    "run_since_negative",
    "run_since_first",
    "since_positive",
    "over_ewmean",
    "since_first",
    "since_last",
    "run_count",
    "run_min",
    "ewmean",
    "last",
)
"""Longest first: ``run_since_first`` also ends in ``since_first``."""
PARTS: Final = ("level", "change", "spread", "seasonal", "pattern", "context", "density", "expected")
"""What a detector says beside its score."""
OF_LABELS: Final = ("positives", "share", *(op for op in PLAIN if "positive" in op or op.startswith("run_")))
"""Operations that only labels have; the others are of events, unless the task says so."""
_ALWAYS_KNOWN: Final = ("count", "sum", "distinct", "positives", "run_count")
_ADJECTIVES: Final = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}
_SHORT: Final = {"s": "s", "m": "min", "h": "h", "d": "d", "w": "weeks"}


Of = Literal["events", "labels", "anomaly"]
"""What a feature is computed of: ``anomaly`` is what a detector says of events."""


class Subject(NamedTuple):
    """What a task says of an aggregate or a detector; names alone do not tell events from labels."""

    of: Of = "events"
    value: str | None = None
    """The column or expression that it aggregates; None where it counts."""
    chosen: bool = False
    """Whether a ``where`` chooses what it is fed: then not all events are counted, only those that it is called by."""


@dataclass(frozen=True, slots=True)
class FeatureName:
    """A name taken apart: ``user.amount_over_mean_30d`` is (user, amount, over_mean, 30d)."""

    full: str
    entity: str | None
    subject: str
    op: str | None
    window: str | None
    missing: bool = False
    of: Of = "events"

    @classmethod
    def parse(cls, full: str, subjects: Mapping[str, Subject] | None = None) -> FeatureName:
        """Take a name apart; what does not follow the pattern is all subject.

        ``subjects`` says what the aggregates of a task are of, by ``<entity>.<aggregate>``.

        >>> FeatureName.parse("user.amount_over_mean_30d")
        FeatureName(full='user.amount_over_mean_30d', entity='user', subject='amount', op='over_mean', window='30d', \
missing=False, of='events')
        """
        known = subjects or {}
        missing = full.endswith("_missing")
        base = full.removesuffix("_missing")
        entity, dot, rest = base.partition(".")
        if not dot:
            return cls(full, None, entity, None, None, missing)
        if base in known:
            return cls(full, entity, rest, None, None, missing, known[base].of)
        stem, _, last = rest.rpartition("_")
        window = last if stem and WINDOW.match(last) else None
        rest = stem if window else rest
        # The indicator of a label run stands for three operations, and is called by what they share.
        ops = WINDOWED if window else (*PLAIN, *PARTS, *(("run",) if missing else ()))
        op = next((op for op in ops if rest == op or rest.endswith(f"_{op}")), None)
        subject = rest.removesuffix(op).rstrip("_") if op else rest
        if declared := known.get(f"{entity}.{subject}"):
            return cls(full, entity, subject, op, window, missing, declared.of)
        of: Of = "labels" if op in OF_LABELS else "anomaly" if op in PARTS else "events"
        return cls(full, entity, subject, op, window, missing, of)

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


def indicator_of(name: FeatureName, columns: Mapping[str, int]) -> int | None:
    """Column of the indicator that a feature is missing: its own, or that of its window, label run or detector."""
    if name.missing or name.op in _ALWAYS_KNOWN:
        return None
    stem = f"{name.entity}.{name.subject}"
    run = f"{stem}_run" if (name.op or "").startswith("run_") else stem
    for group in (name.full, f"{stem}_{name.window}" if name.window else run):
        if f"{group}_missing" in columns:
            return columns[f"{group}_missing"]
    return None


def words(name: str) -> str:
    """Return a name as words."""
    return name.replace("_", " ").replace(".", " ")
