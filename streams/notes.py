"""Says what is odd in a run over files: at most a few notes, the gravest first, each with what mends it.

``RunWatch`` counts columns as they pass; ``notes_of`` reads the counts at the end. It knows events and what became of
labels, not models, and it never changes a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, get_args

import numpy as np

from online.batch import BoolVector, EventBatch
from online.columns import ColumnRequest
from online.decode import Reject
from online.durations import format_duration
from online.labels import LabelJoiner
from online.task import TaskSpec

Kind = Literal[
    "types", "not scored", "no labels", "labels refused", "one class", "labels unknown", "labels without event",
    "labels early", "labels late", "labels not scored", "rows refused", "repeats", "entity key", "missing",
    "clock", "pause", "constant", "one entity", "unlabelled start",
]  # fmt: skip
"""What a note is about, the gravest first."""

SHOWN: Final = 6
DAY_S: Final = 86_400.0
_MISSING, _OF_ONE = 0.5, 0.5
_FEW_ROWS, _FAR = 50, 20.0


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that is odd."""

    kind: Kind
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


@dataclass(slots=True)
class LabelCounts:
    """What labels a run was given, and what of them could not be used."""

    source: str | None = None
    """Where they come from, in words; ``None`` where the task has none."""
    delay_s: float = 0.0
    given: int = 0
    positive: int = 0
    """Of the examples that were made."""
    negative: int = 0
    refused: list[Reject] = field(default_factory=list)
    nameless: int = 0
    """Without an ``event_id``, where labels are matched by it."""
    unknown: list[str] = field(default_factory=list)
    """The events of labels that name one that is not in the data."""
    early: int = 0
    """Labels that stopped waiting before their event came."""
    unscored: int = 0
    """Labels of events that the task does not score."""
    ahead: int = 0
    """Labels that were not known yet when the data ended."""
    explained: int = 0
    """Labels that were handed over and could meet no prediction, whenever they came."""


class RunWatch:
    """Counts of the events of one run, from their columns.

    Parameters
    ----------
    task, columns : what is run, and the raw columns that it reads.
    """

    def __init__(self, task: TaskSpec, columns: ColumnRequest) -> None:
        self.task, self.columns = task, columns
        self.types: Counter[str] = Counter()
        self.owners: Counter[str | None] = Counter()
        self.known: dict[str, Counter[str]] = {n: Counter() for n in (*columns.numbers, *_named(columns))}
        """By column, how many events of each type have a value."""
        self.spread = dict.fromkeys(columns.numbers, (np.inf, -np.inf))
        self.jumps: list[tuple[int, float, float]] = []
        """Row, time before and time after, where time moves by more than a day."""
        self.first = self.last = self.first_labelled = np.nan
        self._rows_at_label: int | None = None

    @property
    def events(self) -> int:
        """Events so far."""
        return self.types.total()

    def update(self, batch: EventBatch, labelled: BoolVector) -> None:
        """Take in events, of which some bring a label with them."""
        if not len(batch):
            return
        if self._rows_at_label is None and labelled.any():
            at = int(labelled.argmax())
            self._rows_at_label, self.first_labelled = self.events + at, float(batch.ts[at])
        self._times(batch)
        if (key := self.task.key) != "*":
            self.owners.update(batch.entities[key])
        for kind, part in _by_type(batch):
            for name in self.columns.numbers:
                values = part.numbers[name]
                values = values[~np.isnan(values)]
                self.known[name][kind] += len(values)
                if len(values):
                    low, high = self.spread[name]
                    self.spread[name] = min(low, float(values.min())), max(high, float(values.max()))
            for names, columns in ((self.columns.entities, part.entities), (self.columns.texts, part.texts)):
                for name in names:
                    self.known[name][kind] += len(part) - columns[name].count(None)
            self.types[kind] += len(part)

    def _times(self, batch: EventBatch) -> None:
        ts = np.append(self.last, batch.ts) if self.events else batch.ts
        at = np.flatnonzero(np.diff(ts) > DAY_S)
        start = self.events + len(batch) - len(ts) + 1
        self.jumps += [(start + i, float(ts[i]), float(ts[i + 1])) for i in at.tolist()]
        self.first = self.first if self.events else float(batch.ts[0])
        self.last = float(ts[-1])

    def fed(self, name: str) -> float:
        """The share of events with a value in a column, in the type where that is largest (rare types aside)."""
        common = [kind for kind, n in self.types.items() if n >= 0.01 * self.events]
        return max((self.known[name][kind] / self.types[kind] for kind in common), default=1.0)

    def missing(self, name: str) -> str:
        """In which share of all rows a column has no value, in words."""
        return "all" if not (n := self.known[name].total()) else f"{1 - n / self.events:.0%} of"

    @property
    def unlabelled_start(self) -> int:
        """Rows that came before the first one with a label."""
        return self._rows_at_label or 0


def _named(columns: ColumnRequest) -> tuple[str, ...]:
    return (*columns.entities, *columns.texts)


