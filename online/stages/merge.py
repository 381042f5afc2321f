"""Puts timer rows between event rows, so that one kernel call sees both in the order in which they happened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import EventBatch, FloatVector, IntVector
from weir.online.features import kernel

TIMER = "timer"
"""The type of a row that a timer made; it has no columns but its entity and time."""


def insert_timers(
    batch: EventBatch,
    key: str,
    before_row: IntVector,
    entity_id: Sequence[str],
    due_ts: FloatVector,
    event_id: Sequence[str],
) -> tuple[EventBatch, NDArray[np.uint8]]:
    """The batch with timer rows put before the given rows, and each row's kernel mode ``(n + k,) uint8``.

    >>> batch = EventBatch(["e1", "e2"], np.array([0.0, 9.0]), ["play"] * 2, {"user_id": ["a", "b"]})
    >>> merged, modes = insert_timers(batch, "user_id", np.array([1]), ["a"], np.array([5.0]), ["a@0"])
    >>> merged.event_id, merged.ts.tolist(), modes.tolist()
    (['e1', 'a@0', 'e2'], [0.0, 5.0, 9.0], [0, 1, 0])
    """
    n, k = len(batch), len(entity_id)
    modes = np.full(n + k, kernel.EVENT, dtype=np.uint8)
    if k == 0:
        return batch, modes
    # Each timer moves those behind it on by one.
    at = before_row + np.arange(k)
    modes[at] = kernel.READ
    order = np.empty(n + k, np.int64)
    order[modes == kernel.EVENT], order[at] = np.arange(n), np.arange(n, n + k)
    blank: list[str | None] = [None] * k
    timers = EventBatch(
        event_id=list(event_id),
        ts=due_ts,
        type=[TIMER] * k,
        entities={column: [*entity_id] if column == key else blank for column in batch.entities},
        numbers=dict.fromkeys(batch.numbers, np.full(k, np.nan)),
        texts=dict.fromkeys(batch.texts, blank),
    )
    return EventBatch.concat([batch, timers]).take(order), modes
