"""Two tables of rows by digest: the first row of each, and all rows of each by time. They know no labels."""

from __future__ import annotations

import numpy as np

from weir.online.batch import BoolVector, FloatVector, IntVector
from weir.online.digests import Digests
from weir.online.jit import njit
from weir.online.rows import RowIndex, Slots, slot_of


class FirstRows(RowIndex):
    """Finds the first row that came of each digest, as long as that is live; what comes then is a repeat.

    Its rows have times ``ts`` and, where it is not always 0, the watermark at each, ``mark``.
    """

    def claim(
        self, digests: Digests, ts: FloatVector, marks: FloatVector, keep_s: float, most: int
    ) -> tuple[IntVector, int]:
        """Add the rows that are neither late nor repeats: which these are, ``(k,)``, and how many were late.

        Parameters
        ----------
        digests, ts, marks : of the rows to come, with the watermark at each.
        keep_s : how far behind the watermark a row is live, by its time or, if that is less, its own watermark.
        most : only the last so many rows are live.
        """
        # Room first: the kernel writes into the table and the columns, and cannot make them larger.
        self.reserve(len(ts))
        rows, keep = self._rows, np.empty(len(ts), np.bool_)
        held = rows.buffers
        late, used = claim(
            digests, ts, marks, keep_s, most, self.slots, self.origin, held[self._column], held["ts"],
            held.get("mark", held["ts"]), rows.base, rows.first, rows.stop, keep,
        )  # fmt: skip
        kept: IntVector = keep.nonzero()[0]
        self.used += used
        rows.stop += len(kept)
        return kept, late


class RowChains(RowIndex):
    """Finds all rows of a digest, by times ``ts``: each row knows the one ``before`` it."""

    def enter(self, start: int) -> None:
        """Take in the rows from ``start`` on, for which there is room."""
        rows, held = self._rows, self._rows.buffers
        of = held[self._column]
        self.used += int(link(self.slots, self.origin, of, held["before"], rows.base, start, rows.stop))

    def between(self, digest: Digests, oldest: int, start: float, end: float) -> IntVector:
        """The rows of a digest ``(1, 2)``, from number ``oldest`` on, with ``start <= ts <= end``; oldest first."""
        rows, held = self._rows, self._rows.buffers
        return chain(int(self.find(digest)[0]), held["before"], held["ts"], rows.base, oldest, start, end)


@njit(cache=True, nogil=True)
def claim(
    digests: Digests,
    ts: FloatVector,
    marks: FloatVector,
    keep_s: float,
    most: int,
    slots: Slots,
    origin: int,
    held: Digests,
    held_ts: FloatVector,
    held_marks: FloatVector,
    base: int,
    first: int,
    stop: int,
    keep: BoolVector,
) -> tuple[int, int]:
    """As `FirstRows.claim`, where there is room; how many were late, and how many slots that took.

    ``held``, ``held_ts`` and ``held_marks`` are columns of the rows, and ``keep (n,)`` receives which were added.
    """
    late = used = 0
    for i in range(len(ts)):
        keep[i] = False
        floor = marks[i] - keep_s
        if ts[i] < floor:
            late += 1
            continue
        at = slot_of(slots, origin, held, base, first, digests[i, 0], digests[i, 1])
        row = origin + slots[at] - 1
        # Judged at this row's own watermark, not at that of the batch's end: so cuts change nothing.
        if slots[at] != 0 and row >= stop - most and min(held_ts[row - base], held_marks[row - base]) >= floor:
            continue
        held[stop - base] = digests[i]
        held_ts[stop - base], held_marks[stop - base] = ts[i], marks[i]
        used += slots[at] == 0
        slots[at] = stop - origin + 1
        stop += 1
        keep[i] = True
    return late, used


@njit(cache=True, nogil=True)
def link(slots: Slots, origin: int, held: Digests, before: IntVector, base: int, start: int, stop: int) -> int:
    """Enter rows ``start`` to ``stop``, each with the one ``before`` it of its digest; how many slots that took."""
    used = 0
    for row in range(start, stop):
        at = slot_of(slots, origin, held, base, base, held[row - base, 0], held[row - base, 1])
        before[row - base] = origin + slots[at] - 1 if slots[at] != 0 else -1
        used += slots[at] == 0
        slots[at] = row - origin + 1
    return used


@njit(cache=True, nogil=True)
def chain(row: int, before: IntVector, ts: FloatVector, base: int, oldest: int, start: float, end: float) -> IntVector:
    """Rows with ``start <= ts <= end`` among ``row`` and those before it of the same digest, oldest first."""
    count, at = 0, row
    # Counted first and then filled in from behind: the chain runs from the newest to the oldest.
    while at >= oldest:
        count += start <= ts[at - base] <= end
        at = before[at - base]
    out, at = np.empty(count, np.int64), row
    while count:
        if start <= ts[at - base] <= end:
            count -= 1
            out[count] = at
        at = before[at - base]
    return out