def _by_type(batch: EventBatch) -> Iterator[tuple[str, EventBatch]]:
    kinds = dict.fromkeys(batch.type)
    if len(kinds) == 1:
        yield batch.type[0], batch
        return
    codes = {kind: code for code, kind in enumerate(kinds)}
    code = np.array([codes[kind] for kind in batch.type])
    for kind, at in codes.items():
        yield kind, batch.take(np.flatnonzero(code == at))


def notes_of(
    watch: RunWatch,
    labels: LabelCounts,
    joiner: LabelJoiner,
    *,
    scored: int,
    repeats: int,
    refused: Counter[str],
    first_refused: Sequence[Reject],
) -> list[Note]:
    """What is odd in a run, the gravest first.

    Parameters
    ----------
    refused : rows that were refused, by the field that was wrong; ``first_refused`` are the first few.
    """
    found = [
        *_of_scores(watch, scored),
        *_of_labels(watch, labels, joiner, scored),
        *_of_rows(repeats, refused, first_refused),
        *_of_columns(watch),
        *_of_times(watch),
    ]
    return sorted(found, key=lambda note: get_args(Kind).index(note.kind))


def _of_scores(watch: RunWatch, scored: int) -> Iterator[Note]:
    task, seen = watch.task, watch.types
    there = ", ".join(f"{kind} ({n:,})" for kind, n in seen.most_common(8))
    absent = [kind for kind in task.types if not seen[kind]]
    where = "[source] constants or columns" if task.source is not None else "the events"
    if absent and watch.events:
        none = len(absent) == len(task.types)
        what = f"types = {list(task.types)} matches none of the {watch.events:,} events" if none else (
            f"no event is of type {', '.join(map(repr, absent))}")  # fmt: skip
        yield Note("types", f"{what}; the data has: {there}", f"correct `types` in the task file, or `type` in {where}")
    if scored:
        return
    if not watch.events:
        yield Note("not scored", "no row was scored: the files hold none", "give files with rows by --data")
    elif not watch.owners.total() - watch.owners[None] and task.key != "*":
        yield Note("not scored", f"no row was scored: no event names {task.key}", f"feed {task.key} in {where}")
    elif not absent or len(absent) < len(task.types):
        yield Note(
            "not scored", f"no row of {watch.events:,} was scored", "look at [labels.silence]: no timer fell due"
        )


def _of_labels(watch: RunWatch, labels: LabelCounts, joiner: LabelJoiner, scored: int) -> Iterator[Note]:
    if not scored:
        return
    task, join = watch.task, watch.task.labels.join
    n, waiting = labels.positive + labels.negative, joiner.waiting if join.match == "event" else 0
    if labels.source is None:
        if task.model.kind != "column":
            yield Note("no labels", "no labels were given: the model has learned nothing and its scores mean nothing",
                       "name a `label` column in [source], or give --labels")  # fmt: skip
        return
    if not n:
        yield _nothing_learned(watch, labels)
    elif not labels.positive or not labels.negative:
        which, other = ("negative", "positive") if labels.negative else ("positive", "negative")
        words = "; `positive` in [source] lists what means 1" if task.source and task.source.label else ""
        yield Note("one class", f"all {n:,} labels are {which}, none is {other}: the model cannot tell them apart",
                   f"look at {labels.source}{words}")  # fmt: skip
    if labels.refused:
        yield Note("labels refused", f"{len(labels.refused):,} lines of labels were refused; the first: "
                   f"{_first(labels.refused)}", "correct these lines")  # fmt: skip
    if labels.unknown:
        yield Note("labels unknown", f"{len(labels.unknown):,} labels name events that are not in the data, "
                   f"such as {labels.unknown[0]!r}", "give their events too by --data")  # fmt: skip
    if labels.nameless:
        yield Note("labels without event", f"{labels.nameless:,} labels have no event_id, but are matched by it "
                   '(match = "event")', 'add event_id to them, or set match = "entity_range" and range_s in '
                   "[labels.join]")  # fmt: skip
    if labels.early > 0.01 * labels.given:
        wait = format_duration(join.wait_s)
        yield Note("labels early", f"{labels.early:,} labels came more than wait_s = {wait} before their events",
                   "look at `ts` of the labels, or raise wait_s in [labels.join]")  # fmt: skip
    keep, delay = format_duration(join.keep_s), format_duration(labels.delay_s)
    if (late := joiner.stats.unmatched + waiting - labels.explained - labels.early) > 0.01 * labels.given:
        why, fix = f"these wait for keep_s = {keep}; labels come {delay} late", "raise keep_s in [labels.join]"
        if join.match == "entity_range":
            why, fix = f"range_s = {format_duration(join.range_s)}, keep_s = {keep}, {delay} late", "raise one of them"
        met = "came when their predictions had been let go" if join.match == "event" else "met no event in their range"
        yield Note("labels late", f"{late:,} of {labels.given:,} labels {met}: {why}", fix)
    if labels.unscored and labels.unscored == labels.given:
        yield Note("labels not scored", f"all {labels.given:,} labels speak of events that the task does not score",
                   "correct `types` or the entity's key")  # fmt: skip


