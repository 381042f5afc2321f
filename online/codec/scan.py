"""One look at the bytes of a batch of JSON records, before a parser sees them. It knows bytes, not the wire format.

A parser that is handed many records in one call can be fooled in ways that it cannot see: a record may hold a comma
at its top level, or leave a string open that the next record closes, and so add, swallow or shift others. This scan
marks every such record as *suspect*, and also what the parsers in use let through: repeated keys, escaped control
characters, half surrogate pairs, numbers of absurd length. A record that is not suspect begins and ends outside of
any string, object or array and is one object; a suspect one may still be good, but has to be judged by itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, IntVector
from weir.online.jit import njit

MAX_NUMBER_CHARS = 64
"""A number, literal or run of spaces outside of strings that is longer than this is suspect."""

# Four times the keys that the largest map of the contract may have.
_SLOTS = 1024
# Keys that were made to collide cost no more than this, and their record is judged by itself.
_MAX_PROBES = 24
_QUOTE, _BACKSLASH, _COLON, _COMMA = ord('"'), ord("\\"), ord(":"), ord(",")
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = ord("{"), ord("}"), ord("["), ord("]")
_SPACES = b" \t\n\r"
_U, _SIMPLE_ESCAPES = ord("u"), b'"\\/'


def _table(of: bytes) -> NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)
    table[np.frombuffer(of, np.uint8)] = True
    return table


_IN_STRING = _table(b'"\\' + bytes(range(32)) + b"\x7f\xc2")
_STRUCTURE = _table(b'"{}[]:,')
_IS_SPACE = _table(_SPACES)
_IS_SIMPLE = _table(_SIMPLE_ESCAPES)
_HEX = np.full(256, -1, np.int64)
for _digit in b"0123456789abcdefABCDEF":
    _HEX[_digit] = int(chr(_digit), 16)


@njit(cache=True, nogil=True, inline="always")
def _unit(buf: NDArray[np.uint8], at: int, end: int) -> int:
    """Return the UTF-16 unit of the ``u`` escape that starts at ``at``, or -1."""
    if at + 6 > end or buf[at] != _BACKSLASH or buf[at + 1] != _U:
        return -1
    unit = 0
    for k in range(at + 2, at + 6):
        if _HEX[buf[k]] < 0:
            return -1
        unit = unit * 16 + _HEX[buf[k]]
    return unit


@njit(cache=True, nogil=True, inline="always")  # halves the cost of a scan
def _string_end(buf: NDArray[np.uint8], at: int, end: int) -> tuple[int, bool, bool]:
    """Find the closing quote of the string that opens at ``at``: (its index or ``end``, suspect, has escapes)."""
    j = at + 1
    suspect = False
    escaped = False
    while j < end:
        if not _IN_STRING[buf[j]]:
            j += 1
            continue
        c = buf[j]
        if c == _QUOTE:
            return j, suspect, escaped
        if c == _BACKSLASH:
            escaped = True
            unit = _unit(buf, j, end)
            if unit >= 0:
                j += 6
                if 0xD800 <= unit < 0xDC00:
                    low = _unit(buf, j, end)
                    suspect |= not (0xDC00 <= low < 0xE000)
                    j += 6 if low >= 0 else 0
                else:
                    suspect |= unit < 0x20 or 0x7F <= unit < 0xA0 or 0xDC00 <= unit < 0xE000
            else:
                suspect |= j + 1 >= end or not _IS_SIMPLE[buf[j + 1]]
                j += 2
        else:  # a raw control character, DEL, or the lead byte of U+0080..U+00BF
            suspect |= c != 0xC2 or j + 1 >= end or buf[j + 1] < 0xA0
            j += 1
    return end, True, escaped


@njit(cache=True, nogil=True, inline="always")  # halves the cost of a scan
def _repeats(
    buf: NDArray[np.uint8],
    start: int,
    size: int,
    stamp: int,
    level: int,
    stamps: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> bool:
    """Remember a key of the object ``stamp``; True where it was there already, or where that takes too long to say."""
    last = start + size - 1
    # Of a key's ends and size, not of all of it: what collides is compared anyway.
    h = size * 131 + int(buf[start]) * 257 + int(buf[last]) * 31
    if size >= 4:
        h += int(buf[last - 1]) * 337 + int(buf[last - 2]) * 769 + int(buf[last - 3]) * 41
    slot = h % _SLOTS
    for _ in range(_MAX_PROBES):
        if stamps[level, slot] != stamp:
            stamps[level, slot], starts[level, slot], sizes[level, slot] = stamp, start, size
            return False
        if sizes[level, slot] == size:
            k = 0
            while k < size and buf[starts[level, slot] + k] == buf[start + k]:
                k += 1
            if k == size:
                return True
        slot = (slot + 1) % _SLOTS
    return True


@njit(cache=True, nogil=True)
def _scan_records(buf: NDArray[np.uint8], sizes: NDArray[np.int64], suspects: NDArray[np.bool_]) -> None:
    stamps = np.zeros((2, _SLOTS), np.int64)  # one table of keys for the record, one for the maps inside it
    key_starts = np.empty((2, _SLOTS), np.int64)
    key_sizes = np.empty((2, _SLOTS), np.int64)
    # Tables are not emptied for each record: an entry with another stamp is none.
    stamp = 0
    begin = 0
    for r in range(sizes.size):
        end = begin + sizes[r]
        i = begin
        depth = 0
        objects = 0
        suspect = False
        stamp += 1
        outer = stamp
        while i < end and not suspect:
            c = buf[i]
            if c == _QUOTE:
                close, suspect, escaped = _string_end(buf, i, end)
                after = close + 1
                while after < end and _IS_SPACE[buf[after]]:
                    after += 1
                if after < end and buf[after] == _COLON and depth > 0:
                    # An escape may spell a key that is there already in other bytes.
                    if escaped or depth > 2 or close == i + 1:
                        suspect = True
                    elif not suspect:
                        level = depth - 1
                        of, size = outer if level == 0 else stamp, close - i - 1
                        suspect = _repeats(buf, i + 1, size, of, level, stamps, key_starts, key_sizes)
                suspect |= depth == 0
                i = after
            elif c in (_OPEN, _OPEN_LIST):
                if depth == 0:
                    objects += 1
                    suspect = c != _OPEN
                depth += 1
                stamp += 1
                suspect |= depth > 2
                if depth == 1:
                    outer = stamp
                i += 1
            elif c in (_CLOSE, _CLOSE_LIST):
                depth -= 1
                suspect = depth < 0
                i += 1
            elif c in (_COMMA, _COLON):
                suspect = depth == 0
                i += 1
            elif _IS_SPACE[c]:
                i += 1
            else:
                start = i
                while i < end and not _STRUCTURE[buf[i]]:
                    i += 1
                suspect = depth == 0 or i - start > MAX_NUMBER_CHARS
        suspects[r] = suspect or depth != 0 or objects != 1
        begin = end + 1  # behind the comma


def find_suspects(joined: bytes, sizes: IntVector) -> BoolVector:
    """Mark the records that cannot be trusted to a parser of many.

    Parameters
    ----------
    joined : the records one after the other with a comma between them.
    sizes : ``(n,) int64``, bytes of each record.

    Returns
    -------
    ``(n,) bool``, True where a record is suspect: it does not begin and end as exactly one object, repeats a key,
    has an escaped or raw control character or half a surrogate pair in a string, a token longer than
    ``MAX_NUMBER_CHARS``, an escape in a key, or nests deeper than the contract's maps. What a False says nothing
    about: grammar, types and limits, and whether the bytes are UTF-8.

    >>> records = [b'{"a":1}', b'{"a":1},{"a":2}', b'{"a":"', b'"}', b'{"a":1,"a":2}', b""]
    >>> find_suspects(b",".join(records), np.array([len(r) for r in records])).tolist()
    [False, True, True, True, True, True]
    """
    suspects = np.zeros(sizes.size, np.bool_)
    _scan_records(np.frombuffer(joined, np.uint8), sizes, suspects)
    return suspects
