"""Which rows an entity still has: one that was away for longer than its rows are kept begins anew.

How long an entity was away is the time from its newest record to its next, both by their own event time. So what is
forgotten depends on the records of that entity alone: not on how records are cut into batches, not on other entities,
and not on when a store frees memory. Stores keep a row longer than that (`SPARE`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector, IntVector
from weir.online.features.store import FeatureStore
from weir.online.jit import njit, plain


class LivingRows:
    """Rows of one table for the records of a batch, changed in memory until they are saved.

    An entity that comes back within the batch, too late, goes on in a further row of zeros; the last one is saved.

    Parameters
    ----------
    store, table : where the rows live.
    keys : ``(k,)`` distinct entities.
    slots : ``(n,)`` each record's place among ``keys``; -1 where it names no entity.
    ts : ``(n,)`` event time of each record, epoch seconds.
    kept_s : seconds that an entity may be away.
    touches : whether a record of an entity keeps its row; one that does not is given zeros where the row is too old,
        and nothing may be saved.
    """

    def __init__(
        self,
        store: FeatureStore,
        table: str,
        keys: Sequence[str],
        slots: IntVector,
        ts: FloatVector,
        kept_s: float,
        *,
        touches: bool = True,
    ) -> None:
        self._store, self._table, self._keys = store, table, keys
        self._seen = store.last_seen(table, keys)
        self.slots = np.empty(len(slots), np.int64)
        """``(n,)`` each record's place among ``rows``; -1 where it names no entity."""
        self._last, rows = np.arange(len(keys)), store.load(table, keys)
        count = int(_follow(slots, plain(ts), self._seen, kept_s, touches, self._last, rows, self.slots))
        if count > len(keys):
            rows = np.concatenate([rows, np.zeros((count - len(keys), rows.shape[1]), np.uint8)])
        self.rows: NDArray[np.uint8] = rows
        """``(k or more, row_bytes)``, C-contiguous."""

    def save(self) -> None:
        """Write the rows back, each as of the newest record of its entity."""
        rows = self.rows if len(self.rows) == len(self._keys) else self.rows[self._last]
        self._store.save(self._table, self._keys, rows, self._seen)


@njit(cache=True, nogil=True)
def _follow(
    slots: IntVector,
    ts: FloatVector,
    seen: FloatVector,
    kept_s: float,
    touches: bool,
    last: IntVector,
    rows: NDArray[np.uint8],
    places: IntVector,
) -> int:
    """Give each record its row; returns how many rows there are.

    ``seen (k,)`` is when the row of each entity last changed; it, ``last (k,)`` (the newest row of each entity),
    ``rows (k, row_bytes)``, where one is forgotten, and ``places (n,)`` are written.
    """
    count = len(seen)
    begun = np.zeros(count, np.bool_)
    for i in range(len(slots)):
        k = slots[i]
        if k < 0:
            places[i] = -1
            continue
        away = ts[i] - seen[k] > kept_s
        if touches:
            if away and begun[k]:
                last[k] = count
                count += 1
            elif away:
                rows[k] = 0
            begun[k] = True
            seen[k] = max(seen[k], ts[i])
            places[i] = last[k]
        else:
            # Other records may still find the row: those that come late. So these share a row of zeros.
            places[i] = len(seen) if away else k
            if away and count == len(seen):
                count += 1
    return count
