"""Each entity's events in the order in which they were scored, and what follows each of them.

The order is that of scoring, not of event time, because a serving model takes events in as they arrive; the two differ
only where events arrive late. It holds indices into a history, not the features, and knows no labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weir.models.types import BoolVector, Float32Vector, FloatVector, History, IntVector


@dataclass(frozen=True, slots=True)
class NextEvent:
    """What the entity does next after each row of a history of n: targets of pre-training."""

    type: IntVector
    """``(n,)`` its type; -1 for none or not known."""
    log_gap: Float32Vector
    """``(n,)`` ``log1p`` of the seconds until it; NaN for none."""
    log_amount: Float32Vector
    """``(n,)`` ``log1p`` of its amount; NaN for none or not known."""
    item: IntVector
    """``(n,)`` its item; -1 for none or not known."""


def by_entity(history: History) -> tuple[IntVector, BoolVector]:
    """Group the rows of a history by entity: the rows ``(n,)``, and which of them begins a group ``(n,)``."""
    rows = np.argsort(history.entity, kind="stable")  # stable: within an entity the order of scoring stays
    entity = history.entity[rows]
    first = np.ones(len(rows), np.bool_)
    np.not_equal(entity[1:], entity[:-1], out=first[1:])
    return rows, first


def next_events(history: History) -> NextEvent:
    """Find the next event of the same entity after each row."""
    rows, first = by_entity(history)
    n, follows = len(history), np.flatnonzero(~first)
    here, then = rows[follows - 1], rows[follows]
    amount = history.amount[then]
    return NextEvent(
        type=_placed(np.full(n, -1, np.int64), here, history.type[then]),
        # An event that arrived late can be older than the one scored before it; its gap then counts as none.
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
