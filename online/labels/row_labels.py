"""What labels predictions have been given, and what falls due: assumed negatives, and labels of rows that are mature.

It knows rows and their labels, not which label speaks of which row, nor what was logged.
"""

from __future__ import annotations

import heapq
from typing import Any, Final, NamedTuple

import numpy as np

from weir.online.batch import BoolVector, FloatVector, IntVector, all_of
from weir.online.jit import njit, plain
from weir.online.labels.prediction_index import COUNTED, UNLABELLED, WAITS, PredictionIndex, States


class Pairs(NamedTuple):
    """Pairs of a row and a label as columns, each ``(n,)``."""

    rows: IntVector
    y: BoolVector
    weight: FloatVector
    known_at: FloatVector
    before: IntVector
    """How many labels the row had had."""
    new: BoolVector
    """The label is: no second mention, at the maturity of the row."""
    ripe: BoolVector
    """To be learned now."""

    def take(self, at: IntVector | BoolVector) -> Pairs:
        """Some of them."""
        columns: list[Any] = [column[at] for column in self]
        return Pairs(*columns)


NO_ROWS: Final[IntVector] = np.empty(0, np.int64)
_NO_FLAGS: Final[BoolVector] = np.empty(0, np.bool_)
_RIPENING_BYTES: Final = 136
"""Of one place in a heap: a pair, a float and a number of Python's."""
NO_PAIRS: Final = Pairs(NO_ROWS, _NO_FLAGS, np.empty(0), np.empty(0), NO_ROWS, _NO_FLAGS, _NO_FLAGS)


