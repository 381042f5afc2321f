"""Rows as they are stored: packed rows without their zeros. It knows no columns; all words of a row are treated alike.

Most panes of most entities are empty, and most counts are small. So each eight-byte word of a row has a code of two
bits, and keeps as many bytes as the code says. First come the codes, four a byte, the first in the lowest bits; then
what the words keep, low bytes first.

====  =====  ================================================================
code  bytes  the word
====  =====  ================================================================
0     0      zero
1     2      two halves below 256, such as two counts: the low byte of each
2     4      one whose low half is zero, such as a whole number: the high half
3     8      any other
====  =====  ================================================================

A row that this does not make smaller is stored as it is. So a row that has its full length is always itself, as all
were before.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import IntVector
from weir.online.codec.forms.machine_words import U, jit_inline, put, word
from weir.online.errors import StateError
from weir.online.jit import njit

Rows = NDArray[np.uint8]
Words = NDArray[np.uint64]

SPARE: Final = 40
"""Bytes behind stored rows, read or written by whole words and of no account."""
MOST_WORDS: Final = 0xFFFF
"""Of a row that is stored compactly; a wider one is stored as it is."""
_LOW_HALF: Final = U(0xFFFF_FFFF)
_TWO_SMALL: Final = U(0x0000_00FF_0000_00FF)
_KEPT: Final = np.array([0, 2, 4, 8])
"""Bytes that a word of each code keeps."""
_KEPT_OF_FOUR: Final = np.array([sum(_KEPT[codes >> at & 3] for at in (0, 2, 4, 6)) for codes in range(256)])
# By code, which kept bits stay in their place, and which move up by how much. Without branches, as codes are not to be
# foreseen: half the time.
_STAY: Final = np.array([0, 0xFF, 0, 0xFFFF_FFFF_FFFF_FFFF], np.uint64)
_MOVE: Final = np.array([0, 0xFF00, 0xFFFF_FFFF, 0], np.uint64)
_UP: Final = np.array([0, 24, 32, 0], np.uint64)


def words_of(rows: Rows) -> Words:
    """Rows ``(n, row_bytes)`` as words ``(n, row_bytes / 8)``; a view where they lie behind one another."""
    return np.ascontiguousarray(rows).view(np.uint64)


def compact(rows: Rows) -> tuple[Rows, IntVector]:
    """What is stored of rows.

    Parameters
    ----------
    rows : ``(n, row_bytes) uint8``; ``row_bytes`` is a multiple of 8.

    Returns
    -------
    stored : ``(bytes,) uint8``, one row behind the other.
    sizes : ``(n,) int64``, the bytes of each.

    Examples
    --------
    >>> rows = np.array([[1.5, 0.0, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0]]).view(np.uint8)
    >>> stored, sizes = compact(rows)
    >>> sizes.tolist(), (expand(stored, sizes, 32) == rows).all().item()
    ([13, 1], True)
    """
    n, row_bytes = rows.shape
    stored, sizes = np.empty(n * row_bytes + SPARE, np.uint8), np.empty(n, np.int64)
    return stored[: _compact(words_of(rows), stored, sizes)], sizes


def expand(stored: Rows, sizes: IntVector, row_bytes: int, *, skip: int = 0) -> Rows:
    """Rows ``(n, row_bytes) uint8`` from what is stored of them.

    Parameters
    ----------
    stored, sizes : as ``compact`` gives them.
    row_bytes : of a row; a multiple of 8.
    skip : bytes before each row that are something else; ``sizes`` counts them.

    Raises
    ------
    StateError
        A row that is none of this width.
    """
    rows = np.empty((len(sizes), row_bytes), np.uint8)
    stops = np.cumsum(sizes)
    # Words are read whole, also the last one, of which two bytes may be kept.
    padded = np.append(stored, np.zeros(SPARE, np.uint8))
    fits = len(sizes) == 0 or (int(stops[-1]) == len(stored) and int(sizes.min()) >= skip)
    odd = _expand(padded, stops - sizes + skip, stops, rows.view(np.uint64)) if fits else 0
    if odd < len(sizes):
        raise StateError(f"{int(sizes[odd]) - skip} stored bytes are no row of {row_bytes} B")
    return rows


@jit_inline
def store_row(words: Words, i: int, out: Rows, at: int) -> int:
    """Write what is stored of row ``i`` to ``out`` from ``at`` on; where it ends. There is room, and ``SPARE``."""
    n: int = words.shape[1]
    whole, rest = n // 4, n % 4
    stop = at + 8 * n
    p = at + whole + (rest > 0)
    for c in range(whole):
        out[at + c], p = _keep(words, i, 4 * c, 4, out, p)
        # What gets no smaller is stored as it is, which its length alone tells.
        if p >= stop:
            break
    if p < stop and rest > 0:
        out[at + whole], p = _keep(words, i, 4 * whole, rest, out, p)
    if p < stop and n <= MOST_WORDS:
        return p
    for j in range(n):
        put(out, at + 8 * j, words[i, j])
    return stop


@jit_inline
def _keep(words: Words, i: int, first: int, m: int, out: Rows, p: int) -> tuple[int, int]:
    """Write what ``m`` words keep from ``p`` on; their codes, and where it ends."""
    codes = 0
    for k in range(m):
        w = words[i, first + k]
        code, kept = 3, w
        if w & _LOW_HALF == 0:
            code, kept = 2, w >> U(32)
        if w & ~_TWO_SMALL == 0:
            code, kept = 1, w | w >> U(24)
        if w == 0:
            code = 0
        put(out, p, kept)
        codes |= code << 2 * k
        p += _KEPT[code]
    return codes, p


@njit(cache=True, nogil=True)
def _compact(words: Words, out: Rows, sizes: IntVector) -> int:
    at = 0
    for i in range(len(words)):
        end = store_row(words, i, out, at)
        sizes[i] = end - at
        at = end
    return at


@njit(cache=True, nogil=True)
def _expand(stored: Rows, starts: IntVector, stops: IntVector, words: Words) -> int:
    """Expand every row; which is the first that is none of this width, or how many there are."""
    n: int = words.shape[1]
    whole, rest = n // 4, n % 4
    for i in range(len(words)):
        at, stop = starts[i], stops[i]
        if stop - at == 8 * n:
            for j in range(n):
                words[i, j] = word(stored, at + 8 * j)
            continue
        p = at + whole + (rest > 0)
        end = p
        for c in range(at, min(p, stop)):
            end += _KEPT_OF_FOUR[stored[c]]
        # Before anything is written by it: codes of another width would be read as lengths.
        if end != stop:
            return i
        for c in range(whole):
            p = _give_back(stored, stored[at + c], p, words, i, 4 * c, 4)
        if rest > 0:
            p = _give_back(stored, stored[at + whole], p, words, i, 4 * whole, rest)
    return len(words)


@jit_inline
def _give_back(stored: Rows, codes: np.uint8, p: int, words: Words, i: int, first: int, m: int) -> int:
    """Set ``m`` words to what is kept of them from ``p`` on; where that ends."""
    for k in range(m):
        code, kept = np.int64(codes) >> 2 * k & 3, word(stored, p)
        words[i, first + k] = (kept & _STAY[code]) | (kept & _MOVE[code]) << _UP[code]
        p += _KEPT[code]
    return p
