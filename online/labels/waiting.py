"""Labels that wait for predictions. It knows labels and whom they speak of, not what was logged."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatVector, IntVector
from weir.online.digests import Digests
from weir.online.labels.kernel import chain, expired, link
from weir.online.rows import NumberedRows, RowIndex

# Keeps an entity apart from an event of the same name.
_OF_ENTITY: Final = np.array([0x9E37_79B9_7F4A_7C15, 0], np.uint64)

# ``named``: whether it names an event; ``before``: the label before it that waits for the same.
_COLUMNS: Final[dict[str, tuple[Any, int]]] = {
    "digest": (np.uint64, 2),
    "ts": (np.float64, 0),
    "weight": (np.float64, 0),
    "known_at": (np.float64, 0),
    "before": (np.int64, 0),
    "value": (np.bool_, 0),
    "named": (np.bool_, 0),
    "matched": (np.bool_, 0),
}


class StoredWaiting(msgspec.Struct, array_like=True):
    """Waiting labels as a snapshot holds them."""

    first: int
    unmatched: int
    columns: dict[str, bytes]


class PendingLabels:
    """Labels in arrival order, bounded by event time and by number.

    A label is *live* while its time is at or after a floor and it is among the last ``max_waiting`` that came to
    wait. Liveness is exact; memory follows it, so what a caller sees never depends on when labels are freed.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self.unmatched = 0
        self._rows = NumberedRows(_COLUMNS)
        self._table = RowIndex(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """What they take in memory."""
        return self._rows.nbytes + self._table.nbytes

    def concerned(self, events: Digests, entities: Digests | None) -> IntVector:
        """Positions of those that a label may be waiting for, in order; for most batches none.

        ``entities`` are needed where labels may name no event.
        """
        if not len(self._rows):
            return np.empty(0, np.int64)
        found = self._table.find(events) >= 0
        if entities is not None:
            found |= self._table.find(entities ^ _OF_ENTITY) >= 0
        return np.flatnonzero(found)

    def add(
        self,
        events: Digests,
        entities: Digests,
        named: BoolVector,
        columns: dict[str, NDArray[Any]],
        matched: BoolVector,
    ) -> None:
        """Let labels wait: those ``named`` for their event, the others for events of their entity.

        Parameters
        ----------
        columns : ``ts``, ``value``, ``weight`` and ``known_at``.
        matched : which have met an event already; they wait for more.
        """
        digest = np.where(named[:, None], events, entities ^ _OF_ENTITY)
        rows, table = self._rows, self._table
        table.reserve(len(named))
        first = rows.add(digest=digest, named=named, matched=matched, before=np.empty(len(named), np.int64), **columns)
        table.used += self._link(first)

    def _link(self, first: int) -> int:
        rows, table = self._rows, self._table
        digests, before = rows.buffers["digest"], rows.buffers["before"]
        return int(link(table.slots, table.origin, digests, before, rows.base, first, rows.stop))

    def meet(self, event: Digests, entity: Digests | None, ts: float, floor: float, range_s: float) -> IntVector:
        """The numbers of the live labels of an event, in arrival order; those that name it stop waiting.

        Parameters
        ----------
        event, entity : ``(1, 2)``.
        """
        found = self._of(event, floor, np.inf)
        found = found[~self._rows.at("matched", found)]
        if entity is not None:
            ranged = self._of(entity ^ _OF_ENTITY, max(floor, ts), np.nextafter(ts + range_s, np.inf))
            # Whatever rounding does to the sum, this is what a label's range is.
            ranged = ranged[self._rows.at("ts", ranged) - range_s <= ts]
            found = np.sort(np.concatenate([found, ranged]))
        self._rows["matched"][found - self._rows.first] = True
        return found

    def _of(self, digest: Digests, start: float, end: float) -> IntVector:
        """The labels between two times that wait for a digest, in arrival order."""
        rows = self._rows
        oldest = max(rows.first, rows.stop - self.max_waiting)
        newest = int(self._table.find(digest)[0])
        return chain(newest, rows.buffers["before"], rows.buffers["ts"], rows.base, oldest, start, end)

    def columns(self, numbers: IntVector) -> tuple[BoolVector, FloatVector, FloatVector]:
        """Value, weight and time of becoming known of some labels."""
        at = self._rows.at
        return at("value", numbers), at("weight", numbers), at("known_at", numbers)

    def free(self, floor: float) -> None:
        """Forget labels from the front that are no longer live, counting those that never matched."""
        rows = self._rows
        if not len(rows):
            return
        first = int(expired(rows["ts"], rows.first, floor, rows.stop - self.max_waiting))
        self.unmatched += int(np.count_nonzero(~rows["matched"][: first - rows.first]))
        rows.leave(first)

    def snapshot(self) -> StoredWaiting:
        """All of it."""
        columns = {name: column.tobytes() for name, column in self._rows.frozen().items() if name != "before"}
        return StoredWaiting(self._rows.first, self.unmatched, columns)

    def restore(self, stored: StoredWaiting) -> None:
        """Replace the contents by a snapshot's."""
        self.unmatched = stored.unmatched
        columns = unpacked(_COLUMNS, stored.columns)
        columns["before"] = np.empty(len(columns["ts"]), np.int64)
        self._rows.restore(stored.first, columns)
        self._table.clear(len(self._rows))
        self._table.used += self._link(stored.first)


def unpacked(columns: dict[str, tuple[Any, int]], stored: dict[str, bytes]) -> dict[str, NDArray[Any]]:
    """Columns as a snapshot holds them, as arrays."""
    out: dict[str, NDArray[Any]] = {}
    for name, raw in stored.items():
        kind, width = columns[name]
        flat = np.frombuffer(raw, kind)
        out[name] = flat.reshape(-1, width) if width else flat
    return out
