"""Says what is odd in the events of a run: few notes, each with what mends it.

``RunWatch`` counts columns as they pass and never changes a result. It knows events, not labels or models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, get_args

import numpy as np

from weir.online.batch import BoolVector, EventBatch
from weir.online.codec.columns import ColumnRequest
from weir.online.task.spec import TaskSpec

Kind = Literal[
    "types", "not scored", "no labels", "labels refused", "one class", "labels unknown", "labels without event",
    "labels late", "labels contradict", "labels uneven", "rows refused", "no readings", "sentinel", "repeats",
    "entity key", "missing", "clock", "pause", "constant", "one entity", "unlabelled start",
    "early alerts",
]  # fmt: skip
"""What a note is about, the gravest first."""

DAY_S: Final = 86_400.0
# What devices and databases write where they have no number.
SENTINELS: Final = np.array([-99, -999, -999.25, -9999, -99999, -32768, -(2.0**31), 9999, 99999, 999999, 32767, 65535,
                              2.0**31 - 1, 2.0**32 - 1])  # fmt: skip
# Fewer rows say nothing of what is usual.
_MANY: Final = 50
# Rows that are looked at together: one at a time they would cost more than scoring them.
_TOGETHER: Final = 256


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that is odd."""

    kind: Kind
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"

    @property
    def rank(self) -> int:
        """The gravest have the smallest."""
        return get_args(Kind).index(self.kind)


