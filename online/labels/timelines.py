"""Rows of each entity in order of time. They know numbers and times, not what the rows hold."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from online.batch import FloatVector
from online.labels.store import TS, StoredChunk


class Timelines:
    """Rows of each entity in order of time, to find those inside a range; used only when labels join by range."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[list[float], list[int]]] = {}

    def add(self, entity_ids: list[str], ts: FloatVector, first_row: int) -> None:
        """Add consecutive rows from ``first_row`` on."""
        for row, (entity_id, at) in enumerate(zip(entity_ids, ts.tolist(), strict=True), first_row):
            times, rows = self._of.get(entity_id) or self._of.setdefault(entity_id, ([], []))
            if not times or at >= times[-1]:
                times.append(at)
                rows.append(row)
            else:
                where = bisect_right(times, at)
                times.insert(where, at)
                rows.insert(where, row)

    def between(self, entity_id: str, start: float, end: float) -> list[int]:
        """Rows of an entity with ``start <= ts <= end``, ordered by time, then by arrival."""
        times, rows = self._of.get(entity_id, ((), ()))
        return list(rows[bisect_left(times, start) : bisect_right(times, end)])

    def free(self, entity_ids: set[str], first_row: int) -> None:
        """Forget the rows of these entities that come before ``first_row``."""
        for entity_id in entity_ids:
            times, rows = self._of[entity_id]
            kept = [(at, row) for at, row in zip(times, rows, strict=True) if row >= first_row]
            if kept:
                self._of[entity_id] = ([at for at, _ in kept], [row for _, row in kept])
            else:
                del self._of[entity_id]

    def rebuild(self, chunks: list[StoredChunk], first_row: int, width: int) -> None:
        """Index the rows of a snapshot, whose first row has number ``first_row``."""
        self._of.clear()
        for chunk in chunks:
            ts = np.frombuffer(chunk.numbers).reshape(-1, width)[:, TS]
            self.add(chunk.entity_id, ts, first_row)
            first_row += len(chunk.event_id)
