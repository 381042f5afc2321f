"""Gives columns their parts in a task: time, event id, entities, label and when it is known; finds columns that leak.

A choice is a guess by values and by the words of a column's name; where two are near to each other it counts as unsure,
so that a person can be asked. It knows columns, not task files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.batch import BoolVector, FloatVector, IntVector
from weir.online.codec.wire import ID_CHARS, NO_DATA, TS_MIN
from weir.streams.backtest.tables.event_times import read_times
from weir.streams.backtest.tables.label_words import FALSE, TRUE, UNKNOWN
from weir.streams.backtest.tables.texts import MISSING, Cells, read_ids
from weir.streams.errors import UsageError
from weir.streams.workbench.measures import roc_auc
from weir.streams.workbench.profile import terms
from weir.streams.workbench.profile.columns import Column, plausible

LEAK_AUC: Final = 0.985
"""One column that separates the labels so well rather tells them."""
_SURE: Final = 0.75
"""By how much the best guess has to lead."""
_DAY_S: Final = 86_400.0
_NEARLY_ALL: Final = 0.99
"""Of the rows of either label: so many ones have a date that says when they were known, and so many others none."""
_FEW: Final = 10
"""Fewer different values are of a kind or a flag, where no word says that they are ids."""


@dataclass(slots=True)
class LabelGuess:
    """A label column and what its values mean; those that are in no list are 0."""

    column: Column
    positive: list[str]
    negative: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    usual: bool = True
    """Whether its words are understood without being listed."""
    known: Column | None = None
    """When each label became known."""
    dated: bool = False
    """Whether a date says when an event became a 1, and is there for no other: without one it may still come."""

    @property
    def any_date(self) -> bool:
        """Whether the label is that date itself."""
        return self.positive == ["*"]

    @property
    def y(self) -> FloatVector:
        """``(n,)`` 1, 0, and NaN where there is no label."""
        if self.any_date:
            return np.asarray(pc.is_valid(self.column.texts), np.float64)
        coded = pc.dictionary_encode(self.column.texts.combine_chunks())
        words: list[str] = coded.dictionary.to_pylist()
        of = [1.0 if w in self.positive else np.nan if w in self.unlabelled else 0.0 for w in words]
        made: FloatVector = np.array([*of, np.nan])[np.asarray(pc.fill_null(coded.indices, len(words)))]
        return made


@dataclass(slots=True)
class Guess:
    """The best column for a part, or none, and the others that may be meant, best first."""

    column: Column | None
    others: list[Column]
    sure: bool


def best(scored: Sequence[tuple[float, Column]], least: float) -> Guess:
    """The one with the highest score, where that is ``least`` at least; sure where it leads, or is far from that."""
    ranked = sorted(scored, key=lambda pair: -pair[0])
    named, top = [column for _, column in ranked], ranked[0][0] if ranked else -np.inf
    if top < least:
        return Guess(None, named, sure=top < least - _SURE)
    lead = top - (ranked[1][0] if len(ranked) > 1 else -np.inf)
    return Guess(named[0], named[1:], sure=min(lead, top - least) >= _SURE)


def guess_time(columns: Sequence[Column]) -> Guess:
    """The column of the event's own time."""
    scored = []
    for c in columns:
        if c.times is None or c.known < 0.5:
            continue
        known = c.times[np.isfinite(c.times)]
        ordered = float(np.mean(np.diff(known) >= 0)) if len(known) > 1 else 0.0
        typed, named = c.kind == "times", bool(c.words & terms.TIME)
        if typed or named or ordered > 0.99:
            score = 3 * named + 1.5 * typed - 3 * bool(c.words & terms.LATER) + ordered - 5 * (1 - c.known)
            scored.append((score + 0.3 * bool(np.any(known % 86_400)), c))
    return best(scored, 1.0)


def guess_event_id(columns: Sequence[Column]) -> Column | None:
    """A column that names each row; few may come twice."""
    for c in (c for c in columns if c.useful and c.known == 1.0 and c.distinct >= 0.95 * len(c.texts)):
        counts = c.numbers is not None and bool(np.all(np.diff(c.numbers) == 1))
        if (counts or (c.words & terms.ROW and c.words & (terms.ID | {"row", "index"}))) and _is_id(c):
            return c
    return None


