"""Digests of identifiers: 16 bytes each, so that a memory of ids costs the same however long they are.

SipHash-2-4 with 128 bits (Aumasson and Bernstein, 2012). Two of a billion ids meet with a chance below 1e-20.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weir.online.codec.forms.machine_words import Bytes, U, jit_inline, word
from weir.online.jit import njit

Digests = NDArray[np.uint64]
"""``(n, 2) uint64``."""
State = tuple[np.uint64, np.uint64, np.uint64, np.uint64]

# Part of every stored state: another key would know nothing of what was stored.
_KEY = np.array([0x5765_6972_2069_6473, 0x6F66_2065_7665_6E74], np.uint64)

# The kernel reads whole words.
_PADDING = bytes(8)


def digests(ids: Sequence[str]) -> Digests:
    """The digest of each id's UTF-8 bytes, ``(n, 2) uint64``.

    >>> digests(["a", "b", "a"])[:, 0].tolist() == digests(["a", "b", "a"])[[2, 1, 0], 0].tolist()
    True
    """
    raw, sizes = _joined(ids)
    out = np.empty((len(ids), 2), np.uint64)
    _digest_rows(raw, sizes, _KEY, out)
    return out


def pair_digests(first: Sequence[str | None] | None, second: Sequence[str], key: NDArray[np.uint64] = _KEY) -> Digests:
    """The digest of each pair of texts, ``(n, 2) uint64``: of their lengths in bytes, then of both, padded with zeros.

    So no two pairs are the same bytes. ``first`` may be absent, in all pairs or in some: that is the empty text.

    >>> a, b = pair_digests(["ab", "a"], ["c", "bc"]).tolist()
    >>> a == b, pair_digests(None, ["c"]).tolist() == pair_digests([None], ["c"]).tolist()
    (False, True)
    """
    if first is None:
        first = [""] * len(second)
    elif None in first:
        first = [text or "" for text in first]
    texts: list[Any] = [*first, *second]
    raw, sizes = _joined(texts)
    out = np.empty((len(second), 2), np.uint64)
    _digest_pairs(raw, sizes, key, out)
    return out


def _joined(texts: Sequence[str]) -> tuple[Bytes, NDArray[np.int64]]:
    """The UTF-8 bytes of all texts, padded, and the number of bytes of each."""
    joined = "".join(texts)
    raw = joined.encode("utf-8", "surrogatepass") + _PADDING
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    # Of ASCII texts characters and bytes are as many: then no text is encoded a second time.
    if not joined.isascii():
        sizes = np.fromiter((len(text.encode("utf-8", "surrogatepass")) for text in texts), np.int64, len(texts))
    return np.frombuffer(raw, np.uint8), sizes


@jit_inline
def _rotated(x: np.uint64, by: int) -> np.uint64:
    return (x << U(by)) | (x >> U(64 - by))


@jit_inline
def _round(v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64) -> State:
    v0 += v1
    v1 = _rotated(v1, 13) ^ v0
    v0 = _rotated(v0, 32)
    v2 += v3
    v3 = _rotated(v3, 16) ^ v2
    v0 += v3
    v3 = _rotated(v3, 21) ^ v0
    v2 += v1
    v1 = _rotated(v1, 17) ^ v2
    v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


@jit_inline
def _begun(key: NDArray[np.uint64]) -> State:
    """SipHash's four words before anything is taken in; the ``0xEE`` marks the variant of 128 bits."""
    v0, v1 = key[0] ^ U(0x736F6D6570736575), key[1] ^ U(0x646F72616E646F6D) ^ U(0xEE)
    return v0, v1, key[0] ^ U(0x6C7967656E657261), key[1] ^ U(0x7465646279746573)


@jit_inline
def _taken(v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64, eight: np.uint64) -> State:
    """The state after eight more bytes: two rounds."""
    v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ eight)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ eight, v1, v2, v3


@jit_inline
def _end(v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64, out: Digests, row: int) -> None:
    """Write both halves of a digest, each after four rounds more."""
    v2 ^= U(0xEE)
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    out[row, 0] = v0 ^ v1 ^ v2 ^ v3
    v1 ^= U(0xDD)
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    out[row, 1] = v0 ^ v1 ^ v2 ^ v3


@njit(cache=True, nogil=True)
def _digest_rows(raw: Bytes, sizes: NDArray[np.int64], key: NDArray[np.uint64], out: Digests) -> None:
    """The digest of each of the texts that lie in ``raw`` one after the other."""
    at = 0
    for row in range(len(sizes)):
        size = sizes[row]
        v0, v1, v2, v3 = _begun(key)
        # One more than the size: SipHash ends in a word with the length even where the text fills its words.
        for start in range(at, at + size + 1, 8):
            eight, left = word(raw, start), at + size - start
            if left < 8:  # the last word ends in the size
                eight = (eight & ((U(1) << U(8 * left)) - U(1))) | (U(size) << U(56))
            v0, v1, v2, v3 = _taken(v0, v1, v2, v3, eight)
        _end(v0, v1, v2, v3, out, row)
        at += size


@njit(cache=True, nogil=True)
def _digest_pairs(raw: Bytes, sizes: NDArray[np.int64], key: NDArray[np.uint64], out: Digests) -> None:
    """The digest of each pair of texts in ``raw``: all the first ones lie there, then all the second ones."""
    n = len(out)
    a, b = 0, sizes[:n].sum()
    for row in range(n):
        v0, v1, v2, v3 = _begun(key)
        length, size = sizes[row], sizes[n + row]
        words = (length + 7) // 8
        total = 1 + words + (size + 7) // 8
        for k in range(total + 1):
            if k == 0:  # the lengths go in first, or ("ab", "c") and ("a", "bc") would be the same bytes
                eight = U(length) | (U(size) << U(32))
            elif k == total:  # SipHash ends in the size of all, modulo 256
                eight = U(total * 8) << U(56)
            else:
                of_first = k <= words
                start = 8 * (k - 1) if of_first else 8 * (k - 1 - words)
                left = (length if of_first else size) - start
                eight = word(raw, (a if of_first else b) + start)
                if left < 8:
                    eight &= (U(1) << U(8 * left)) - U(1)
            v0, v1, v2, v3 = _taken(v0, v1, v2, v3, eight)
        _end(v0, v1, v2, v3, out, row)
        a += length
        b += size
