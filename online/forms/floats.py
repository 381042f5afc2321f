"""Floats as JSON text and back, exactly: the shortest digits that read back as the same float64, as msgspec writes them.

Writing is Schubfach (Raffaello Giulietti, "The Schubfach way to render doubles", 2021), reading is Eisel-Lemire (Daniel
Lemire, "Number parsing at a gigabyte per second", 2021). Both multiply by a power of ten rounded to 128 bits. Floats
are passed as their 64 bits; what the reader is not sure of it leaves to another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
U = np.uint64

MAX_FLOAT_CHARS = 25
"""``-2.2250738585072014e-308`` has 24."""
_MAX_DIGITS = 19
_LOW_10, _HIGH_10 = -342, 324
_EXACT_10 = 22
"""10 to this power is a float64 without error."""


def _power(e: int) -> int:
    """The 128 leading bits of 10**e, rounded up."""
    if e >= 0:
        power = 10**e
        shift = 128 - power.bit_length()
        return power << shift if shift >= 0 else -(-power >> -shift)
    power = int(10**-e)
    return int(-(-(1 << (127 + power.bit_length())) // power))


_POWERS = [_power(e) for e in range(_LOW_10, _HIGH_10 + 1)]
_TOP = np.array([power >> 64 for power in _POWERS], np.uint64)
_REST = np.array([power & (2**64 - 1) for power in _POWERS], np.uint64)
_TEN = np.array([10**e for e in range(_MAX_DIGITS + 1)], np.uint64)
_PAIRS = np.frombuffer(b"".join(b"%02d" % i for i in range(100)), np.uint8)
_TEN_FLOAT = np.array([10.0**e for e in range(_EXACT_10 + 1)])

_I128 = ir.IntType(128)

_ZERO, _ONE, _TWO, _FOUR, _TENS = U(0), U(1), U(2), U(4), U(10)
_SIGN, _HIDDEN = U(1 << 63), U(1 << 52)
_MANTISSA = _HIDDEN - _ONE
_EXPONENT = U(0x7FF)
_POINT, _MINUS, _PLUS, _NOUGHT, _NINE, _SMALL_E, _LARGE_E = (ord(c) for c in ".-+09eE")


@intrinsic
def _high(typing: Any, a: Any, b: Any) -> Any:  # noqa: ARG001 - numba passes its typing context
    """The upper half of the 128 bits of a product."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        product = builder.mul(builder.zext(args[0], _I128), builder.zext(args[1], _I128))
        return builder.trunc(builder.lshr(product, ir.Constant(_I128, 64)), args[0].type)

    return types.uint64(types.uint64, types.uint64), build