class RowLabels:
    """The labels of the rows of an index.

    - With ``negative_after_s`` an event becomes a negative, in arrival order, when the watermark has moved that far
      since it was logged without a label for it.
    - Where the index ``matures``, an event is learned when its ``ripens_s`` (``keep_s`` at most) have passed since: a
      label known sooner is told at once and learned then, with the last value said by then. So a value that becomes
      known sooner than the other is not learned more often (what learning at once costs: Chapelle, 2014, "Modeling
      delayed feedback in display advertising").
    """

    def __init__(self, index: PredictionIndex) -> None:
        self._index = index
        self.next_negative = 0
        """The first row that was not yet looked at for having no label."""
        self._ripening = list[tuple[float, int]]()  # a heap: when rows that wait are mature

    @property
    def nbytes(self) -> int:
        """What rows that have a label and wait for their maturity take in memory, more or less, beside the index."""
        return _RIPENING_BYTES * len(self._ripening)

    def give(
        self, rows: IntVector, y: BoolVector, weight: FloatVector, known_at: FloatVector, now: FloatVector
    ) -> tuple[Pairs, BoolVector]:
        """Give rows their labels, in order, each at a time ``now``.

        Returns the pairs that say something new, and which labels did not.
        """
        pairs, told, first = self._exchange(rows, y, weight, known_at, now)
        stats = self._index.stats
        stats.repeated_values += len(rows) - len(pairs.rows)
        stats.joined += first
        stats.corrections += len(pairs.rows) - first
        return pairs, told

    def _exchange(
        self, rows: IntVector, y: BoolVector, weight: FloatVector, known_at: FloatVector, now: FloatVector
    ) -> tuple[Pairs, BoolVector, int]:
        """As `give`; and how many are the first label of their row."""
        index, before, count = self._index, np.empty(len(rows), np.uint32), np.empty(len(rows), np.int64)
        ripe_at = self._ripe_at(rows) if index.matures else now
        told, ripe = np.empty(len(rows), np.bool_), np.empty(len(rows), np.bool_)
        # One row after the other, compiled: a row may be in the batch twice, and its second label meets the first one's
        # state.
        state = index.buffers["state"], index.base
        repeats, first = exchange(*state, rows, plain(y), plain(now), ripe_at, before, count, told, ripe)
        if not all_of(ripe):
            index.buffers["weight"][rows[~told] - index.base] = weight[~told]
            for i in np.flatnonzero(~ripe & ~told & ((before & WAITS) == 0)).tolist():
                index.stats.early += bool((before[i] & 3) == UNLABELLED)
                heapq.heappush(self._ripening, (float(ripe_at[i]), int(rows[i])))
        pairs = Pairs(rows, y, weight, known_at, count, ~told, ripe)
        return pairs.take(~told) if repeats else pairs, told, first

    def with_due(self, pairs: Pairs, positions: IntVector, marks: FloatVector, first: int) -> Pairs:
        """Add what fell due during a batch, each row before the pairs of the one that made it due.

        Parameters
        ----------
        positions : in the batch, of the row that each of ``pairs`` is of.
        marks : ``(n,)`` watermarks of the batch.
        first : number of its first row.
        """
        after = self._index.policy.negative_after_s
        if len(marks) == 0 or self._index.watermark == -np.inf or (after is None and not self._ripening):
            return pairs
        # Even before odd: what fell due comes before the pairs of the row that made it due.
        made = [(pairs, 2 * positions + 1)]
        if after is not None:
            made.append(self._negatives(marks - after, after, first))
        made.append(self._ripened(marks, first))
        places = np.concatenate([place for _, place in made])
        joined = Pairs(*(np.concatenate(column) for column in zip(*(some for some, _ in made), strict=True)))
        return joined.take(np.lexsort((joined.rows, places)))

    def due_by(self, mark: float) -> IntVector:
        """The rows that fall due until a watermark; it changes nothing."""
        after, ripe = self._index.policy.negative_after_s, self._pop_ripe(mark)
        # Put back: this only looks.
        for each in ripe:
            heapq.heappush(self._ripening, each)
        live = [row for _, row in ripe if row >= self._index.first]
        return np.append(NO_ROWS if after is None else self._due(mark - after)[0], np.array(live, np.int64))

    def _due(self, mark: float) -> tuple[IntVector, FloatVector, int]:
        """Rows without a label whose watermark at arrival was at most ``mark``, not looked at yet.

        Returns them, their watermarks, and the first row after them, where the next search starts.
        """
        index = self._index
        start = max(self.next_negative, index.first)
        marks = index["mark"][start - index.first :]
        n = int(np.searchsorted(marks, mark, side="right"))
        at = np.flatnonzero((index["state"][start - index.first :][:n] & 3) == UNLABELLED)
        return start + at, marks[at], start + n

    def _negatives(self, floors: FloatVector, after: float, first: int) -> tuple[Pairs, IntVector]:
        rows, logged_at, self.next_negative = self._due(floors[-1])
        at = np.searchsorted(floors, logged_at)
        # What max_rows would have evicted by then, had the batch been cut there, stays out.
        kept = rows >= first + at + 1 - self._index.most
        rows, due, at = rows[kept], logged_at[kept] + after, at[kept]
        self._index.stats.assumed_negatives += len(rows)
        return self._exchange(rows, np.zeros(len(rows), np.bool_), np.ones(len(rows)), due, due)[0], 2 * at

    def _ripened(self, marks: FloatVector, first: int) -> tuple[Pairs, IntVector]:
        """What was told early of rows that are mature now, as the last label said."""
        index, found = self._index, self._pop_ripe(marks[-1])
        ripe_at, rows = np.array([at for at, _ in found], np.float64), np.array([row for _, row in found], np.int64)
        at = np.searchsorted(marks, ripe_at)
        kept = rows >= np.maximum(first + at + 1 - index.most, index.first)
        rows, ripe_at, at = rows[kept], ripe_at[kept], at[kept]
        held = index.at("state", rows)
        index.buffers["state"][rows - index.base] = held & COUNTED
        weight = index.at("weight", rows) if index.matures else np.ones(0)
        before, yes = ((held & COUNTED) >> 2).astype(np.int64) - 1, np.ones(len(rows), np.bool_)
        return Pairs(rows, (held & 3) == 1, weight, ripe_at, before, ~yes, yes), 2 * at

    def _pop_ripe(self, mark: float) -> list[tuple[float, int]]:
        """Rows that wait and are mature by a watermark, with the time at which they are."""
        out = list[tuple[float, int]]()
        while self._ripening and self._ripening[0][0] <= mark:
            out.append(heapq.heappop(self._ripening))
        return out

    def _ripe_at(self, rows: IntVector) -> FloatVector:
        """When rows are mature; one whose clock was ahead is as old as the watermark was at its arrival."""
        index = self._index
        ts, mark = index.at("ts", rows), index.at("mark", rows)
        base: FloatVector = np.where(mark > -np.inf, np.minimum(ts, mark), ts)
        ripe_at: FloatVector = base + index.at("ripens_s", rows)
        return ripe_at

    def find_waiting(self) -> None:
        """Find the rows that wait by their states, which are of a snapshot, or their times, which were not known."""
        if self._index.matures:
            rows = self._index.first + np.flatnonzero(self._index["state"] & WAITS)
            # A sorted list is a heap.
            self._ripening = sorted(zip(self._ripe_at(rows).tolist(), rows.tolist(), strict=True))


@njit(cache=True, nogil=True)
def exchange(
    states: States, base: int, rows: IntVector, y: BoolVector, now: FloatVector, ripe_at: FloatVector,
    before: States, count: IntVector, told: BoolVector, ripe: BoolVector,
) -> tuple[int, int]:  # fmt: skip
    """Give rows values, in order; an equal value changes nothing.

    What comes before ``ripe_at`` waits, and so do all values that come while the row waits. The last four ``(n,)`` are
    written: the state of each row before, how many labels it had had, whether one said the same, and what is to be
    learned now. Returns how many said the same, and how many of the others are the first of their row.
    """
    repeats = first = 0
    for i in range(len(rows)):
        at = rows[i] - base
        state, value = states[at], np.uint32(y[i])
        before[i], count[i] = state, (state & COUNTED) >> 2
        told[i] = (state & 3) == value
        ripe[i] = now[i] >= ripe_at[i] and (state & WAITS) == 0
        if told[i]:
            repeats += 1
        else:
            first += count[i] == 0
            waits = state & WAITS if not now[i] < ripe_at[i] else WAITS
            states[at] = ((((state & COUNTED) >> 2) + 1) << 2) | value | waits
    return repeats, first
