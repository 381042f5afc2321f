"""A table of digests, each with a number such as a time, in 24 to 31 bytes an entry. It knows no ids and no clock.

Open addressing with linear probing in one array. It grows by about a third, a piece with each call, so that no call
takes long however much is held. Entries below a floor count as absent; their slots are used again.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector
from weir.online.codec.forms.machine_words import U, jit_inline
from weir.online.jit import njit

Rows = NDArray[np.uint32]
"""``(n, 5) uint32``: four words of a digest and its number, which is never 0."""

NUMBER: Final = 4
ROW_BYTES: Final = 20
MOST_LOAD: Final = 0.85
LEAST_LOAD: Final = 0.65
"""Of a table that has just grown: it then takes in a third more."""
_LOAD_LOADED: Final = 0.75
"""Of a table that a known number of entries was loaded into."""
_LOAD_FORCED: Final = 0.7
"""Of a table that may not grow, after its oldest entries went."""
_LEAST_SLOTS: Final = 64
_MOVED: Final = 16_384
"""Slots that move to a larger table with a call, at least: half a millisecond."""
_SAMPLE: Final = 65_536


class DigestTable:
    """Digests and their numbers.

    Parameters
    ----------
    most_bytes : of the table, but for a second one while it grows. Where that is not enough, entries with the lowest
        numbers go, some of those with equal ones as well.

    Attributes
    ----------
    forced : entries below this number had to go for lack of room; 0 while none had to.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.forced = 0
        self._table: Rows = np.zeros((_LEAST_SLOTS, 5), np.uint32)
        self._used = 0
        """Slots in use, expired ones too."""
        self._old: Rows = self._table[:0]
        """The smaller table, while its entries move."""
        self._moved = self._left = 0
        """Its slots that were looked at, and how many entries may still come from the others."""

    def __len__(self) -> int:
        """Entries, more or less: expired ones count until their slots are used again."""
        return self._used + self._left

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return int(self._table.nbytes + self._old.nbytes)

    def keep(self, rows: Rows, window: int, floor: int) -> BoolVector:
        """Enter rows in their order, but for those that repeat one that is held; ``(n,) bool``, False for these.

        Parameters
        ----------
        rows : to be entered. One whose digest is held with a number more than ``window`` away replaces that.
        floor : what is held below it counts as absent, and so does whatever had to go.
        """
        fresh = np.empty(len(rows), np.bool_)
        fresh.fill(True)  # `np.ones` of few takes several times as long
        for part in self._parts(len(rows)):
            self._make_room(part.stop - part.start, floor)
            self._used += _keep(self._table, self._old, rows[part], U(window), U(max(floor, self.forced)), fresh[part])
        return fresh

    def absent(self, rows: Rows, window: int, floor: int) -> BoolVector:
        """Which rows repeat nothing that is held, ``(n,) bool``; enters none."""
        # `_look` knows one table: what has not moved yet moves now.
        self._move(len(self._old), floor)
        fresh = np.ones(len(rows), np.bool_)
        _look(self._table, rows, U(window), U(max(floor, self.forced)), fresh)
        return fresh

    def load(self, rows: Rows, floor: int) -> None:
        """Enter rows that `keep` found to be fresh, in the same order."""
        for part in self._parts(len(rows)):
            self._make_room(part.stop - part.start, floor)
            self._used += _load(self._table, rows[part], U(max(floor, self.forced)))

    def reserve(self, n: int) -> None:
        """Make room for ``n`` entries in all before they are loaded, as far as it may; the table is empty."""
        size = min(max(int(n / _LOAD_LOADED) + 1, _LEAST_SLOTS), self._most_slots())
        self._table, self._used = np.zeros((size, 5), np.uint32), 0

    def rows(self, floor: int) -> Rows:
        """Every entry from ``floor`` on, by digest."""
        return by_digest(self.copy(floor))

    def copy(self, floor: int) -> Rows:
        """Every entry from ``floor`` on, in no order that means anything."""
        self._move(len(self._old), floor)
        return self._table[self._table[:, NUMBER] >= max(floor, self.forced, 1)]

    def _parts(self, n: int) -> list[slice]:
        """Rows that are entered at once: where the table may not grow they have to fit beside most of what it holds."""
        most = self._most_slots() // 32
        return [slice(at, min(at + most, n)) for at in range(0, n, most)]

    def _most_slots(self) -> int:
        return max(self.most_bytes // ROW_BYTES, _LEAST_SLOTS)

    def _make_room(self, n: int, floor: int) -> None:
        if len(self._old):
            self._move(max(_MOVED, 8 * n), floor)
        if self._used + self._left + n > MOST_LOAD * len(self._table):
            self._resize(n, floor)

    def _resize(self, n: int, floor: int) -> None:
        """Move to a table with room for ``n`` more rows; smaller ones move at once, larger ones bit by bit."""
        self._move(len(self._old), floor)
        floor = max(floor, self.forced)
        live = _live(self._table, U(max(floor, 1)))
        size = min(max(int((live + n) / LEAST_LOAD) + 1, _LEAST_SLOTS), self._most_slots())
        room = int(_LOAD_FORCED * size) - n
        # Only a table that has grown as far as it may is too small here.
        if live + n > MOST_LOAD * size and live > room:
            self.forced = floor = self._cut(room / live, floor)
            live = _live(self._table, U(floor))
        self._old, self._table = self._table, np.zeros((size, 5), np.uint32)
        self._used = self._moved = 0
        self._left = live
        self._move(_MOVED, floor)

    def _cut(self, share: float, floor: int) -> int:
        """A number from which on no more than ``share`` of the entries are."""
        numbers = self._table[:: max(len(self._table) // _SAMPLE, 1), NUMBER]
        numbers = np.sort(numbers[numbers >= max(floor, 1)])
        if len(numbers) == 0:
            return floor + 1
        # From a sample: no call is to take long, however much is held.
        return int(numbers[min(int((1 - share) * len(numbers)), len(numbers) - 1)]) + 1

    def _move(self, slots: int, floor: int) -> None:
        if len(self._old) == 0:
            return
        stop = min(self._moved + slots, len(self._old))
        met, added = _move(self._old, self._moved, stop, self._table, U(max(floor, self.forced, 1)))
        self._used += added
        self._left = max(self._left - met, 0)
        self._moved = stop
        if stop == len(self._old):
            self._old, self._left = self._table[:0], 0


def by_digest(rows: Rows) -> Rows:
    """Rows in the order of their digests."""
    return rows[np.lexsort((rows[:, 0], rows[:, 1]))]


@jit_inline
def _find(table: Rows, rows: Rows, i: int, floor: np.uint64) -> tuple[int, int]:
    """Slot of a row's digest; else an expired one in its chain, or the empty one at its end; and which of the three."""
    size = len(table)  # rows come by number: numba counts references of slices, atomically
    a, b, c, d = rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3]
    # A product in place of a modulus: any size will do, and the table need not grow by twice.
    at: Any = np.int64((U(b) * U(size)) >> U(32))
    spare = -1
    while table[at, 4] != 0:
        if table[at, 0] == a and table[at, 1] == b and table[at, 2] == c and table[at, 3] == d:
            return at, 0
        if spare < 0 and U(table[at, 4]) < floor:
            spare = at
        at += 1
        if at == size:
            at = 0
    return (spare, 1) if spare >= 0 else (at, 2)


@jit_inline
def _repeats(held: np.uint64, number: np.uint64, window: np.uint64, floor: np.uint64) -> bool:
    apart = number - held if number > held else held - number
    return bool(held != 0 and held >= floor and apart <= window)


@jit_inline
def _put(table: Rows, at: int, rows: Rows, i: int) -> None:
    for k in range(5):
        table[at, k] = rows[i, k]


@njit(cache=True, nogil=True)
def _keep(table: Rows, old: Rows, rows: Rows, window: np.uint64, floor: np.uint64, fresh: BoolVector) -> int:
    """Enter what is fresh; how many empty slots that took."""
    used = 0
    for i in range(len(rows)):
        at, kind = _find(table, rows, i, floor)
        held = U(table[at, 4]) if kind == 0 else U(0)
        # While entries move, one may still be in the smaller table alone.
        if kind != 0 and len(old):
            place, of = _find(old, rows, i, floor)
            held = U(old[place, 4]) if of == 0 else U(0)
        if _repeats(held, U(rows[i, 4]), window, floor):
            fresh[i] = False
        else:
            _put(table, at, rows, i)
            used += kind == 2
    return used


@njit(cache=True, nogil=True)
def _live(table: Rows, floor: np.uint64) -> int:
    """How many slots hold an entry from the floor on."""
    live = 0
    for i in range(len(table)):
        if U(table[i, 4]) >= floor:
            live += 1
    return live


@njit(cache=True, nogil=True)
def _look(table: Rows, rows: Rows, window: np.uint64, floor: np.uint64, fresh: BoolVector) -> None:
    for i in range(len(rows)):
        at, kind = _find(table, rows, i, floor)
        fresh[i] = kind != 0 or not _repeats(U(table[at, 4]), U(rows[i, 4]), window, floor)


@njit(cache=True, nogil=True)
def _load(table: Rows, rows: Rows, floor: np.uint64) -> int:
    """Enter rows, the last of a digest counting; how many empty slots that took."""
    used = 0
    for i in range(len(rows)):
        at, kind = _find(table, rows, i, floor)
        if kind == 0 or U(rows[i, 4]) >= floor:
            _put(table, at, rows, i)
            used += kind == 2
    return used


@njit(cache=True, nogil=True)
def _move(old: Rows, start: int, stop: int, table: Rows, floor: np.uint64) -> tuple[int, int]:
    """Enter the live ones of some slots where the table has no newer; how many these are, and the empty slots taken."""
    met = used = 0
    for i in range(start, stop):
        if U(old[i, 4]) >= floor:
            met += 1
            at, kind = _find(table, old, i, floor)
            if kind != 0:
                _put(table, at, old, i)
                used += kind == 2
    return met, used
