"""A bounded memory of which row an event was, so that a correction can take back exactly what was counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Ledger:
    """Row number and weight of the last ``capacity`` named rows.

    >>> ledger = Ledger(2)
    >>> for row, name in enumerate("abc"):
    ...     ledger.note(name, row, 1.0)
    >>> ledger.find("a"), ledger.find("c")
    (None, (2, 1.0))
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._rows: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def note(self, event_id: str, row: int, weight: float) -> None:
        """Remember (or renew) a row, forgetting the oldest beyond the capacity."""
        # Out first: in place it would keep its old turn to be forgotten.
        self._rows.pop(event_id, None)
        self._rows[event_id] = (row, weight)
        if len(self._rows) > self.capacity:
            self._rows.popitem(last=False)

    def note_many(self, event_ids: Sequence[str], first: int, weights: Sequence[float]) -> None:
        """`note` rows numbered from ``first`` on, in order."""
        rows = self._rows
        if rows.keys().isdisjoint(event_ids) and len(set(event_ids)) == len(event_ids):
            # All are new, as nearly always: in one call, and the oldest go at its end as they would one by one.
            rows.update(zip(event_ids, enumerate(weights, first), strict=True))
            for _ in range(len(rows) - self.capacity):
                rows.popitem(last=False)
            return
        for row, (event_id, weight) in enumerate(zip(event_ids, weights, strict=True), first):
            self.note(event_id, row, weight)

    def reweigh(self, event_id: str, weight: float) -> None:
        """A correction replaced this row's weight; its row number and its turn to be forgotten stay."""
        self._rows[event_id] = (self._rows[event_id][0], weight)

    def find(self, event_id: str) -> tuple[int, float] | None:
        """The row number and the weight it was counted with, or ``None`` when forgotten or never seen."""
        return self._rows.get(event_id)

    def arrays(self) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """The content for a snapshot."""
        rows = np.array([row for row, _ in self._rows.values()], dtype=np.int64)
        weights = np.array([weight for _, weight in self._rows.values()], dtype=np.float64)
        return {"ledger_row": rows, "ledger_weight": weights}, list(self._rows)

    def load(self, arrays: dict[str, NDArray[Any]], names: Sequence[str]) -> None:
        """Replace the content by that of ``arrays()``."""
        pairs = zip(arrays["ledger_row"].tolist(), arrays["ledger_weight"].tolist(), strict=True)
        self._rows = OrderedDict(zip(names, pairs, strict=True))
