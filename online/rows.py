"""Rows that come in order and leave in order, as columns, each found again by a digest. They know no meaning.

A row costs the bytes of its columns and some 8 to 12 of the table that finds it; there is no object a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from weir.online.batch import IntVector
from weir.online.codec.forms.machine_words import jit_inline
from weir.online.digests import Digests
from weir.online.jit import njit

Slots = NDArray[np.int32]
"""Numbers of rows, from an origin that is 1; 0 where there is none."""

# Rows that columns have room for at first.
_LEAST: Final = 64
# Columns grow by a quarter, and close up when a quarter has left: a row is copied some five times.
_SLACK: Final = 4
# Slots are int32, half of what int64 would take. Long before a number from the origin passes 2^31 the table is made
# anew from another origin.
_FAR: Final = 1 << 30


class NumberedRows:
    """Columns of rows ``first`` to ``stop``, numbered from 0 on for ever: rows are added behind and leave in front.

    Parameters
    ----------
    columns : type of each, and its width: 0 for a vector, else ``(n, width)``.

    Examples
    --------
    >>> rows = NumberedRows({"ts": (np.float64, 0)})
    >>> rows.add(ts=np.array([1.0, 2.0, 3.0])), rows.leave(2)
    (0, None)
    >>> rows.first, rows.stop, rows["ts"].tolist()
    (2, 3, [3.0])
    """

    def __init__(self, columns: Mapping[str, tuple[DTypeLike, int]]) -> None:
        self.first = self.stop = 0
        self.base = 0
        """Number of the row at the beginning of ``buffers``; ``first`` may be further on."""
        self.buffers: dict[str, NDArray[Any]] = {
            name: np.empty((_LEAST, width) if width else _LEAST, kind) for name, (kind, width) in columns.items()
        }

    def __len__(self) -> int:
        return self.stop - self.first

    def __getitem__(self, column: str) -> NDArray[Any]:
        """One column of every row, a view."""
        return self.buffers[column][self.first - self.base : self.stop - self.base]

    def at(self, column: str, rows: IntVector) -> NDArray[Any]:
        """One column of some rows, a copy."""
        return self.buffers[column][rows - self.base]

    @property
    def nbytes(self) -> int:
        """What the columns take in memory."""
        return sum(buffer.nbytes for buffer in self.buffers.values())

    def reserve(self, n: int) -> None:
        """Make room for ``n`` rows more."""
        size = len(next(iter(self.buffers.values())))
        if self.stop - self.base + n <= size:
            return
        needed = len(self) + n
        # Where enough rows have left, closing up makes the room; the columns keep their size.
        if needed > size - size // _SLACK or needed < size // 4:
            size = max(needed + needed // _SLACK, _LEAST)
        # Into fresh buffers even where the size stays: views that ``frozen`` gave out are of the old ones, and what is
        # written in place would change them.
        for name, old in self.buffers.items():
            self.buffers[name] = buffer = np.empty((size, *old.shape[1:]), old.dtype)
            buffer[: len(self)] = old[self.first - self.base : self.stop - self.base]
        self.base = self.first

    def add(self, **columns: NDArray[Any]) -> int:
        """Add rows, all columns of them; the number of the first."""
        n, first = len(next(iter(columns.values()))), self.stop
        self.reserve(n)
        at = self.stop - self.base
        for name, values in columns.items():
            self.buffers[name][at : at + n] = values
        self.stop += n
        return first

    def leave(self, until: int) -> None:
        """Forget the rows before ``until``."""
        self.first = min(max(self.first, until), self.stop)

    def frozen(self, *changing: str) -> dict[str, NDArray[Any]]:
        """Every column of every row as it is now; those not ``changing`` are views, because rows only come and go."""
        return {name: self[name].copy() if name in changing else self[name] for name in self.buffers}

    def unpacked(self, stored: Mapping[str, bytes]) -> dict[str, NDArray[Any]]:
        """Those of the columns that a snapshot holds, as arrays."""
        known = {name: (self.buffers[name], raw) for name, raw in stored.items() if name in self.buffers}
        return {name: np.frombuffer(raw, of.dtype).reshape(-1, *of.shape[1:]) for name, (of, raw) in known.items()}

    def restore(self, first: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Replace everything by these rows, numbered from ``first``."""
        self.base = self.first = self.stop = first
        self.add(**columns)


