"""Each entity's events as sequences, cut into chunks through which a recurrent model carries its state.

It holds indices into a history, not the features: a batch gathers those it needs. It knows no labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from weir.models.types import BoolVector, Float32Vector, FloatVector, History, IntVector

IntMatrix = NDArray[np.int64]
Order = Literal["event_time", "scored"]


@dataclass(frozen=True, slots=True)
class NextEvent:
    """What the entity does next after each row of a history of n: targets of pre-training."""

    row: IntVector
    """``(n,)`` row of the entity's next event; -1 for none."""
    type: IntVector
    """``(n,)`` its type; -1 for none or not known."""
    log_gap: Float32Vector
    """``(n,)`` ``log1p`` of the seconds until it; NaN for none."""
    log_amount: Float32Vector
    """``(n,)`` ``log1p`` of its amount; NaN for none or not known."""
    item: IntVector
    """``(n,)`` its item; -1 for none or not known."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """The events of E entities in C chunks of at most L steps, every event in exactly one place.

    Chunks are ordered by entity, then in time: that of the entity before a chunk is the one with ``rank - 1`` just
    before it.
    """

    rows: IntMatrix
    """``(C, L)`` index into the history in the order of the events, -1 behind the last."""
    length: IntVector
    """``(C,)`` steps of each chunk, 1 to L."""
    slot: IntVector
    """``(C,)`` which entity, 0 to E - 1: where a trainer keeps the state that a chunk begins with."""
    rank: IntVector
    """``(C,)`` how many chunks of the same entity come before; at 0 the state is zero."""
    entities: int
    """E."""
    gap: Float32Vector
    """``(n,)`` by row of the history: seconds since the entity's previous event, never negative; -1 for its first."""
    next: NextEvent

    def __len__(self) -> int:
        return len(self.rows)


def sequences(history: History, length: int, *, before: float = math.inf, order: Order = "event_time") -> Sequences:
    """Cut the events of each entity into chunks of ``length``, the last one shorter.

    Parameters
    ----------
    length : L, at least 1.
    before : only events before this time, also as targets: ``valid_from`` for what is learned from, none to validate.
    order : of an entity's events: by time (equal times as scored), or as scored, which is how a serving model sees
        them. They differ only where events arrive late.
    """
    if length < 1:
        raise ValueError(f"length is {length}; a chunk has at least one step")
    rows, new = _sorted(history, before, order)
    within = _within(new)
    first = within % length == 0
    chunk = np.cumsum(first) - 1
    matrix = np.full((int(first.sum()), length), -1, np.int64)
    matrix[chunk, within % length] = rows
    slots = np.cumsum(new) - 1
    return Sequences(
        rows=matrix,
        length=np.bincount(chunk, minlength=len(matrix)).astype(np.int64),
        slot=slots[first],
        rank=within[first] // length,
        entities=int(new.sum()),
        gap=_gaps(history, rows, new),
        next=_next(history, rows, new),
    )


def next_events(history: History, *, before: float = math.inf, order: Order = "event_time") -> NextEvent:
    """The next event of the same entity after each row; see `sequences`."""
    return _next(history, *_sorted(history, before, order))


def _sorted(history: History, before: float, order: Order) -> tuple[IntVector, BoolVector]:
    """Rows by entity, then in order, and which of them is its entity's first: ``(k,)`` each."""
    rows = np.arange(len(history)) if before == math.inf else np.flatnonzero(history.ts < before)
    ts = history.ts[rows]
    if order == "event_time" and np.any(ts[1:] < ts[:-1]):
        rows = rows[np.argsort(ts, kind="stable")]
    rows = rows[np.argsort(history.entity[rows], kind="stable")]
    entity = history.entity[rows]
    new = np.ones(len(rows), np.bool_)
    np.not_equal(entity[1:], entity[:-1], out=new[1:])
    return rows, new


def _within(new: BoolVector) -> IntVector:
    """Place of each event among its entity's."""
    at = np.arange(len(new))
    return at - np.maximum.accumulate(np.where(new, at, 0))


def _gaps(history: History, rows: IntVector, new: BoolVector) -> Float32Vector:
    gap = np.full(len(history), -1.0, np.float32)
    gap[rows[1:]] = np.where(new[1:], -1.0, np.maximum(np.diff(history.ts[rows]), 0.0))
    return gap


def _next(history: History, rows: IntVector, new: BoolVector) -> NextEvent:
    n = len(history)
    follows = np.flatnonzero(~new)
    here, then = rows[follows - 1], rows[follows]
    following = np.full(n, -1, np.int64)
    following[here] = then
    amount = history.amount[then]
    return NextEvent(
        row=following,
        type=_placed(np.full(n, -1, np.int64), here, history.type[then]),
        log_gap=_logs(n, here, np.maximum(history.ts[then] - history.ts[here], 0.0)),
        log_amount=_logs(n, here, np.where(amount >= 0, amount, np.nan)),
        item=_placed(np.full(n, -1, np.int64), here, history.item[then]),
    )


def _placed(out: IntVector, at: IntVector, values: IntVector) -> IntVector:
    out[at] = values
    return out


def _logs(n: int, at: IntVector, values: FloatVector) -> Float32Vector:
    out = np.full(n, np.nan, np.float32)
    out[at] = np.log1p(values)
    return out