@intrinsic
def _leading_zeros(typing: Any, a: Any) -> Any:  # noqa: ARG001
    """How many of the 64 bits before the first one are zero."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), build


@njit(cache=True, nogil=True)
def _round_to_odd(power: int, c: U) -> U:
    """``c`` times 10**(power + _LOW_10), scaled; the lowest bit says whether anything was cut off."""
    low = _TOP[power] * c
    carried = low + _high(_REST[power], c)
    top = _high(_TOP[power], c)
    if carried < low:
        top += _ONE
    return top | _ONE if carried > _ONE else top


@njit(cache=True, nogil=True)
def _shortest(mantissa: U, exponent: int) -> tuple[U, int]:
    """Digits d and k with d * 10**k in the interval that rounds to the float, as few and as near as can be."""
    c = mantissa | _HIDDEN if exponent else mantissa
    q = (exponent if exponent else 1) - 1075
    closer = mantissa == _ZERO and exponent > 1  # the float below is at half the distance
    k = (q * 1262611 - (524031 if closer else 0)) >> 22
    h = U(q + ((-k * 1741647) >> 19) + 1)
    power = -k - _LOW_10
    odd = c & _ONE
    lower = _round_to_odd(power, ((_FOUR * c) - (_ONE if closer else _TWO)) << h) + odd
    middle = _round_to_odd(power, (_FOUR * c) << h)
    upper = _round_to_odd(power, ((_FOUR * c) + _TWO) << h) - odd
    s = middle >> _TWO
    if s >= _TENS:
        fewer = s // _TENS
        below, above = lower <= U(40) * fewer, U(40) * fewer + U(40) <= upper
        if below != above:
            return fewer + (_ONE if above else _ZERO), k + 1
    below, above = lower <= _FOUR * s, _FOUR * s + _FOUR <= upper
    if below != above:
        return s + (_ONE if above else _ZERO), k
    half = _FOUR * s + _TWO
    up = middle > half or (middle == half and (s & _ONE) != _ZERO)
    return s + (_ONE if up else _ZERO), k


@njit(cache=True, nogil=True)
def _strip(d: U, k: int) -> tuple[U, int]:
    """Take the zeros at the end of d, which is not 0, into k. Constant divisors are multiplications."""
    if d % U(10) != _ZERO:
        return d, k
    if d % U(10**8) == _ZERO:
        d, k = d // U(10**8), k + 8
    if d % U(10**4) == _ZERO:
        d, k = d // U(10**4), k + 4
    if d % U(10**2) == _ZERO:
        d, k = d // U(10**2), k + 2
    if d % U(10) == _ZERO:
        d, k = d // U(10), k + 1
    return d, k


@njit(cache=True, nogil=True)
def write_digits(buf: Bytes, at: int, d: U) -> int:
    """Write a whole number; returns the position behind it."""
    count = 1
    while count <= _MAX_DIGITS and d >= _TEN[count]:
        count += 1
    i = at + count
    if d >= U(10**8):
        top = d // U(10**8)
        _write_eight(buf, i - 8, d - top * U(10**8))
        d = top
        i -= 8
        if d >= U(10**8):
            top = d // U(10**8)
            _write_eight(buf, i - 8, d - top * U(10**8))
            d = top
            i -= 8
    while d >= U(100):
        rest = d // U(100)
        pair = _TWO * (d - rest * U(100))
        buf[i - 1], buf[i - 2] = _PAIRS[pair + _ONE], _PAIRS[pair]
        d = rest
        i -= 2
    if d >= _TENS:
        buf[i - 1], buf[i - 2] = _PAIRS[_TWO * d + _ONE], _PAIRS[_TWO * d]
    else:
        buf[i - 1] = U(_NOUGHT) + d
    return at + count


@njit(cache=True, nogil=True)
def _write_eight(buf: Bytes, at: int, d: U) -> None:
    """Write the eight digits of a number below 10**8."""
    high = d // U(10**4)
    low = d - high * U(10**4)
    for place, four in ((at, high), (at + 4, low)):
        first = four // U(100)
        pair, other = _TWO * first, _TWO * (four - first * U(100))
        buf[place], buf[place + 1] = _PAIRS[pair], _PAIRS[pair + _ONE]
        buf[place + 2], buf[place + 3] = _PAIRS[other], _PAIRS[other + _ONE]


@njit(cache=True, nogil=True)
def write_float(buf: Bytes, at: int, bits: U) -> int:
    """Write a finite float, given as its bits; returns the position behind it, at most ``MAX_FLOAT_CHARS`` on."""
    if bits & _SIGN:
        buf[at] = _MINUS
        at += 1
    exponent, mantissa = np.int64((bits >> U(52)) & _EXPONENT), bits & _MANTISSA
    shift = 1075 - exponent
    if 0 <= shift <= 52 and ((mantissa | _HIDDEN) >> U(shift)) << U(shift) == mantissa | _HIDDEN:
        d, k = (mantissa | _HIDDEN) >> U(shift), 0  # a whole number
    elif bits & ~_SIGN == _ZERO:
        d, k = _ZERO, 0
    else:
        d, k = _shortest(mantissa, exponent)
        d, k = _strip(d, k)
    return _write_decimal(buf, at, d, k)


@njit(cache=True, nogil=True)
def _write_decimal(buf: Bytes, at: int, d: U, k: int) -> int:
    """Write d * 10**k with a point where 16 places hold it, else with an exponent."""
    first = at
    if k >= 0:
        end = write_digits(buf, at, d)
        if end - first + k <= 16:
            for i in range(end, end + k):
                buf[i] = _NOUGHT
            buf[end + k], buf[end + k + 1] = _POINT, _NOUGHT
            return end + k + 2
    else:
        end = write_digits(buf, at + 1, d) - 1  # a place is left for the point
        before = end - first + k
        if 0 < before <= 16:
            for i in range(first, first + before):
                buf[i] = buf[i + 1]
            buf[first + before] = _POINT
            return end + 1
        if -5 < before <= 0:
            for i in range(end - first, -1, -1):
                buf[first + 1 - before + i] = buf[first + i]
            for i in range(first, first + 2 - before):
                buf[i] = _NOUGHT
            buf[first + 1] = _POINT
            return end + 2 - before
        for i in range(first, end):
            buf[i] = buf[i + 1]
    scale = end - first + k - 1
    if end - first > 1:
        for i in range(end, first + 1, -1):
            buf[i] = buf[i - 1]
        buf[first + 1] = _POINT
        end += 1
    buf[end] = _SMALL_E
    end += 1
    if scale < 0:
        buf[end] = _MINUS
        end += 1
        scale = -scale
    return write_digits(buf, end, U(scale))