def guess_repeated_id(columns: Sequence[Column], table: pa.Table) -> Column | None:
    """A column that by its name is of events, and comes twice only where the whole row does."""
    for c in (c for c in columns if c.useful and c.known == 1.0 and c.distinct >= 0.5 * len(c.texts)):
        if c.words & terms.ROW and c.words <= terms.ROW | terms.ID and _is_id(c):
            try:
                same = len(table.group_by(table.column_names).aggregate([])) == c.distinct
            except pa.ArrowException:  # lists and structs have no order
                continue
            if same:
                return c
    return None


def guess_versions(columns: Sequence[Column], table: pa.Table, time: Column) -> Column | None:
    """An id of rows that comes again with the same time, in rows that are not alike: versions of one row."""
    for c in (c for c in columns if c.useful and c.known == 1.0 and 0.7 * len(c.texts) <= c.distinct < len(c.texts)):
        named = c.words <= terms.ROW | terms.ID and _is_id(c)
        if named and len(table.group_by([c.name, time.name]).aggregate([])) == c.distinct:
            return c
    return None


def guess_entities(columns: Sequence[Column]) -> list[tuple[float, Column]]:
    """Columns that name what events are about, best first: ids that come again."""
    found = []
    for c in (c for c in columns if c.useful and not c.words & (terms.KIND | terms.POSTAL)):
        named = c.words & (terms.ENTITY | {"id"})
        ids = named if c.numbers is not None else named or c.words & terms.ID or c.distinct > 20
        few = c.distinct < _FEW and not c.words & (terms.DEVICE | {"id"})
        if ids and not few and c.known * len(c.texts) >= 1.5 * c.distinct and _is_id(c):
            who = 3 * bool(c.words & (terms.USER | terms.DEVICE)) + 2 * bool(c.words & terms.SHOP)
            found.append((who + bool(c.words & terms.ID) + 0.5 * float(np.log10(c.distinct)), c))
    return sorted(found, key=lambda pair: -pair[0])


def _is_id(c: Column) -> bool:
    """Whether it can be read as an id, none longer than an id may be."""
    try:
        ids = read_ids(Cells(c.cells.values, c.name, MISSING, c.cells.where, []))
    except (UsageError, pa.ArrowException):
        return False
    return bool((pc.max(pc.utf8_length(ids)).as_py() or 0) <= ID_CHARS)


def guess_label(columns: Sequence[Column], ts: FloatVector | None = None) -> Guess:
    """The column that says what came of an event; the table's last one more likely than another.

    A word for it in whatever language is told by a later date that is there for one of its values alone: with ``ts``
    ``(n,)``, the times of the events.
    """
    scored = []
    for c in (c for c in columns if c.useful and c.distinct <= 6 and c.known * len(c.texts) >= 10):
        named = c.words & terms.LABEL
        usual = {_plain(word) for word, _ in c.spoken(7)} <= TRUE | FALSE | UNKNOWN
        telling = any(_says(word, terms.TELLING) for word, _ in c.spoken(7))
        dated = ts is not None and c.distinct == 2 and guess_known_of_ones(columns, ts, meaning_of(c).y) is not None
        score = 3.0 * bool(named) + (named == c.words) + (c.distinct == 2) + usual - (c.distinct > 3)
        score += 1.5 if telling or dated else 0.0
        scored.append((score + 0.5 * (c is columns[-1]), c))
    guess = best(scored, 2.5)
    # A name in another language: two texts may be an outcome, and only a person knows.
    odd = guess.column is None and any(c.distinct == 2 and c.kind == "texts" for _, c in scored)
    return Guess(None, guess.others, sure=False) if odd else guess


def guess_dated_label(columns: Sequence[Column], ts: FloatVector) -> Guess:
    """The column that says when an event became a 1, such as a chargeback's date: a later time that few rows have."""
    scored = []
    for c in (c for c in columns if c.times is not None and c.known < 0.5):
        late = late_s(c, ts)
        late = late[np.isfinite(late)]
        if c.words & terms.NO_OUTCOME or len(late) < 10 or np.mean(late >= 0) < 0.95:
            continue
        named = bool(c.words & (terms.LABEL | terms.AFTERWARDS)) + bool(c.words & (terms.LATER | terms.KNOWN))
        scored.append((2.0 * named + c.known, c))
    return best(scored, 2.0)


