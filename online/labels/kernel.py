"""What the label join does row by row, compiled: claims of event ids, states of labels, rows of an entity by time."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatVector, IntVector
from weir.online.digests import Digests
from weir.online.jit import njit
from weir.online.rows import Slots, slot_of

UNLABELLED: Final = 2
"""Value of a row: 0, 1, or this."""

WAITS: Final = 1 << 31
"""Bit of a row whose label came before the row was mature, and is not learned yet."""
COUNTED: Final = WAITS - 1

States = NDArray[np.uint32]
"""Of each row, its value, from bit 2 on how many labels it has had, and `WAITS`."""


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
    """Add rows that are neither late nor repeats of a live one; how many were late, and how many slots that took.

    Parameters
    ----------
    digests, ts, marks : of the rows to come, with the watermark at each.
    keep_s : how far behind the watermark a row is live, by its time or, if that is less, its own watermark.
    most : only the last so many rows are live.
    slots, origin, held, base, first, stop : the table and its rows, with room for all.
    held_ts, held_marks : times and watermarks of its rows.
    keep : (n,) receives which were added.
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
def exchange(states: States, places: IntVector, values: States, early: BoolVector, before: States) -> None:
    """Give rows values, in order, and tell the state of each before; an equal value changes nothing.

    What is ``early`` waits, and so do all values that come while the row waits.
    """
    for i in range(len(places)):
        state = states[places[i]]
        before[i] = state
        if (state & 3) != values[i]:
            waits = state & WAITS if not early[i] else WAITS
            states[places[i]] = ((((state & COUNTED) >> 2) + 1) << 2) | values[i] | waits


@njit(cache=True, nogil=True)
def chain(row: int, before: IntVector, ts: FloatVector, base: int, oldest: int, start: float, end: float) -> IntVector:
    """Rows with ``start <= ts <= end`` among ``row`` and those before it of the same digest, oldest first."""
    count, at = 0, row
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


@njit(cache=True, nogil=True)
def expired(ts: FloatVector, first: int, floor: float, oldest: int) -> int:
    """The first row from ``first`` on, with times ``ts``, that is neither before ``floor`` nor before ``oldest``."""
    at = 0
    while at < len(ts) and (first + at < oldest or ts[at] < floor):
        at += 1
    return first + at
