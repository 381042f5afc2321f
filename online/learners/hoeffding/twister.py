"""Python's own random numbers in compiled code: the Mersenne twister, with its place in an array that is stored.

What River draws from ``random.Random(seed)`` is drawn here from ``seeded(seed)``, number by number.
"""

from __future__ import annotations

import math
import random

import numpy as np

from weir.online.batch import IntVector
from weir.online.jit import njit

WORDS = 624
_MIDDLE, _UPPER, _LOWER, _MATRIX = 397, 0x80000000, 0x7FFFFFFF, 0x9908B0DF


def seeded(seed: int) -> IntVector:
    """The state of a generator that has drawn nothing, ``(WORDS + 1,)``: its words, and how many are used up."""
    return np.array(random.Random(seed).getstate()[1], np.int64)


@njit(cache=True)
def _refill(state: IntVector) -> None:
    for k in range(WORDS):
        word = (state[k] & _UPPER) | (state[(k + 1) % WORDS] & _LOWER)
        state[k] = state[(k + _MIDDLE) % WORDS] ^ (word >> 1) ^ (_MATRIX if word & 1 else 0)
    state[WORDS] = 0


@njit(cache=True)
def _word(state: IntVector) -> int:
    """The next 32 bits."""
    if state[WORDS] >= WORDS:
        _refill(state)
    word = int(state[state[WORDS]])
    state[WORDS] += 1
    word ^= word >> 11
    word ^= (word << 7) & 0x9D2C5680
    word ^= (word << 15) & 0xEFC60000
    return word ^ (word >> 18)


@njit(cache=True)
def uniform(state: IntVector) -> float:
    """``Random.random``.

    >>> state, python = seeded(7), random.Random(7)
    >>> all(uniform(state) == python.random() for _ in range(2000))
    True
    """
    high = _word(state) >> 5
    return (high * 67108864.0 + (_word(state) >> 6)) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def poisson(state: IntVector, rate: float) -> int:
    """A Poisson count (Knuth's way, which is River's)."""
    least, product, count = math.exp(-rate), 1.0, 0
    while product > least:
        count += 1
        product *= uniform(state)
    return count - 1


@njit(cache=True)
def _below(state: IntVector, n: int) -> int:
    """A whole number of 0 to ``n - 1``."""
    bits = 0
    while n >> bits:
        bits += 1
    drawn = _word(state) >> (32 - bits)
    while drawn >= n:
        drawn = _word(state) >> (32 - bits)
    return drawn


@njit(cache=True)
def sample(state: IntVector, pool: IntVector, out: IntVector) -> None:
    """Fill ``out`` with different ones of ``pool``, as ``Random.sample`` does.

    >>> state, python, out = seeded(7), random.Random(7), np.empty(6, np.int64)
    >>> for n in (6, 30, 85, 86, 2000):  # in both ways that it has
    ...     sample(state, np.arange(n), out)
    ...     assert out.tolist() == python.sample(range(n), 6)
    """
    few, k = 21, out.size
    if k > 5:
        few += 4 ** math.ceil(math.log(k * 3) / math.log(4))
    if pool.size <= few:
        left = np.empty(pool.size, np.int64)
        for i in range(pool.size):
            left[i] = pool[i]
        for i in range(k):
            j = _below(state, pool.size - i)
            out[i] = left[j]
            left[j] = left[pool.size - i - 1]
        return
    for i in range(k):
        before = 0
        while before <= i:  # until none of those before is the same
            if before == 0:
                out[i] = pool[_below(state, pool.size)]
            before = before + 1 if before == i or out[before] != out[i] else 0