def late_s(column: Column, ts: FloatVector) -> FloatVector:
    """How long after ``ts (n,)`` a column's times are; of days alone, from the beginning of the event's day."""
    assert column.times is not None
    known = column.times[np.isfinite(column.times)]
    days = not np.any(known % _DAY_S)
    return column.times - (np.floor(ts / _DAY_S) * _DAY_S if days else ts)


def _plain(word: str) -> str:
    return word.strip().casefold().removesuffix(".0")


def _says(word: str, parts: Sequence[str]) -> bool:
    """Whether a value says one of these, and not that there is none."""
    plain = _plain(word)
    return any(part in plain for part in parts) and not plain.startswith(("no", "kein"))


def meaning_of(column: Column) -> LabelGuess:
    """What the values of a label mean: by their words, else the rarest is positive."""
    low = {word: _plain(word) for word, _ in column.spoken(7)}
    unknown = [word for word in low if low[word] in UNKNOWN]
    rest = [word for word in low if word not in unknown]
    by = {plain: word for word, plain in low.items()}
    # Three values: -1 is neither of two classes then.
    if {"0", "1", "-1"} <= {*by}:
        positive = [word for word in rest if low[word] not in ("0", "-1")]
        return LabelGuess(column, positive, [by["0"]], [by["-1"], *unknown], usual=False)
    positive = [word for word in rest if low[word] in TRUE]
    if positive and len(positive) < len(rest) and all(low[word] in TRUE | FALSE for word in rest):
        return LabelGuess(column, positive, [], unknown)
    bad = [w for w in rest if _says(w, terms.BAD)]
    if not bad and sum(low[word] in FALSE for word in rest) == 1:
        bad = [word for word in rest if low[word] not in FALSE]
    return LabelGuess(column, bad if 0 < len(bad) < len(rest) else rest[-1:], [], unknown, usual=False)


def guess_known(columns: Sequence[Column], ts: FloatVector, label: LabelGuess) -> Column | None:
    """The column that says when each label became known: the last one of them."""
    found = []
    for c in columns:
        if c.times is None or not c.words & terms.KNOWN:
            continue
        late = c.times - ts
        there = [float(np.isfinite(late[label.y == v]).mean()) if (label.y == v).any() else 0.0 for v in (0.0, 1.0)]
        if min(there) >= 0.9 and np.mean(late[np.isfinite(late)] >= 0) >= 0.95:
            found.append((float(np.nanmedian(late)), c))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def guess_known_of_ones(columns: Sequence[Column], ts: FloatVector, y: FloatVector) -> Column | None:
    """The column that says when each 1 became known, and has nothing for a 0, such as ``returned_on``: the last one."""
    found = []
    if not np.isfinite(y).all() or min(np.sum(y == 1), np.sum(y == 0)) < _FEW:
        return None
    for c in (c for c in columns if c.times is not None and not c.words & terms.NO_OUTCOME):
        late = late_s(c, ts)
        there = np.isfinite(late)
        alike = min(np.mean(there[y == 1]), np.mean(~there[y == 0]))
        if alike >= _NEARLY_ALL and np.mean(late[there] >= 0) >= 0.95:
            found.append((float(np.median(late[there])), c))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def separation(column: Column, y: FloatVector) -> float:
    """ROC AUC of one column alone, or of its being missing; of a text by the positives among others that have it."""
    labelled = np.isfinite(y)
    positive = y[labelled] > 0
    if not 10 <= int(positive.sum()) <= len(positive) - 10:
        return 0.5
    scores = [np.asarray(pc.is_null(column.texts), np.float64)[labelled]]
    if column.numbers is not None:
        scores.append(np.nan_to_num(column.numbers[labelled], nan=-1e300))
    elif column.kind == "texts":
        coded = pc.dictionary_encode(column.texts.combine_chunks())
        codes = np.asarray(pc.fill_null(coded.indices, len(coded.dictionary)), np.int64)[labelled]
        scores.append(_share_elsewhere(codes, positive))
    aucs = [roc_auc(positive, score) for score in scores]
    # Either way round: a learner turns a column that falls with the label.
    return max(max(auc, 1.0 - auc) for auc in aucs)