class RowIndex:
    """Finds the newest row that has a digest, among rows of a `NumberedRows`.

    Parameters
    ----------
    rows : have the digest in ``column``, ``(n, 2) uint64``.
    """

    def __init__(self, rows: NumberedRows, column: str = "digest") -> None:
        self._rows, self._column = rows, column
        self.slots: Slots = np.zeros(2 * _LEAST, np.int32)
        self.origin, self.used = 0, 0

    @property
    def nbytes(self) -> int:
        """What the table takes in memory."""
        return self.slots.nbytes

    def reserve(self, n: int) -> None:
        """Make room for ``n`` rows more, in the table and in the columns."""
        self._rows.reserve(n)
        # Rows that left keep their slots until the table is made anew, and chains of slots grow fast beyond such a
        # load.
        if self.used + n > 0.7 * len(self.slots) or self._rows.stop + n - self.origin > _FAR:
            self.rebuild(n)

    def clear(self, n: int) -> None:
        """Forget everything, and have room for ``n`` rows from the first on that is left."""
        size = 2 * _LEAST
        while 0.5 * size < n:
            size *= 2
        self.slots, self.origin, self.used = np.zeros(size, np.int32), self._rows.first, 0

    def rebuild(self, n: int = 0) -> None:
        """Make the table anew from the rows that are left, with room for ``n`` more."""
        self.clear(len(self._rows) + n)
        self.enter(self._rows.first)

    def find(self, digests: Digests) -> IntVector:
        """The newest row of each, ``(n,) int64``; -1 where there is none."""
        rows = self._rows
        out = np.empty(len(digests), np.int64)
        find_rows(self.slots, self.origin, rows.buffers[self._column], rows.base, rows.first, digests, out)
        return out

    def enter(self, start: int) -> None:
        """Take in the rows from ``start`` on, for which there is room."""
        rows = self._rows
        self.used += int(enter(self.slots, self.origin, rows.buffers[self._column], rows.base, start, rows.stop))


@jit_inline
def slot_of(slots: Slots, origin: int, held: Digests, base: int, first: int, low: np.uint64, high: np.uint64) -> int:
    """Where a digest is, or would be entered. Rows before ``first`` are nobody's any more."""
    # Sizes are powers of two, and any bits of a digest are as even as others: no division.
    mask = len(slots) - 1
    at: Any = np.int64(low & np.uint64(mask))
    while slots[at] != 0:
        row = origin + slots[at] - 1
        if row >= first and held[row - base, 0] == low and held[row - base, 1] == high:
            break
        at = (at + 1) & mask
    return at  # type: ignore[no-any-return]  # an int64, compiled


@njit(cache=True, nogil=True)
def enter(slots: Slots, origin: int, held: Digests, base: int, start: int, stop: int) -> int:
    """Enter rows ``start`` to ``stop`` in place of older ones of the same digest; how many slots that took."""
    used = 0
    for row in range(start, stop):
        # From ``base`` on, not ``first``: a row that left is still in the columns, and its slot serves the newer row.
        at = slot_of(slots, origin, held, base, base, held[row - base, 0], held[row - base, 1])
        used += slots[at] == 0
        slots[at] = row - origin + 1
    return used


@njit(cache=True, nogil=True)
def find_rows(
    slots: Slots, origin: int, held: Digests, base: int, first: int, digests: Digests, out: IntVector
) -> None:
    """The newest row of each digest, -1 where there is none."""
    for i in range(len(digests)):
        at = slot_of(slots, origin, held, base, first, digests[i, 0], digests[i, 1])
        out[i] = origin + slots[at] - 1 if slots[at] != 0 else -1
