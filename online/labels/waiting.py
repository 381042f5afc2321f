"""Labels that wait for predictions. It knows labels and whom they speak of, not what was logged."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from weir.online.batch import BoolVector, FloatVector, IntVector, LabelBatch
from weir.online.digests import Digests
from weir.online.jit import njit
from weir.online.labels.join_policy import JoinPolicy
from weir.online.labels.row_tables import RowChains
from weir.online.rows import NumberedRows

_NOBODY: Final[IntVector] = np.empty(0, np.int64)
# Keeps an entity apart from an event of the same name.
_OF_ENTITY: Final = np.array([0x9E37_79B9_7F4A_7C15, 0], np.uint64)

# ``named``: whether it names an event; ``before``: the label before it that waits for the same.
COLUMNS: Final[dict[str, tuple[Any, int]]] = {
    "digest": (np.uint64, 2),
    "ts": (np.float64, 0),
    "weight": (np.float64, 0),
    "known_at": (np.float64, 0),
    "before": (np.int64, 0),
    "value": (np.bool_, 0),
    "named": (np.bool_, 0),
    "matched": (np.bool_, 0),
}


def awaited(events: Digests, owners: Digests, named: BoolVector) -> Digests:
    """What labels wait for, as a digest ``(n, 2)``: those ``named`` for their event, the others for their entity."""
    return np.where(named[:, None], events, owners ^ _OF_ENTITY)


class StoredWaiting(msgspec.Struct, array_like=True):
    """Waiting labels as a snapshot holds them."""

    first: int
    unmatched: int
    columns: dict[str, bytes]


class PendingLabels:
    """Labels in arrival order, bounded by event time and by number.

    A label is *live* while its time is at most ``wait_s`` behind the watermark and it is among the last ``max_waiting``
    that came to wait. Liveness is exact; memory follows it, so what a caller sees does not depend on when they go.
    """

    def __init__(self, policy: JoinPolicy) -> None:
        self.policy = policy
        self.unmatched = 0
        self._rows = NumberedRows(COLUMNS)
        self._table = RowChains(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """What they take in memory."""
        return self._rows.nbytes + self._table.nbytes

    def add(
        self, labels: LabelBatch, known: FloatVector, events: Digests, owners: Digests, named: BoolVector | None,
        matched: BoolVector,
    ) -> None:  # fmt: skip
        """Let labels wait that found nothing, or that may find more: those of a range go on waiting.

        Those ``named``, all where it is ``None``, wait for their event, the others for events of their entity.

        Parameters
        ----------
        known : ``(n,)`` event time at which each became known.
        events, owners : digests of what they speak of.
        matched : which have met an event already; they wait for more.
        """
        named = np.ones(len(matched), np.bool_) if named is None else named
        waits = ~named if self.policy.match == "entity_range" else np.zeros(len(named), np.bool_)
        self.unmatched += int(np.count_nonzero(~named & ~waits))
        at = np.flatnonzero(waits | (named & ~matched))
        if not len(at):
            return
        columns = {"ts": labels.ts, "value": labels.value, "weight": labels.weight, "known_at": known}
        columns |= {"named": named, "matched": matched}
        digest = awaited(events[at], owners[at], named[at])
        self._table.reserve(len(at))
        self._table.enter(self._rows.add(digest=digest, **{name: column[at] for name, column in columns.items()}))

    def meet(
        self, events: Digests, entities: Digests | None, ts: FloatVector, marks: FloatVector
    ) -> tuple[IntVector, IntVector]:
        """The live labels of events, in arrival order for each; those that name theirs stop waiting.

        Returns the position ``(k,)`` of the event that each is of, and the number of each.

        Parameters
        ----------
        entities : of the events, needed where labels may name no event.
        ts, marks : times of the events, and watermarks at each.
        """
        if not len(self._rows):
            return _NOBODY, _NOBODY
        found = self._table.find(events) >= 0
        if entities is not None:
            found |= self._table.find(entities ^ _OF_ENTITY) >= 0
        # Nearly no row of a batch is waited for; only those that are cost Python time.
        concerned, numbers = np.flatnonzero(found), [_NOBODY]
        for i in concerned.tolist():
            entity = None if entities is None else entities[i : i + 1]
            numbers.append(self._meet(events[i : i + 1], entity, float(ts[i]), float(marks[i]) - self.policy.wait_s))
        return np.repeat(concerned, [len(some) for some in numbers[1:]]), np.concatenate(numbers)

    def _meet(self, event: Digests, entity: Digests | None, ts: float, floor: float) -> IntVector:
        found, range_s = self._of(event, floor, np.inf), self.policy.range_s
        found = found[~self._rows.at("matched", found)]
        if entity is not None:
            # One float further than the sum, which may have been rounded down.
            ranged = self._of(entity ^ _OF_ENTITY, max(floor, ts), np.nextafter(ts + range_s, np.inf))
            # Whatever rounding does to the sum, this is what a label's range is.
            ranged = ranged[self._rows.at("ts", ranged) - range_s <= ts]
            found = np.sort(np.concatenate([found, ranged]))
        # A mark in place of a removal: rows leave from the front alone.
        self._rows["matched"][found - self._rows.first] = True
        return found

    def _of(self, digest: Digests, start: float, end: float) -> IntVector:
        """The labels between two times that wait for a digest, in arrival order."""
        rows = self._rows
        return self._table.between(digest, max(rows.first, rows.stop - self.policy.max_waiting), start, end)

    def columns(self, numbers: IntVector) -> tuple[BoolVector, FloatVector, FloatVector]:
        """Value, weight and time of becoming known of some labels."""
        at = self._rows.at
        return at("value", numbers), at("weight", numbers), at("known_at", numbers)

    def free(self, watermark: float) -> None:
        """Forget labels from the front that are no longer live, counting those that never matched."""
        rows = self._rows
        if not len(rows):
            return
        first = int(
            expired(rows["ts"], rows.first, watermark - self.policy.wait_s, rows.stop - self.policy.max_waiting)
        )
        self.unmatched += int(np.count_nonzero(~rows["matched"][: first - rows.first]))
        rows.leave(first)

    def snapshot(self) -> StoredWaiting:
        """All of it."""
        columns = {name: column.tobytes() for name, column in self._rows.frozen().items() if name != "before"}
        return StoredWaiting(self._rows.first, self.unmatched, columns)

    def restore(self, stored: StoredWaiting) -> None:
        """Replace the contents by a snapshot's."""
        self.unmatched = stored.unmatched
        self._rows.restore(stored.first, self._rows.unpacked(stored.columns))
        self._table.rebuild()


@njit(cache=True, nogil=True)
def expired(ts: FloatVector, first: int, floor: float, oldest: int) -> int:
    """The first row from ``first`` on, with times ``ts``, that is neither before ``floor`` nor before ``oldest``."""
    at = 0
    while at < len(ts) and (first + at < oldest or ts[at] < floor):
        at += 1
    return first + at