class RunWatch:
    """Counts of the events of one run of ``task``, which reads these raw ``columns``."""

    def __init__(self, task: TaskSpec, columns: ColumnRequest) -> None:
        self.task, self.columns = task, columns
        self.where = "[source]" if task.source is not None else "the events"
        self.types: Counter[str] = Counter()
        self.owners: Counter[str | None] = Counter()
        self.known: dict[str, Counter[str]] = {
            name: Counter() for name in (*columns.entities, *columns.numbers, *columns.texts)
        }
        """By column, how many events of each type have a value."""
        self.spread = dict.fromkeys(columns.numbers, (np.inf, -np.inf))
        """By column, the least and the largest number; those of ``sentinels`` aside."""
        self.sentinels: dict[str, Counter[float]] = {name: Counter() for name in columns.numbers}
        self.jumps: list[tuple[int, float, float]] = []
        """Row, time before and time after, where time moves by more than a day."""
        self.first = self.last = np.nan
        self.labels_from: tuple[int, float] | None = None
        """Row and time of the first event with a label."""
        self._held: list[tuple[EventBatch, BoolVector]] = []
        self._rows_held = 0

    @property
    def events(self) -> int:
        """Events that were looked at."""
        return self.types.total()

    def update(self, batch: EventBatch, labelled: BoolVector) -> None:
        """Take in events, of which some bring a label with them."""
        if not len(batch):
            return
        self._held.append((batch, labelled))
        self._rows_held += len(batch)
        if self._rows_held >= _TOGETHER:
            self.look()

    def look(self) -> None:
        """Count what was taken in; before that nothing here knows of it."""
        if not self._held:
            return
        batches, labels = zip(*self._held, strict=True)
        self._held, self._rows_held = [], 0
        batch, labelled = EventBatch.concat(batches), np.concatenate(labels)
        if self.labels_from is None and labelled.any():
            at = int(labelled.argmax())
            self.labels_from = self.events + at, float(batch.ts[at])
        # The jump between two looks counts, too.
        ts = np.append(self.last if self.events else batch.ts[0], batch.ts)
        jumps = np.flatnonzero(np.diff(ts) > DAY_S).tolist()
        self.jumps += [(self.events + i, float(ts[i]), float(ts[i + 1])) for i in jumps]
        self.first, self.last = self.first if self.events else float(ts[0]), float(ts[-1])
        if self.task.key != "*":
            self.owners.update(batch.entities[self.task.key])
        kinds = np.array(batch.type)
        for kind in dict.fromkeys(batch.type):
            self._count(kind, batch if len(set(batch.type)) == 1 else batch.take(np.flatnonzero(kinds == kind)))

    def _count(self, kind: str, batch: EventBatch) -> None:
        self.types[kind] += len(batch)
        for name, texts in (*batch.entities.items(), *batch.texts.items()):
            if name not in self.known:  # wanted for something else than features
                continue
            self.known[name][kind] += len(batch) - texts.count(None)
        for name, numbers in batch.numbers.items():
            if name not in self.known:
                continue
            values = numbers[~np.isnan(numbers)]
            self.known[name][kind] += len(values)
            marked = (values[:, None] == SENTINELS).any(axis=1)  # np.isin takes 0.15 ms for one row
            self.sentinels[name].update(values[marked].tolist())
            # Marks are left out of the range that they are held against.
            values, (low, high) = values[~marked], self.spread[name]
            self.spread[name] = float(values.min(initial=low)), float(values.max(initial=high))

    def notes(self, scored: int) -> list[Note]:
        """What is odd, where so many rows were scored."""
        self.look()
        found = [*self._of_scores(scored), *(self._of_columns() if self.events else ()), *self._of_times()]
        return [Note(*note) for note in found]

    def _feeder(self, name: str) -> str:
        """What a column's values come from."""
        if self.task.source is None:
            return f"look at {name} in the events"
        column = self.task.source.columns.get(name)
        return f"look at the column {column!r}" if column else "nothing in [source] feeds it"

    def _of_scores(self, scored: int) -> Iterator[tuple[Kind, str, str]]:
        absent = [kind for kind in self.task.types if not self.types[kind]]
        there = ", ".join(f"{kind} ({n:,})" for kind, n in self.types.most_common(8))
        if absent and self.events:
            what = f"no event is of type {', '.join(map(repr, absent))}"
            if len(absent) == len(self.task.types):
                what = f"types = {list(self.task.types)} matches none of the {self.events:,} events"
            yield "types", f"{what}; the data has: {there}", f"correct `types` in the task, or `type` in {self.where}"
        if not scored and not self.events:
            yield "not scored", "no row was scored: the files hold none", "give files with rows by --data"
        elif not scored and not (absent and len(absent) == len(self.task.types)):
            why = "no timer of [labels.silence] fell due" if self.task.labels.silence else f"none has {self.task.key}"
            yield "not scored", f"none of {self.events:,} rows was scored: {why}", "give more data, or correct the task"

    def _of_columns(self) -> Iterator[tuple[Kind, str, str]]:
        keys = {entity.key for entity in self.task.entities}
        # Of more than a hundred types none may be common; then all are alike.
        common = [kind for kind, n in self.types.items() if n >= 0.01 * self.events] or [*self.types]
        for name, known in self.known.items():
            fed = max(known[kind] / self.types[kind] for kind in common)  # amounts are those of one type perhaps
            share = f"{1 - known.total() / self.events:.0%} of the" if known.total() else "all"
            kind = "number" if name in self.columns.numbers else "text"
            if name not in keys and fed < 0.5:
                yield "missing", f"{name} is missing, or no {kind}, in {share} rows", self._feeder(name)
            elif name in keys and (not fed or (name == self.task.key and fed < 0.5)):
                lost = "they are not scored" if name == self.task.key else "the features of its entity are missing"
                fix = f"feed {name} in {self.where}, or remove its entity"
                yield "entity key", f"{name} is missing in {share} rows: {lost}", fix
        for name, (low, high) in self.spread.items():
            declared = self.task.missing.get(name, self.task.missing.get("*", ()))
            undeclared = self.sentinels[name].keys() - set(declared) if name not in self.task.ranges else set()
            for value in undeclared if low <= high else ():
                if far_off(value, low, high):
                    what = (
                        f"{name} is {value:.15g} in {self.sentinels[name][value]:,} rows, far from all others, which "
                    )
                    what += f"are from {low:g} to {high:g}"
                    yield "sentinel", what, f"if that stands for no reading, set missing = [{value:.15g}] in the task"
            if low == high and self.events >= _MANY:
                yield "constant", f"{name} is {low:g} wherever it is known", f"drop {name}, or correct its column"
        (owner, most), (_, second) = (*self.owners.most_common(2), (None, 0), (None, 0))[:2]
        alone = len(self.owners) == 1 and self.task.stream == "user-events"  # a file of one device is usual
        usual = self.events * (0.5 if alone else max(0.5, 3 / max(len(self.owners), 1)))
        apart = second and most > max(0.1 * self.events, 3 * second)  # as "unknown", "guest", 0 or -1 are
        if owner is not None and most > _MANY and (most > usual or apart):
            what = f"{most / self.events:.0%} of the events are of one {self.task.key}, {owner!r}"
            yield "one entity", what, "a word for an unknown one? Leave it empty in the data"

    def _of_times(self) -> Iterator[tuple[Kind, str, str]]:
        if self.first == self.last and self.events >= _MANY:
            what = f"all rows have the same time, {_utc(self.first)}"
            yield "clock", what, "name the column of each event's own time: windows and delays go by it"
        n, days = self.events, {jump: (jump[2] - jump[1]) / DAY_S for jump in self.jumps}
        usual = (self.last - self.first) / DAY_S - sum(days.values())
        far = [jump for jump, by in days.items() if by > 20 * usual / max(n - len(days), 1)]
        few = max(2, 0.01 * n)
        alone = [jump for jump in far if min(jump[0], n - jump[0]) <= few]
        pauses = [jump for jump in far if jump not in alone]
        if len(days) > max(3, 0.02 * n):  # days between rows are usual
            return
        if len(days) > 3 and max(days.values()) < 2 * float(np.median([*days.values()])):  # snapshots, as of each month
            return
        if alone:
            row, _, after = jump = max(alone, key=days.__getitem__)
            rows, side, at = (row, "before", self.first) if row <= few else (n - row, "after", after)
            what = f"{rows:,} row{'s stand' if rows > 1 else ' stands'} {days[jump]:,.0f} days {side} all others"
            fix = "a clock that was not set? Correct the time of these rows, or leave them out"
            yield "clock", f"{what}, the first at {_utc(at)}", fix
        if pauses:
            _, before, after = jump = max(pauses, key=days.__getitem__)
            often = "once" if len(pauses) == 1 else f"{len(pauses)} times, at most"
            what = f"time jumps by more than a day {often} by {days[jump]:,.1f} days, from {_utc(before)}"
            yield "pause", f"{what} to {_utc(after)}", "is a file missing between them?"
        row, at = self.labels_from or (0, self.first)
        if row >= max(_MANY, few) and at - self.first > DAY_S:
            what = f"{row:,} rows from {_utc(self.first)} on come before the first one with a label, at {_utc(at)}"
            yield "unlabelled start", what, "begin the data where labels begin, or check the times"


def far_off(value: float, low: float, high: float) -> bool:
    """Whether a mark such as -9999 is far from all other numbers, which are from ``low`` to ``high``."""
    return value < 0 <= low or not 2 * low - high <= value <= 2 * high - low


def _utc(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M")
