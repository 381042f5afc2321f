"""Floats as JSON text and back, exactly: the shortest digits that read back as the same float64, as msgspec has them.

Writing is Schubfach (Raffaello Giulietti, "The Schubfach way to render doubles", 2021), reading is Eisel-Lemire (Daniel
Lemire, "Number parsing at a gigabyte per second", 2021). Both multiply by a power of ten rounded to 128 bits. Floats
are passed as their 64 bits; what the reader is not sure of it leaves to another.
"""

from __future__ import annotations

import numpy as np

from weir.online.codec.forms.machine_words import Bytes, U, high, jit_inline, leading_zeros, put, word
from weir.online.jit import njit

MAX_FLOAT_CHARS = 25
"""``-2.2250738585072014e-308`` has 24."""
SLACK = 24
"""Bytes behind a position that a write may touch: whole words are stored, and overwritten by what comes next."""
_MAX_DIGITS, _MAX_READ_CHARS = 19, 40
_LOW_10, _HIGH_10 = -342, 324
_HIGH_READ = 308
# 5 to this power has at most 128 bits, so 10 to this power is exact.
_EXACT_128 = 55


def _power(e: int) -> int:
    """The 128 leading bits of 10**e, rounded up."""
    if e >= 0:
        power = int(10**e)
        shift = 128 - power.bit_length()
        return power << shift if shift >= 0 else -(-power >> -shift)
    power = int(10**-e)
    return int(-(-(1 << (127 + power.bit_length())) // power))


_POWERS = [_power(e) for e in range(_LOW_10, _HIGH_10 + 1)]
_TOP = np.array([power >> 64 for power in _POWERS], np.uint64)
_REST = np.array([power & (2**64 - 1) for power in _POWERS], np.uint64)
_TEN = np.array([10**e for e in range(_MAX_DIGITS + 1)], np.uint64)

_ZERO, _ONE, _TWO, _FOUR, _TENS, _TEN_8 = U(0), U(1), U(2), U(4), U(10), U(10**8)
_NOUGHTS = U(int.from_bytes(b"00000000", "little"))
_HIGHS, _TO_HIGH, _EVERY_OTHER = U(0xF0F0_F0F0_F0F0_F0F0), U(0x0606_0606_0606_0606), U(0x0000_00FF_0000_00FF)
_ZERO_POINT = U(int.from_bytes(b"0.0000", "little"))
_SIGN, _HIDDEN = U(1 << 63), U(1 << 52)
_MANTISSA = _HIDDEN - _ONE
_EXPONENT = U(0x7FF)
_POINT, _MINUS, _PLUS, _NOUGHT, _NINE, _SMALL_E, _LARGE_E = (ord(c) for c in ".-+09eE")


@jit_inline
def _round_to_odd(power: int, c: U) -> U:
    """``c`` times 10**(power + _LOW_10), scaled; the lowest bit says whether anything was cut off."""
    low = _TOP[power] * c
    carried = low + high(_REST[power], c)
    top = high(_TOP[power], c)
    if carried < low:
        top += _ONE
    return top | _ONE if carried > _ONE else top


@jit_inline
def _shortest(mantissa: U, exponent: int) -> tuple[U, int]:
    """Digits d and k with d * 10**k in the interval that rounds to the float, as few and as near as can be."""
    c = mantissa | _HIDDEN if exponent else mantissa
    q = (exponent if exponent else 1) - 1075
    closer = mantissa == _ZERO and exponent > 1  # the float below is at half the distance
    # floor(log10(2^q)), or of 3/4 of it: 1262611 / 2^22 is log10(2), 524031 / 2^22 is log10(4/3), exact for all
    # exponents.
    k = (q * 1262611 - (524031 if closer else 0)) >> 22
    # 1741647 / 2^19 is log2(10).
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


@jit_inline
def _eight(d: U) -> U:
    """The digits of a number below 10**8 as eight bytes 0 to 9, the first digit in the lowest."""
    fours = d // U(10_000)
    # A division by multiplying and shifting, in all lanes of a word at once: 10486 / 2^20 is 1/100 for four digits, 103
    # / 2^10 is 1/10 for two.
    fours |= (d - fours * U(10_000)) << U(32)
    twos = ((fours * U(10_486)) >> U(20)) & U(0x7F_0000_007F)
    twos += (fours - U(100) * twos) << U(16)
    ones = ((twos * U(103)) >> U(10)) & U(0x000F_000F_000F_000F)
    return ones + ((twos - U(10) * ones) << U(8))


@jit_inline
def _digits_of(d: U) -> int:
    """How many digits a number above 0 has."""
    count = int(np.int64((U(64) - leading_zeros(d)) * U(1233) >> U(12)))  # that many or one less
    return count + (1 if d >= _TEN[count] else 0)


@jit_inline
def write_whole(buf: Bytes, at: int, d: U) -> int:
    """Write a whole number; returns the position behind it."""
    end = at + (_digits_of(d) if d else 1)
    i = end
    while i > at:
        i -= 1
        rest = d // _TENS
        buf[i] = U(_NOUGHT) + (d - rest * _TENS)
        d = rest
    return end


@jit_inline
def write_float(buf: Bytes, at: int, bits: U) -> int:
    """Write a finite float, given as its bits; returns the position behind it.

    That is at most ``MAX_FLOAT_CHARS`` on; up to ``SLACK`` bytes behind it are overwritten.
    """
    if bits & _SIGN:
        buf[at] = _MINUS
        at += 1
    exponent, mantissa = int(np.int64((bits >> U(52)) & _EXPONENT)), bits & _MANTISSA
    full, shift = mantissa | _HIDDEN, U(1075 - exponent)
    if bits & ~_SIGN == _ZERO:
        put(buf, at, _ZERO_POINT)
        return at + 3
    d, k = full >> shift, 0
    if shift > U(52) or d << shift != full:  # not a whole number
        d, k = _shortest(mantissa, exponent)
    return _write_decimal(buf, at, d, k)


@jit_inline
def _write_decimal(buf: Bytes, at: int, d: U, k: int) -> int:
    """Write d * 10**k, d of at most 17 digits: with a point where 16 places before it hold it, else an exponent."""
    count = _digits_of(d)
    d *= _TEN[17 - count]  # the first digit, and twice eight; a shorter number ends in zeros
    high = d // _TEN_8
    last = _eight(d - high * _TEN_8)
    first = high // _TEN_8
    middle = _eight(high - first * _TEN_8)
    if last:
        length = 17 - int(np.int64(leading_zeros(last) >> U(3)))
    else:
        length = 9 - int(np.int64(leading_zeros(middle) >> U(3))) if middle else 1
    first, middle, last = first + U(_NOUGHT), middle + _NOUGHTS, last + _NOUGHTS
    point = count + k  # digits before the point
    if 0 < point <= 16:
        buf[at] = first
        put(buf, at + 1, middle)
        put(buf, at + 9, last)
        if length <= point:
            buf[at + point], buf[at + point + 1] = _POINT, _NOUGHT
            return at + point + 2
        if point <= 8:
            behind = middle >> U(8 * (point - 1))
            buf[at + point] = _POINT
            put(buf, at + point + 1, behind)
            put(buf, at + 10, last)
        else:
            behind = last >> U(8 * (point - 9))
            buf[at + point] = _POINT
            put(buf, at + point + 1, behind)
        return at + length + 1
    if -5 < point <= 0:
        put(buf, at, _ZERO_POINT)
        at += 2 - point
        buf[at] = first
        put(buf, at + 1, middle)
        put(buf, at + 9, last)
        return at + length
    buf[at], buf[at + 1] = first, _POINT
    put(buf, at + 2, middle)
    put(buf, at + 10, last)
    at += length + 1 if length > 1 else 1
    buf[at] = _SMALL_E
    if point < 1:
        buf[at + 1] = _MINUS
        return write_whole(buf, at + 2, U(1 - point))
    return write_whole(buf, at + 1, U(point - 1))


@jit_inline
def read_float(buf: Bytes, at: int, end: int) -> tuple[U, int]:
    """Read a JSON number as (bits of the float, position behind it); that is -1 where another reader should judge it.

    So it is for what is no number, and where more than 19 digits or a result below the normal floats make it rare.
    """
    sign = _ZERO
    if at < end and buf[at] == _MINUS:
        sign = _SIGN
        at += 1
    first = at
    d, at = _read_digits(buf, at, end, _ZERO)
    digits, e = at - first, 0
    if digits == 0 or (digits > 1 and buf[first] == _NOUGHT):
        return _ZERO, -1
    plain = True
    if at < end and buf[at] == _POINT:
        plain = False
        point = at + 1
        d, at = _read_digits(buf, point, end, d)
        e = point - at
        if e == 0:
            return _ZERO, -1
        digits -= e
        if buf[first] == _NOUGHT:
            zeros = point
            while zeros < at and buf[zeros] == _NOUGHT:
                zeros += 1
            digits = at - zeros
    if digits > _MAX_DIGITS:
        return _ZERO, -1
    if at < end and (buf[at] == _SMALL_E or buf[at] == _LARGE_E):
        plain = False
        at, scale = _read_exponent(buf, at + 1, end)
        if at < 0:
            return _ZERO, -1
        e += scale
    if d == _ZERO:
        return sign, at if not plain or sign == _ZERO else -1  # -0 is a whole number, whose sign readers may drop
    # A longer one may be what the contract refuses for its length: that is another's to judge.
    bits = _nearest(d, e)
    return bits | sign, at if bits and at - first < _MAX_READ_CHARS else -1


@jit_inline
def _read_digits(buf: Bytes, at: int, end: int, d: U) -> tuple[U, int]:
    """Read digits on as d * 10**n + digits; where they are more than 19 the value is meaningless."""
    while at + 8 <= end:
        eight = word(buf, at) ^ _NOUGHTS
        if ((eight + _TO_HIGH) | eight) & _HIGHS:
            break  # not all are digits
        # Pairs, then fours, then all eight digits are added in three multiplications, in place of eight.
        eight = eight * U(10) + (eight >> U(8))
        low = (eight & _EVERY_OTHER) * U(0x000F_4240_0000_0064)
        high = ((eight >> U(16)) & _EVERY_OTHER) * U(0x0000_2710_0000_0001)
        d = d * _TEN_8 + ((low + high) >> U(32))
        at += 8
    while at < end and _NOUGHT <= buf[at] <= _NINE:
        d = d * _TENS + U(buf[at] - _NOUGHT)
        at += 1
    return d, at


@njit(cache=True, nogil=True)
def _read_exponent(buf: Bytes, at: int, end: int) -> tuple[int, int]:
    """Read what follows the e as (position behind it or -1, value)."""
    down = at < end and buf[at] == _MINUS
    if at < end and (buf[at] == _MINUS or buf[at] == _PLUS):
        at += 1
    first, scale = at, 0
    while at < end and at < first + 4 and _NOUGHT <= buf[at] <= _NINE:
        scale = scale * 10 + int(np.int64(buf[at])) - _NOUGHT
        at += 1
    if at == first or at == first + 4:
        return -1, 0
    return at, -scale if down else scale


@jit_inline
def _nearest(d: U, e: int) -> U:
    """Bits of the float nearest to d * 10**e, d above 0; 0 where it takes more to find it."""
    # Beyond these powers the result is 0 or infinite, or below the normal floats: rare, and another's.
    if e < _LOW_10 or e > _HIGH_READ:
        return _ZERO
    zeros = leading_zeros(d)
    d <<= zeros
    power = e - _LOW_10
    rest = _REST[power] - (_ONE if e > _EXACT_128 else _ZERO)  # rounded down where it is not a reciprocal
    low, top = d * _TOP[power], high(d, _TOP[power])
    # Only where all bits below the 55 that count are 1 can the lower half of the power carry into them.
    if top & U(0x1FF) == U(0x1FF):
        more = high(d, rest)
        low += more
        if low < more:
            top += _ONE
        # Even 128 bits do not tell on which side the number is.
        if low == ~_ZERO:
            return _ZERO
    carry = top >> U(63)
    shift = carry + U(9)
    m = top >> shift
    # 217706 / 2^16 is log2(10), exact enough for all powers of the table.
    exponent = ((217706 * e) >> 16) + 63 + int(np.int64(carry)) - int(np.int64(zeros)) + 1023
    if exponent <= 0:
        return _ZERO
    # Beyond these powers of ten no number of 64 bits lies exactly between two floats (Lemire).
    if low <= _ONE and -4 <= e <= 23 and m & U(3) == _ONE and m << shift == top:
        m &= ~_ONE  # halfway between two floats: to the even one
    m = (m + (m & _ONE)) >> _ONE
    if m >= _HIDDEN << _ONE:
        m, exponent = _HIDDEN, exponent + 1
    if exponent >= 0x7FF:
        return _ZERO
    return U(exponent) << U(52) | (m & _MANTISSA)