def _nothing_learned(watch: RunWatch, labels: LabelCounts) -> Note:
    if not labels.given:
        return Note("no labels", f"no label was found in {labels.source}: the model has learned nothing",
                    "look at its values: empty ones and words for missing are no label")  # fmt: skip
    if labels.ahead == labels.given:
        span = (watch.last - watch.first) / DAY_S
        return Note("no labels", f"none of {labels.given:,} labels became known before the data ended: it spans "
                    f"{span:.1f} days and labels come {format_duration(labels.delay_s)} late",
                    "give more data, or a shorter delay if that is true")  # fmt: skip
    return Note("no labels", f"none of {labels.given:,} labels met a prediction: the model has learned nothing",
                f"look at {labels.source}")  # fmt: skip


def _of_rows(repeats: int, refused: Counter[str], first: Sequence[Reject]) -> Iterator[Note]:
    if refused:
        fields = ", ".join(f"{name} {n:,}" for name, n in refused.most_common(4))
        yield Note("rows refused", f"{refused.total():,} rows were refused ({fields}); the first: {_first(first)}",
                   "correct the rows, or the mapping in [source]")  # fmt: skip
    if repeats:
        yield Note("repeats", f"{repeats:,} rows repeat an event_id and were dropped, as live",
                   "remove the overlap; where rows share an id on purpose, leave `event_id` out")  # fmt: skip


def _of_columns(watch: RunWatch) -> Iterator[Note]:
    where = "[source] columns" if watch.task.source is not None else "the events"
    keys = dict.fromkeys(entity.key for entity in watch.task.entities if entity.key != "*")
    for name in keys:
        if watch.fed(name) < (_MISSING if name == watch.task.key else 1e-9):
            lost = "they are not scored" if name == watch.task.key else "the features of its entity are missing"
            yield Note("entity key", f"{name} is missing in {watch.missing(name)} rows: {lost}",
                       f"feed {name} in {where}, or remove its entity")  # fmt: skip
    for name in (name for name in watch.known if name not in keys and watch.fed(name) < _MISSING):
        kind = "number" if name in watch.columns.numbers else "text"
        yield Note("missing", f"{name} is missing, or no {kind}, in {watch.missing(name)} rows",
                   f"look at what feeds {name} in {where}")  # fmt: skip
    for name, (low, high) in watch.spread.items():
        if low == high and watch.events >= _FEW_ROWS:
            yield Note(
                "constant", f"{name} is {low:g} in every row", f"drop {name} from the task, or correct its column"
            )


def _of_times(watch: RunWatch) -> Iterator[Note]:
    n, apart = watch.events, sum(after - before for _, before, after in watch.jumps)
    usual = (watch.last - watch.first - apart) / max(n - len(watch.jumps) - 1, 1)
    jumps = [jump for jump in watch.jumps if jump[2] - jump[1] > _FAR * usual]
    if jumps and len(watch.jumps) <= max(3, 0.02 * n):
        few = max(2, 0.01 * n)
        alone = [j for j in jumps if min(j[0], n - j[0]) <= few]
        if alone:
            row, before, after = max(alone, key=lambda j: j[2] - j[1])
            some, side, ts = (row, "before", watch.first) if row <= few else (n - row, "after", after)
            who, days = "row stands" if some == 1 else "rows stand", (after - before) / DAY_S
            yield Note("clock", f"{some:,} {who} {days:,.0f} days {side} all others, the first at {_utc(ts)}",
                       "a clock that was not set? Correct the time of these rows, or leave them out")  # fmt: skip
        if pauses := [j for j in jumps if j not in alone]:
            _, before, after = max(pauses, key=lambda j: j[2] - j[1])
            often = "once" if len(pauses) == 1 else f"{len(pauses):,} times, at most"
            yield Note("pause", f"time jumps by more than a day {often} by {(after - before) / DAY_S:,.1f} days, "
                       f"from {_utc(before)} to {_utc(after)}",
                       "is a file missing between them?")  # fmt: skip
    [(owner, most)] = watch.owners.most_common(1) or [(None, 0)]
    if owner is not None and n >= _FEW_ROWS and most > n * max(_OF_ONE, 3 / len(watch.owners)):
        yield Note("one entity", f"{most / n:.0%} of the events are of one {watch.task.key}, {owner!r}",
                   "a word for an unknown one? Leave it empty in the data")  # fmt: skip
    if watch.unlabelled_start >= max(_FEW_ROWS, 0.01 * n) and watch.first_labelled - watch.first > DAY_S:
        yield Note("unlabelled start", f"{watch.unlabelled_start:,} rows from {_utc(watch.first)} on come before the "
                   f"first row with a label, at {_utc(watch.first_labelled)}", "begin the data where labels begin, or "
                   "check the times")  # fmt: skip


def _first(rejects: Sequence[Reject]) -> str:
    # 1-based, as people count rows
    return f"row {rejects[0].index + 1}: {rejects[0].reason}"


def _utc(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M")
