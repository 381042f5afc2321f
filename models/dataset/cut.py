"""Cuts what is logged down to what was known at a time: the only way from a history to a training.

It knows times and rows, not where the history came from nor what is trained.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from weir.models.errors import ModelError
from weir.models.types import BoolVector, FloatVector, History, IntVector, Labels, TrainingSet

DELAY_QUANTILE = 0.9
"""Share of the labels that come within the delay that is found when none is given."""


def training_set(
    history: History,
    labels: Labels,
    cutoff: float,
    validation_s: float,
    label_delay: float | None,
    *,
    window_s: float = math.inf,
    min_labels: int = 500,
    min_positives: int = 30,
) -> TrainingSet:
    """Keep what a training at ``cutoff`` may see, and say where validation begins.

    Kept are events scored by then (event time, and that of every event scored before them, at most ``cutoff``) and not
    older than ``window_s``; and of labels that were known by then the newest of each event. Validation is the newest
    ``validation_s`` of events old enough to be labelled: it begins at ``cutoff - label_delay - validation_s``.

    Parameters
    ----------
    history, labels : everything that is logged; labels in any order, those known at the same time in theirs.
    cutoff : epoch seconds of event time.
    validation_s : seconds of event time.
    label_delay : seconds from an event until its label is known; ``None`` takes what nine of ten labels needed.
    window_s : seconds of history before ``cutoff``.
    min_labels, min_positives : without as many events with a known label, and positive ones, nothing is trained.

    Returns
    -------
    TrainingSet
        Its ``history`` shares memory with the given one where it is one stretch of it.

    Raises
    ------
    ModelError
        Too few labels or positives, also where one side of the split would have none or only one class.
    """
    data = cut(history, labels, cutoff, validation_s, label_delay, window_s)
    _check(data, min_labels, min_positives, validation_s)
    return data


def cut(
    history: History,
    labels: Labels,
    cutoff: float,
    validation_s: float,
    label_delay: float | None,
    window_s: float = math.inf,
) -> TrainingSet:
    """Cut as `training_set` does, however little is left."""
    rows = _known_rows(history, cutoff, window_s)
    kept = _newest(history, labels, rows, cutoff)
    # Most of the labels: waiting for the slowest would leave nothing new to learn from.
    delay = _delay(history, kept) if label_delay is None else label_delay
    # Labels point into the history that was given; after the cut its rows have other numbers.
    place = np.full(len(history), -1, np.int64)
    place[rows] = np.arange(len(rows))
    moved = Labels(place[kept.row], kept.y, kept.weight, kept.known_at)
    return TrainingSet(take(history, rows), moved, cutoff, cutoff - delay - validation_s)


def moment(ts: float) -> str:
    """Epoch seconds as people read them, UTC.

    >>> moment(1.7e9)
    '2023-11-14T22:13:20Z'
    """
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def take(history: History, rows: IntVector) -> History:
    """The given rows of a history, increasing; views where they are one stretch.

    Parameters
    ----------
    rows : ``(k,)`` increasing.
    """
    at: slice | IntVector = rows
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
        at = slice(int(rows[0]), int(rows[-1]) + 1)
    ids = history.event_id[at] if isinstance(at, slice) else [history.event_id[i] for i in rows.tolist()]
    columns = ("entity", "ts", "x", "score", "type", "amount", "item")
    return replace(history, event_id=ids, **{name: getattr(history, name)[at] for name in columns})


def known_before(history: History, labels: Labels, time: float) -> BoolVector:
    """Of each label, whether it was known before ``time``; one is never known before its event: ``(m,)``."""
    known: BoolVector = _known_at(history, labels) < time
    return known


def _known_at(history: History, labels: Labels) -> FloatVector:
    return np.maximum(labels.known_at, history.ts[labels.row])


def _known_rows(history: History, cutoff: float, window_s: float) -> IntVector:
    """Rows scored by the cutoff: behind an event of a later time, a late arrival was scored after it."""
    if len(history) == 0:
        return np.empty(0, np.int64)
    scored_by = np.maximum.accumulate(history.ts) <= cutoff
    return np.flatnonzero(scored_by & (history.ts >= cutoff - window_s))


def _newest(history: History, labels: Labels, rows: IntVector, cutoff: float) -> Labels:
    """The newest label of each of ``rows`` that was known at the cutoff, in the order in which they became known."""
    there = np.zeros(len(history), np.bool_)
    there[rows] = True
    known_at = _known_at(history, labels)
    # A label that was told before its event counts from the event on; of several such the one that was told last is the
    # newest.
    at = np.flatnonzero(there[labels.row] & (known_at <= cutoff))
    at = at[np.lexsort((labels.known_at[at], known_at[at]))]
    newest = np.full(len(history), -1, np.int64)
    newest[labels.row[at]] = np.arange(len(at))  # of equal indices the last assignment counts
    at = at[np.sort(newest[newest >= 0])]  # back into the order in which they became known
    return Labels(labels.row[at], labels.y[at], labels.weight[at], known_at[at])


def _delay(history: History, labels: Labels) -> float:
    if len(labels.row) == 0:
        return 0.0
    return float(np.quantile(labels.known_at - history.ts[labels.row], DELAY_QUANTILE))


def _check(data: TrainingSet, min_labels: int, min_positives: int, validation_s: float) -> None:
    labels = data.labels
    n, positives = len(labels.row), int(np.count_nonzero(labels.y))
    if n < min_labels or positives < min_positives:
        raise ModelError(
            f"{n} labels known at {moment(data.cutoff)}, {positives} of them positive; a training needs "
            f"{min_labels} and {min_positives}: wait for more, lengthen window, or lower min_labels and "
            "min_positives in [full.training]"
        )
    learned = known_before(data.history, labels, data.valid_from) & (data.history.ts[labels.row] < data.valid_from)
    checked = data.history.ts[labels.row] >= data.valid_from
    for what, side in (("to learn from", learned), ("of validation", checked)):
        found, hits = int(np.count_nonzero(side)), int(np.count_nonzero(labels.y[side]))
        if hits == 0 or hits == found:
            delay_s = data.cutoff - data.valid_from - validation_s
            raise ModelError(
                f"{found} labelled events {what}, {hits} of them positive; both classes are needed. Events since "
                f"{moment(float(data.history.ts.min()))} are there; those from {moment(data.valid_from)} on validate: "
                f"{validation_s / 86_400:.3g} days of them and the {delay_s / 86_400:.3g} that most labels take. What "
                "was known by then is learned: wait for more, lengthen window or shorten validation in [full.training]"
            )
