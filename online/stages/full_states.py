"""Asks a full model about rows in order, with the states that their entities still have.

A ``FullScorer`` loads the state of each entity and saves it behind all rows, whenever they were. Here an entity that
was away for too long has none, as rows of features have it (`weir.online.features.lives`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatMatrix, FloatVector
from weir.online.features.lives import LivingRows
from weir.online.features.store import FeatureStore
from weir.online.features.touched_rows import Grouping, group
from weir.online.task.full_spec import FullScorer


def score_full(
    scorer: FullScorer,
    table: str,
    store: FeatureStore,
    keys: Sequence[str],
    ts: FloatVector,
    x: FloatMatrix,
    kept_s: float,
) -> FloatMatrix:
    """`FullScorer.score`; the state of an entity that was away for more than ``kept_s`` seconds is zeros.

    Raises what the scorer raises.
    """
    if not scorer.row_bytes:
        return scorer.score(table, store, keys, ts, x)
    made, start = list[FloatMatrix](), 0
    # More than one call where an entity comes back within these rows, too late.
    while start < len(keys):
        states = _States(store, table, group(keys[start:]), ts[start:], kept_s)
        stop = start + states.count
        made.append(scorer.score(table, states, keys[start:stop], ts[start:stop], x[start:stop]))
        start = stop
    return np.concatenate(made) if len(made) != 1 else made[0]


class _States:
    """The ``FeatureStore`` of one call of a scorer; ``count`` rows can be scored in it."""

    def __init__(self, store: FeatureStore, table: str, grouping: Grouping, ts: FloatVector, kept_s: float) -> None:
        self._store, keys = store, grouping.keys
        living = LivingRows(store, table, keys, grouping.slots, ts, kept_s)
        again = np.flatnonzero(living.slots >= len(keys))
        self.count = int(again[0]) if len(again) else len(ts)
        if len(again):
            slots = grouping.slots[: self.count]
            living = LivingRows(store, table, keys[: int(slots.max()) + 1], slots, ts[: self.count], kept_s)
        self._place = {key: k for k, key in enumerate(keys)}
        self._living = living

    def create(self, table: str, row_bytes: int, schema: int, kept_s: float) -> None:
        """Declare a table."""
        self._store.create(table, row_bytes, schema, kept_s)

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        """The states that entities of these rows still have."""
        del table
        return self._living.rows[self._places(keys)]

    def last_seen(self, table: str, keys: Sequence[str]) -> FloatVector:
        """As the store has it."""
        return self._store.last_seen(table, keys)

    def save(self, table: str, keys: Sequence[str], rows: NDArray[np.uint8], seen: FloatVector | float) -> None:
        """Keep the states, each as of the newest row of its entity: ``seen`` is that of all."""
        del table, seen
        self._living.rows[self._places(keys)] = rows
        self._living.save()

    def _places(self, keys: Sequence[str]) -> NDArray[np.int64]:
        return np.fromiter(map(self._place.__getitem__, keys), np.int64, len(keys))
