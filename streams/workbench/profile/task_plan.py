"""What a task made of a table is to say, and what follows from that: windows, horizon, how late labels are.

It knows columns and their parts, not how they were chosen or how a task file is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import pyarrow.compute as pc

from weir.online.batch import BoolVector, FloatVector, IntVector
from weir.online.durations import format_duration, parse_duration
from weir.streams.workbench.profile import roles, terms
from weir.streams.workbench.profile.columns import Column
from weir.streams.workbench.profile.sampled import Sample

DAY_S: Final = 86_400.0
_NEGATIVES, _LEAST_NEGATIVES = 10, 100_000
"""So many negatives for each positive tell nearly as much as all, where there are many."""
ROW_INTERVAL_S: Final = 60.0
_WEEKS: Final = 14
"""Days with rows after which a weekday is no name of one date."""
LADDER_S: Final = tuple(parse_duration(w) for w in ("1m", "10m", "1h", "6h", "1d", "7d", "30d", "90d", "365d"))


@dataclass(slots=True)
class Plan:
    """What a task file is to say. Columns are by their name within the task."""

    name: str
    sample: Sample
    time: Column | None = None
    time_zone: str = "UTC"
    event_id: Column | None = None
    stream: str = "user-events"
    main: Column | None = None
    """What events are about; none for one entity that all belong to."""
    entity: str = "all"
    label: roles.LabelGuess | None = None
    delay_s: float = 0.0
    """How late labels are; where they are a date or nothing, how late a date comes at most."""
    latest_s: float = 0.0
    """How late the last of such dates comes, and no earlier than the others are waited for."""
    no_label: str = "no label"
    """Why there is none."""
    silent: bool = False
    """Whether the task asks who falls silent: it has no label, and many entities that come again."""
    horizon_s: float = 0.0
    """How long a silence is meant."""
    observe_s: float = 0.0
    """How long after its first event an entity is asked for, once; 0 where that is done at each event."""
    columns: dict[str, Column] = field(default_factory=dict)
    """All columns that the task reads, but time, label and event id."""
    numbers: list[str] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)
    """Texts of two values, with one of them."""
    hashed: list[str] = field(default_factory=list)
    target: list[str] = field(default_factory=list)
    second: dict[str, str] = field(default_factory=dict)
    """Further entities: by their key the name."""
    worth: list[str] = field(default_factory=list)
    """Numbers whose course for an entity is followed, the most telling first."""
    left: dict[str, str] = field(default_factory=dict)
    """Columns that are left out, with the reason."""
    guesses: dict[str, str] = field(default_factory=dict)
    """By part, what of it nobody confirmed."""
    given: Mapping[str, str] = field(default_factory=dict)
    """By part, what was said before anything was asked."""

    @property
    def ts(self) -> FloatVector:
        """Time of each row of the sample."""
        if self.time is not None and self.time.times is not None:
            return self.time.times
        return np.arange(self.sample.table.table.num_rows) * ROW_INTERVAL_S

    @property
    def span_s(self) -> float:
        """From the first event to the last."""
        known = self.ts[np.isfinite(self.ts)]
        # Without times the span is a number of rows, and a sample has fewer than the files.
        scale = 1.0 if self.time is not None else self.sample.rows / max(len(self.ts), 1)
        return float(known.max() - known.min()) * scale if len(known) else 0.0

    @property
    def positives(self) -> tuple[int, int]:
        """How many labels of the sample are 1, and how many there are."""
        y = self.label.y if self.label is not None else np.empty(0)
        return int(np.count_nonzero(y == 1)), int(np.isfinite(y).sum())

    @property
    def rate(self) -> float:
        """The share of positives among the labels; one in a hundred where there are none."""
        positive, known = self.positives
        # Four digits: it is written into a file that a person reads.
        return float(f"{positive / known:.4g}") if known else 0.01

    def usual_silence_s(self) -> float:
        """A silence that is longer than nine of ten pauses, and of which the data holds some."""
        assert self.main is not None
        who = np.asarray(pc.dictionary_encode(self.main.texts.combine_chunks()).indices.fill_null(-1))
        order = np.lexsort((self.ts, who))
        gaps = np.diff(self.ts[order])[np.diff(who[order]) == 0]
        usual = float(np.quantile(gaps[np.isfinite(gaps)], 0.9)) if np.isfinite(gaps).any() else 0.0
        if usual >= self.span_s / 4:
            return self.span_s // 8
        return min((w for w in LADDER_S if w >= usual), default=LADDER_S[-1])

    def negative_rate(self) -> float:
        """The share of negatives that is enough to learn from; 1 where that saves less than half of them."""
        positive, known = self.positives
        scale = self.sample.rows / max(len(self.ts), 1)
        negative = max((known - positive) * scale, 1.0)
        rate = float(f"{max(_NEGATIVES * positive * scale, _LEAST_NEGATIVES) / negative:.1g}")
        return rate if rate <= 0.5 else 1.0

    @property
    def score_column(self) -> str:
        """The column that is the score where nothing is learned; none where something is."""
        if self.label is not None or self.silent:
            return ""
        return "oddest" if len(self.worth) > 1 else f"{self.entity}.{self.worth[0]}_odd"

    @property
    def paid(self) -> str:
        """The number that says how much an event is about, if there is one: an amount that is never below 0."""
        for name in self.worth:
            numbers = self.columns[name].numbers
            if numbers is not None and self.columns[name].words & terms.WORTH and not np.nanmin(numbers) < 0.0:
                return name
        return ""

    @property
    def lag_free(self) -> bool:
        """Whether each label is known before the next row comes."""
        return self.time is None and self.label is not None and self.sample.rows <= 60_000

    def gap_s(self) -> float:
        """The usual time between events of an entity."""
        if self.main is None:
            return self.span_s / max(self.sample.rows, 1)
        return self.span_s * self.main.distinct / max(self.sample.rows, 1)

    def clock(self) -> list[str]:
        """The hour and the weekday, where there are several, and more than another name of a date."""
        if self.time is None:
            return []
        hours = np.unique(self.ts[np.isfinite(self.ts)] // 3600.0)
        days = len(np.unique(hours // 24.0))
        return ["hour"] * (days > 2 and len(np.unique(hours % 24.0)) > 1) + ["weekday"] * (days >= _WEEKS)

    def windows(self) -> list[str]:
        """Up to three windows, by how often an entity has events and how long the data is, or it is observed."""
        if self.observe_s:  # what is longer holds the same
            return [format_duration(w) for w in [*[w for w in LADDER_S if w < self.observe_s][-2:], self.observe_s]]
        fit = [w for w in LADDER_S if self.gap_s() <= w <= max(self.span_s / 2, LADDER_S[0])]
        return [format_duration(w) for w in (fit[:3] or [max(w for w in LADDER_S if w <= max(self.span_s, 60.0))])]

    def known_after(self) -> KnownAfter | None:
        """The numbers of an event that say when both of its outcomes are known, where they do."""
        late, y = self.late(), self.label.y if self.label is not None else np.empty(0)
        by_value = self.delays()
        if not by_value or not all(map(len, by_value)):
            return None
        slow = float(np.median(by_value[1]) > np.median(by_value[0]))
        numbers = {name: found for name in self.numbers if (found := self.columns[name].numbers) is not None}
        return known_after(numbers, late, y == slow)

    def delays(self) -> list[FloatVector]:
        """How late labels 0 and 1 became known; nothing where no column says it of both."""
        late = self.late()
        if self.label is None or not len(late):
            return []
        return [late[np.isfinite(late) & (self.label.y == value)] for value in (0, 1)]

    def late(self) -> FloatVector:
        """``(n,)`` seconds from each event to its label, NaN without one; empty where no column says it."""
        if self.label is None or self.label.known is None or self.label.known.times is None:
            return np.empty(0)
        return np.maximum(self.label.known.times - self.ts, 0.0)


_UNITS_S: Final = (86_400.0, 3_600.0, 60.0, 1.0)
_MOST_SUMMED: Final = 4
_LOOKED_AT: Final = 5_000
"""Rows are plenty to see that a sum is exact."""
_NEARLY_ALL: Final = 0.95
_EVEN: Final = 0.1
"""A delay that varies by less of its middle needs no sum: one wait fits all events."""


class KnownAfter(NamedTuple):
    """A sum of an event's numbers, in a unit, after which both of its outcomes are known.

    Where one value of the label is known at once and the other only when something is over, a fixed wait is too long
    for most events and too short for some. The event often says itself when that is: lead time and nights of a booking,
    the term of a loan, the days of a trial.
    """

    names: tuple[str, ...]
    unit_s: float
    more_s: float
    """What comes on top of it, seconds."""

    @property
    def formula(self) -> str:
        """The same in seconds, as an expression of a task file.

        >>> KnownAfter(("lead_days", "nights"), 86_400.0, 3_600.0).formula
        '(lead_days + nights) * 86400 + 3600'
        """
        terms = " + ".join(self.names)
        terms = f"({terms})" if len(self.names) > 1 else terms
        unit = f" * {self.unit_s:.0f}" if self.unit_s != 1.0 else ""
        return f"{terms}{unit}" + (f" + {self.more_s:.0f}" if self.more_s else "")


def known_after(numbers: Mapping[str, FloatVector], late: FloatVector, slow: BoolVector) -> KnownAfter | None:
    """The sum after which both values of the label are known, or ``None`` where no sum says it.

    Parameters
    ----------
    numbers : by name ``(n,)`` numbers of events, NaN where one is missing.
    late : ``(n,)`` seconds from an event to its label; NaN where it has none.
    slow : ``(n,)`` whether a label is of the value that is known later.
    """
    whole = {name: each for name, each in numbers.items() if np.isfinite(each).all()}
    at = np.flatnonzero(np.isfinite(late) & slow)
    at = at[:: max(len(at) // _LOOKED_AT, 1)]
    if len(at) < 100 or _spread(late[at]) <= _EVEN * float(np.median(late[at])):
        return None
    for unit_s in _UNITS_S:
        rest, names = late[at] / unit_s, tuple[str, ...]()
        while len(names) < _MOST_SUMMED and (name := _next(whole, names, rest, at)):
            names, rest = (*names, name), rest - whole[name][at]
        # To the unit, as dates are rounded, and no wider than a tenth of what it explains.
        if not names or _spread(rest) > min(1.0, _EVEN * _spread(late[at]) / unit_s):
            continue
        more_s = max(np.ceil(np.quantile(rest, _NEARLY_ALL) * unit_s / 60.0) * 60.0, 0.0)
        found = KnownAfter(names, unit_s, float(more_s))
        due = np.sum([whole[name] for name in names], axis=0) * unit_s + more_s
        there = np.isfinite(late)
        if np.mean(late[there] <= due[there]) >= _NEARLY_ALL:
            return found
    return None


def _next(whole: Mapping[str, FloatVector], names: Sequence[str], rest: FloatVector, at: IntVector) -> str:
    """The number that explains most of the rest; empty where none makes it a fifth narrower on average."""
    left = {name: _wide(rest - each[at]) for name, each in whole.items() if name not in names}
    best = min(left, key=left.__getitem__, default="")
    return best if best and left[best] <= 0.8 * _wide(rest) else ""


def _wide(values: FloatVector) -> float:
    return float(np.mean(np.abs(values - np.median(values))))


def _spread(values: FloatVector) -> float:
    """Between them lie nine tenths of the values."""
    low, high = np.quantile(values, [0.05, 0.95])
    return float(high - low)
