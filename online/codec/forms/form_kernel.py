"""Fills in forms and reads them back, a batch at a time. A form is a table of operations over its literal bytes.

The reader takes a record only where it is, byte for byte, one that the writer could have made, but for how numbers are
written; so whatever it takes is valid, and the rest is another's to judge. Texts are ASCII there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.codec.forms.floats import read_float, write_float, write_whole
from weir.online.codec.forms.machine_words import Bytes, U, jit_inline, put, word
from weir.online.jit import njit

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]

LITERAL, TEXT, MAYBE_TEXT, NUMBER, MAYBE_NUMBER, COUNT, FLAG = range(7)
SEPARATOR = 0
"""Ends a text in a column of texts."""

_ONES, _HIGHS = U(0x0101_0101_0101_0101), U(0x8080_8080_8080_8080)
_QUOTE, _BACKSLASH, _COMMA, _MINUS, _NOUGHT, _NINE = (ord(c) for c in '"\\,-09')
_QUOTES, _BACKSLASHES, _SPACES = _ONES * U(_QUOTE), _ONES * U(_BACKSLASH), _ONES * U(ord(" "))
_DELETES = _ONES * U(0x7F)
_NULL, _TRUE, _FALSE = (U(int.from_bytes(text, "little")) for text in (b"null", b"true", b"false"))
_NAN_BITS = U(0x7FF8_0000_0000_0000)
_EXPONENT = U(0x7FF0_0000_0000_0000)
_ESCAPES = np.zeros(32, np.uint8)
for _code, _letter in zip(b"\b\t\n\f\r", b"btnfr", strict=True):
    _ESCAPES[_code] = _letter
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_U = ord("u")
# So many digits always fit into an int64.
_MAX_COUNT_CHARS = 18


@njit(cache=True, nogil=True)
def write_rows(
    ops: Ints, literals: Bytes, texts: Bytes, places: Ints, numbers: Words, counts: Ints, out: Bytes, ends: Ints
) -> None:
    """Write ``ends.size`` records one behind the other.

    Parameters
    ----------
    ops : (m, 4) operation, start and size of its literal, the most characters of its text.
    texts : the columns of texts, each text with a ``SEPARATOR`` behind it.
    places : (S,) where the next text of each column starts; moved on.
    numbers : (n, C) bits of floats.
    counts : (n, I) whole numbers and flags.
    out : large enough.
    ends : (n,) receives the position behind each record.
    """
    at = 0
    for row in range(ends.size):
        text = number = count = 0
        some = False
        for m in range(len(ops)):
            op, start, size = ops[m, 0], ops[m, 1], ops[m, 2]
            if op == LITERAL:
                # A literal stands between two objects: the next one's first member has no comma before it.
                some = False
                at = _copy(literals, start, size, out, at)
            elif op in (NUMBER, MAYBE_NUMBER):
                bits = numbers[row, number]
                number += 1
                if op == MAYBE_NUMBER and bits & _EXPONENT == _EXPONENT:
                    put(out, at, _NULL)
                    at += 4
                else:
                    at = write_float(out, at, bits)
            elif op == TEXT:
                at, places[text] = _write_text(texts, places[text], out, at)
                text += 1
            elif op == MAYBE_TEXT:
                if texts[places[text]] == SEPARATOR:
                    places[text] += 1
                else:
                    if some:
                        out[at] = _COMMA
                        at += 1
                    some = True
                    at = _copy(literals, start, size, out, at)
                    at, places[text] = _write_text(texts, places[text], out, at)
                text += 1
            else:
                value = counts[row, count]
                count += 1
                if op == COUNT:
                    at = write_whole(out, at, U(value))
                else:
                    put(out, at, _TRUE if value else _FALSE)
                    at += 4 if value else 5
        ends[row] = at


@jit_inline
def _copy(literals: Bytes, start: int, size: int, out: Bytes, at: int) -> int:
    for i in range(0, size, 8):
        put(out, at + i, word(literals, start + i))
    return at + size


@jit_inline
def _any_zero(eight: U) -> U:
    return (eight - _ONES) & ~eight & _HIGHS


@jit_inline
def _special(eight: U) -> U:
    """Not 0 where one of eight bytes is a quote, a backslash or below a space."""
    return _any_zero(eight ^ _QUOTES) | _any_zero(eight ^ _BACKSLASHES) | ((eight - _SPACES) & ~eight & _HIGHS)


@jit_inline
def _write_text(texts: Bytes, place: int, out: Bytes, at: int) -> tuple[int, int]:
    """Write the text at ``place`` in quotes; returns the position behind it and the place of the next text."""
    out[at] = _QUOTE
    at += 1
    while True:
        eight = word(texts, place)
        while _special(eight) == U(0):
            put(out, at, eight)
            at += 8
            place += 8
            eight = word(texts, place)
        c = texts[place]
        # Small letters, and all bytes of what is not ASCII, pass by the first comparison.
        while c > _BACKSLASH or (c >= 0x20 and c not in (_QUOTE, _BACKSLASH)):
            out[at] = c
            at += 1
            place += 1
            c = texts[place]
        place += 1
        if c == SEPARATOR:
            out[at] = _QUOTE
            return at + 1, place
        out[at] = _BACKSLASH
        if c >= 0x20:
            out[at + 1] = c
            at += 2
        elif _ESCAPES[c]:
            out[at + 1] = _ESCAPES[c]
            at += 2
        else:
            out[at + 1], out[at + 2], out[at + 3] = _U, _NOUGHT, _NOUGHT
            out[at + 4], out[at + 5] = _HEX[c >> 4], _HEX[c & 15]
            at += 6


@njit(cache=True, nogil=True)
def read_rows(
    ops: Ints,
    literals: Bytes,
    buf: Bytes,
    sizes: Ints,
    taken: NDArray[np.bool_],
    texts: Bytes,
    numbers: Words,
    counts: Ints,
) -> tuple[int, int]:
    """Read the records that are filled-in forms; returns how many, and how many bytes of ``texts`` there are.

    Parameters
    ----------
    buf : the records with one byte between them, and ``SLACK`` bytes behind them.
    sizes : (n,) bytes of each.
    taken : (n,) records that were read as another form; those read as this one are added.
    texts : receives the texts of a record, and of the next, each with a ``SEPARATOR`` behind it; none is nothing.
    numbers, counts : (n, C) and (n, I) receive the values; null becomes NaN.

    The outputs are filled from the front, a row for each record read.
    """
    row, begin, place = 0, 0, 0
    for r in range(sizes.size):
        end = begin + sizes[r]
        if not taken[r]:
            behind = _read_one(ops, literals, buf, begin, end, texts, place, numbers[row], counts[row])
            if behind >= 0:
                place = behind
                taken[r] = True
                row += 1
        begin = end + 1
    return row, place


@njit(cache=True, nogil=True)
def _read_one(
    ops: Ints, literals: Bytes, buf: Bytes, at: int, end: int, texts: Bytes, place: int, numbers: Words, counts: Ints
) -> int:
    """Read one record; returns the place behind its texts, -1 where it is not this form."""
    number = count = 0
    some = False
    for m in range(len(ops)):
        op, start, size, limit = ops[m, 0], ops[m, 1], ops[m, 2], ops[m, 3]
        if op == LITERAL:
            some = False
            if not _matches(literals, start, size, buf, at, end):
                return -1
            at += size
        elif op in (NUMBER, MAYBE_NUMBER):
            # This may look behind the record, where there are bytes: what ends in the middle of it then ends behind
            # ``end``.
            if op == MAYBE_NUMBER and word(buf, at) & U(0xFFFF_FFFF) == _NULL:
                bits, at = _NAN_BITS, at + 4
            else:
                bits, at = read_float(buf, at, end)
                if at < 0:
                    return -1
            numbers[number] = bits
            number += 1
        elif op in (TEXT, MAYBE_TEXT):
            if op == MAYBE_TEXT:
                key = at + 1 if some else at
                if (some and buf[at] != _COMMA) or not _matches(literals, start, size, buf, key, end):
                    texts[place] = SEPARATOR
                    place += 1
                    continue
                some, at = True, key + size
            behind = _read_text(buf, at, end, texts, place)
            if not 0 < behind - place <= limit:
                return -1
            at += behind - place + 2
            texts[behind] = SEPARATOR
            place = behind + 1
        elif op == COUNT:
            value, at = _read_count(buf, at, end)
            if at < 0:
                return -1
            counts[count] = value
            count += 1
        else:
            eight = word(buf, at)
            flag = eight & U(0xFFFF_FFFF) == _TRUE
            if not flag and eight & U(0xFF_FFFF_FFFF) != _FALSE:
                return -1
            counts[count] = flag
            count += 1
            at += 4 if flag else 5
    return place if at == end else -1


@jit_inline
def _matches(literals: Bytes, start: int, size: int, buf: Bytes, at: int, end: int) -> bool:
    if at + size > end:
        return False
    i = 0
    while i + 8 <= size:
        if word(literals, start + i) != word(buf, at + i):
            return False
        i += 8
    # Of the last words only the first bytes are compared: what lies behind is the next part's.
    rest = U(8 * (size - i))
    return bool(rest == U(0) or (word(literals, start + i) ^ word(buf, at + i)) << (U(64) - rest) == U(0))


@jit_inline
def _read_text(buf: Bytes, at: int, end: int, texts: Bytes, place: int) -> int:
    """Copy the plain ASCII text whose quotes open at ``at``; returns the place behind it, -1 where it is not one."""
    if at >= end or buf[at] != _QUOTE:
        return -1
    at += 1
    eight = word(buf, at)
    while at + 8 <= end and (_special(eight) | _any_zero(eight ^ _DELETES) | (eight & _HIGHS)) == U(0):
        put(texts, place, eight)
        at += 8
        place += 8
        eight = word(buf, at)
    while at < end and 0x20 <= buf[at] < 0x7F and buf[at] != _QUOTE and buf[at] != _BACKSLASH:
        texts[place] = buf[at]
        at += 1
        place += 1
    return place if at < end and buf[at] == _QUOTE else -1


@jit_inline
def _read_count(buf: Bytes, at: int, end: int) -> tuple[int, int]:
    """Read a whole number as (value, position behind it or -1)."""
    first, value = at, 0
    while at < end and _NOUGHT <= buf[at] <= _NINE:
        value = value * 10 + int(np.int64(buf[at])) - _NOUGHT
        at += 1
    size = at - first
    if size == 0 or size > _MAX_COUNT_CHARS or (size > 1 and buf[first] == _NOUGHT):
        return 0, -1
    return value, at
