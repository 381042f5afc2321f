"""What a task made of a table is to say, and what follows from that: windows, horizon, how late labels are.

It knows columns and their parts, not how they were chosen or how a task file is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow.compute as pc

from weir.online.batch import FloatVector
from weir.online.durations import format_duration, parse_duration
from weir.streams.workbench.profile import roles, terms
from weir.streams.workbench.profile.columns import Column
from weir.streams.workbench.profile.known_after import KnownAfter, known_after
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