def _share_elsewhere(codes: IntVector, y: BoolVector) -> FloatVector:
    """The share of positives among the rows of the other half that have the same code."""
    # By the other half: a text that comes once would tell the label of its own row.
    half, share = np.arange(len(y)) % 2, np.zeros(len(y))
    for k in (0, 1):
        n = np.bincount(codes[half != k], minlength=int(codes.max()) + 1)
        positive = np.bincount(codes[half != k], y[half != k], minlength=len(n))
        share[half == k] = ((positive + y.mean()) / (n + 1.0))[codes[half == k]]
    return share


def _runs_with(numbers: FloatVector, times: FloatVector) -> bool:
    """Whether numbers are the time in another unit, or rounded to days or months, or a count of rows."""
    read = np.isfinite(times) & (np.abs(numbers) < NO_DATA)  # what no sensor reads is missing, and its square overflows
    a, b = numbers[read], times[read]
    if len(a) <= 20 or not a.std() or not b.std():
        return False
    together = float(np.corrcoef(a, b)[0, 1])
    # A day number has the same value for hours, so that it goes less evenly with time; but it never steps back.
    return together > 0.99 or (together > 0.9 and bool(np.all(np.diff(a[np.lexsort((a, b))]) >= 0)))


def _without_zero_times(numbers: FloatVector) -> FloatVector:
    """Without zeros that stand for no time: all other numbers are seconds since 1970, or a finer unit."""
    zero = numbers == 0.0
    return np.where(zero, np.nan, numbers) if zero.any() and np.nanmin(numbers[~zero]) >= TS_MIN else numbers


def _word_for_no_time(c: Column) -> str:
    """What most rows of a text column have where all others have a time, such as ``never``; "" where there is none."""
    word, n = c.spoken(1)[0]
    if c.kind != "texts" or n < 0.5 * len(c.texts):
        return ""
    others = c.texts.filter(pc.not_equal(c.texts, word))
    try:
        times = read_times(Cells(others, c.name, MISSING, c.cells.where, []), "auto", "UTC")
    except (UsageError, pa.ArrowException):
        return ""
    return word if plausible(times) else ""


def leaks(columns: Sequence[Column], ts: FloatVector | None, label: LabelGuess | None) -> dict[str, str]:
    """Columns that say what nobody knows when the event comes, or nothing but its time, each with the reason."""
    found = dict[str, str]()
    for c in columns:
        if ts is not None and c.kind == "times" and c.times is not None:
            # Of the rows that have one: a date of return is missing in most.
            after = np.nanmean(np.where(np.isfinite(c.times), c.times > ts, np.nan)) > 0.5
            found[c.name] = (
                "a time after the event's own" if after else "a second time; put what it tells into a number"
            )
            if after and label is None and c.known < 0.5:
                found[c.name] += '; is it the label? Then name it `label`, with positive = ["*"] and negative = [""]'
        elif ts is not None and c.numbers is not None and _runs_with(filled := _without_zero_times(c.numbers), ts):
            found[c.name] = "it tells the time only"
            if filled is not c.numbers:
                found[c.name] += ", or 0: leave that empty; what is known later than the event may be the label"
        elif ts is not None and (word := _word_for_no_time(c)):
            found[c.name] = (
                f"times, but {word!r} in most rows: leave that empty, to have it read as a time or the label"
            )
        elif label is None:
            continue
        elif c.words & label.column.words & terms.LABEL:
            found[c.name] = f"by its name it tells the same as the label {label.column.name!r}"
        elif c.words & terms.AFTERWARDS:
            found[c.name] = "by its name it is known later than the event"
        elif (auc := separation(c, label.y)) >= LEAK_AUC:
            found[c.name] = f"alone it separates the labels nearly without a fault (ROC AUC {auc:.3f}): known later?"
    return found
