"""What was logged with each prediction, in pieces: all of it, or the newest where the rest can be read back.

It knows numbers of rows and what they hold, not which of them a label finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec
import numpy as np

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector

SCORE, FEATURES = 0, 1
"""Columns of the numbers of a row: score, then the features, then what else was logged."""
TEXT_BYTES: Final = 72
"""What an identifier takes in memory, more or less."""
MAX_SPARE: Final = 8
AGAIN_ROWS: Final = 512
"""Rows of a piece that can be read back, at most: many lanes have a few of them each."""

Texts = list[list[str | None]]
"""Event, entity and secondary ids, a list each."""


class StoredPiece(msgspec.Struct, array_like=True, frozen=True):
    """A piece as a snapshot holds it."""

    first: int
    numbers: bytes
    texts: Texts


class Columns(NamedTuple):
    """What was logged with some rows."""

    numbers: FloatMatrix
    """``(n, 1 + F + E) float64``."""
    texts: Texts


@dataclass(slots=True)
class _Piece:
    first: int
    numbers: FloatMatrix
    """``(size, 1 + F + E) float64``, the first ``n`` rows in use."""
    again: bool
    """Whether all of it can be read back."""
    texts: Texts
    n: int = 0

    @property
    def stop(self) -> int:
        return self.first + self.n


Group = tuple[_Piece, IntVector, IntVector]


class LoggedRows:
    """Pieces of consecutive rows, which leave from the front; those that can be read back may leave earlier.

    Parameters
    ----------
    width : numbers of a row.
    texts : identifiers of a row.
    piece_rows : rows of one piece.
    """

    def __init__(self, width: int, texts: int, piece_rows: int) -> None:
        self.width, self.texts, self.piece_rows = width, texts, piece_rows
        self.nbytes = 0
        """What they take in memory, more or less."""
        self._pieces: list[_Piece] = []
        self._firsts = np.empty(0, np.int64)
        self._lent: tuple[IntVector, Columns] | None = None  # rows that were read back, by ascending number
        # Buffers of pieces that left, used again: fresh pages cost more than the copy into them.
        self._spare: list[FloatMatrix] = []

    def __len__(self) -> int:
        """Rows in memory."""
        return sum(piece.n for piece in self._pieces)

    def _bytes_of(self, rows: int) -> int:
        return rows * (8 * self.width + TEXT_BYTES * self.texts)

    def append(self, first: int, parts: Sequence[FloatVector | FloatMatrix], texts: Texts, again: bool) -> None:
        """Add rows from number ``first`` on.

        Parameters
        ----------
        parts : score, features and the rest, next to each other ``(n, width)``.
        texts : ``self.texts`` lists.
        again : whether they can be read back.
        """
        done, n = 0, len(texts[0])
        while done < n:
            piece = self._room(first + done, again)
            take = min(n - done, len(piece.numbers) - piece.n)
            out, column = piece.numbers[piece.n : piece.n + take], 0
            for part in parts:
                if part.ndim > 1 and not part.shape[1]:
                    continue
                values = part[done : done + take, None] if part.ndim == 1 else part[done : done + take]
                out[:, column : column + values.shape[1]] = values
                column += values.shape[1]
            for to, of in zip(piece.texts, texts, strict=True):
                to.extend(of[done : done + take])
            piece.n += take
            done += take
        self.nbytes += self._bytes_of(n)

    def set_column(self, first: int, column: int, values: FloatVector) -> None:
        """Write one column of the rows from number ``first`` on, which are in memory."""
        for piece, at, offset in self.groups(np.arange(first, first + len(values))):
            piece.numbers[offset, column] = values[at]

    def _room(self, row: int, again: bool) -> _Piece:
        """The piece that row goes to."""
        last = self._pieces[-1] if self._pieces else None
        # A piece is of consecutive numbers, so that a row is found by its piece's first, and all of it can be read back
        # or none.
        if last is None or last.n == len(last.numbers) or last.stop != row or last.again != again:
            size = min(self.piece_rows, AGAIN_ROWS) if again else self.piece_rows
            fits = self._spare and len(self._spare[-1]) == size
            numbers = self._spare.pop() if fits else np.empty((size, self.width))
            last = _Piece(row, numbers, again, [[] for _ in range(self.texts)])
            self._set([*self._pieces, last])
        return last

    def _set(self, pieces: list[_Piece]) -> None:
        self._pieces, self._firsts = pieces, np.array([piece.first for piece in pieces], np.int64)

    def groups(self, rows: IntVector) -> list[Group]:
        """Sort rows by the piece that holds them: ``(piece, positions in rows, offsets in the piece)`` each."""
        if len(rows) == 0 or not self._pieces:
            return []
        piece = self._pieces[max(int(self._firsts.searchsorted(rows[0], "right")) - 1, 0)]
        offset = rows - piece.first
        # All rows of a batch are mostly in one piece, and need no sorting then. (NumPy's own extremes of few take ten
        # times as long.)
        places = offset.tolist()
        if min(places) >= 0 and max(places) < piece.n:
            return [(piece, np.arange(len(rows)), offset)]
        number = self._firsts.searchsorted(rows, "right") - 1
        order = np.argsort(number, kind="stable")
        edges = [0, *(np.flatnonzero(np.diff(number[order])) + 1).tolist(), len(rows)]
        groups: list[Group] = []
        for a, b in pairwise(edges):
            at = order[a:b]
            piece = self._pieces[max(int(number[at[0]]), 0)]
            offset = rows[at] - piece.first
            inside = (offset >= 0) & (offset < piece.n)
            if not inside.all():
                at, offset = at[inside], offset[inside]
            if len(at):
                groups.append((piece, at, offset))
        return groups

    def holds(self, rows: IntVector) -> BoolVector:
        """Which rows need not be read back."""
        held = np.zeros(len(rows), np.bool_)
        for _, at, _ in self.groups(rows):
            held[at] = True
        return held

    def lend(self, rows: IntVector, columns: Columns) -> None:
        """Hold rows that were read back until ``trim``; ``rows`` ascend."""
        self._lent = (rows, columns) if len(rows) else None

    def gather(self, rows: IntVector) -> tuple[Columns, BoolVector | None]:
        """Copy what was logged with ``rows``; and which of them there are, the others being left blank.

        ``None`` says that all are.
        """
        groups, n = self.groups(rows), len(rows)
        if len(groups) == 1 and len(groups[0][1]) == n:
            piece, _, offset = groups[0]
            return Columns(piece.numbers[offset], texts_at(piece.texts, offset)), None
        numbers, found = np.empty((n, self.width)), np.zeros(n, np.bool_)
        texts: Texts = [[None] * n for _ in range(self.texts)]
        for piece, at, offset in groups:
            numbers[at], found[at] = piece.numbers[offset], True
            _copy(piece.texts, offset, texts, at)
        if self._lent is not None and not found.all():
            (held, lent), left = self._lent, np.flatnonzero(~found)
            # A row beyond all that were lent finds no place, and is compared with the last one.
            offset = np.minimum(np.searchsorted(held, rows[left]), len(held) - 1)
            known = held[offset] == rows[left]
            at, offset = left[known], offset[known]
            numbers[at], found[at] = lent.numbers[offset], True
            _copy(lent.texts, offset, texts, at)
        return Columns(numbers, texts), found

    def leave(self, until: int) -> None:
        """Forget pieces of rows before ``until``."""
        if self._pieces[:-1] and self._pieces[0].stop <= until:
            self._drop([piece for piece in self._pieces[:-1] if piece.stop <= until])

    def trim(self, limit: int) -> None:
        """Give back what was lent, and the oldest pieces that can be read back, down to ``limit`` bytes."""
        self._lent = None
        surplus = self.nbytes - limit
        if surplus <= 0:
            return
        gone: list[_Piece] = []
        # Never the last piece: rows are still being added to it.
        for piece in self._pieces[:-1]:
            if surplus <= 0:
                break
            if piece.again:
                gone.append(piece)
                surplus -= self._bytes_of(piece.n)
        if gone:
            self._drop(gone)

    def _drop(self, gone: list[_Piece]) -> None:
        left = {id(piece) for piece in gone}
        for piece in gone:
            self.nbytes -= self._bytes_of(piece.n)
            if len(self._spare) < (1 if piece.again else MAX_SPARE):
                self._spare.append(piece.numbers)
        self._set([piece for piece in self._pieces if id(piece) not in left])

    def snapshot(self) -> list[StoredPiece]:
        """What cannot be read back."""
        return [
            StoredPiece(piece.first, piece.numbers[: piece.n].tobytes(), [list(column) for column in piece.texts])
            for piece in self._pieces
            if not piece.again
        ]

    def restore(self, pieces: Sequence[StoredPiece]) -> None:
        """Replace everything by a snapshot."""
        self._set([])
        self._lent, self.nbytes = None, 0
        for stored in pieces:
            numbers = np.frombuffer(stored.numbers).reshape(-1, self.width)
            self.append(stored.first, [numbers], stored.texts, again=False)


def texts_at(texts: Texts, rows: IntVector) -> Texts:
    """The identifiers of some rows."""
    at = rows.tolist()
    return [[column[i] for i in at] for column in texts]


def _copy(of: Texts, offset: IntVector, to: Texts, at: IntVector) -> None:
    where, which = at.tolist(), offset.tolist()
    for target, source in zip(to, of, strict=True):
        for i, k in zip(where, which, strict=True):
            target[i] = source[k]
