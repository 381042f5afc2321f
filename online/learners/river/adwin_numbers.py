"""The state of River's ADWIN as plain numbers, and back.

River keeps it in a Rust object that gives and takes bytes of a private layout, and that trusts them: bytes of somebody
else's making could end the process. Here they are taken apart into numbers. On the way back each number is checked
before bytes are made of it. The layout belongs to the release of River that pyproject.toml pins.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

from weir.online.errors import StateError

Numbers = Sequence[int | float]

# delta, clock, buckets, shortest window, grace; total, variance, width, sum of widths, four counters; rows.
_HEAD: Final = struct.Struct("<dIQddddddiiiiQ")
_SETTINGS: Final = 5
_ROW_HEAD: Final = struct.Struct("<QQQ")
_TAIL: Final = struct.Struct("<dIQii")
# Row r holds windows of 2^r elements; nobody sees 2^48 of them.
_MOST_ROWS: Final = 48


def numbers_of(adwin: Any) -> list[int | float]:
    """What an ADWIN has learned: whether it fired, its sums and counters, then of each row how many buckets, and them.

    >>> from river.drift import ADWIN
    >>> seen, copy = ADWIN(), ADWIN()
    >>> for i in range(100):
    ...     seen.update(i % 3)
    >>> fill(copy, iter(numbers_of(seen)).__next__)
    >>> copy.width, copy._helper.__getstate__() == seen._helper.__getstate__()
    (100.0, True)
    """
    state: bytes = adwin._helper.__getstate__()
    head = _HEAD.unpack_from(state)
    size = int(adwin.max_buckets) + 1
    row = struct.Struct(f"<QQQ{size}dQ{size}d")
    rows = [row.unpack_from(state, _HEAD.size + i * row.size) for i in range(head[-1])]
    out = [int(adwin._drift_detected), *head[_SETTINGS:]]
    for _, used, _, *values in rows:
        out += (used, *values[:size], *values[size + 1 :])
    # Written back and compared: another release of River may have another layout of the same length.
    if _bytes_of(adwin, head[_SETTINGS:-1], out[len(head) - _SETTINGS + 1 :]) != state:
        raise StateError(
            f"ADWIN state of {len(state)} bytes has an unknown layout: install the River of pyproject.toml"
        )
    return out


def fill(adwin: Any, take: Callable[[], int | float]) -> None:
    """Give a fresh ``adwin`` of the same parameters what ``take`` hands out, in the order of ``numbers_of``.

    Raises
    ------
    StateError
        They are not numbers that an ADWIN of these parameters can have.
    """
    fired, sums, counters = take(), [take() for _ in range(4)], [take() for _ in range(4)]
    n_rows = take()
    if type(n_rows) is not int or not 1 <= n_rows <= _MOST_ROWS:
        raise StateError(f"ADWIN of {n_rows!r} rows: want 1 to {_MOST_ROWS}")
    width = 2 * (int(adwin.max_buckets) + 1)
    rows = [[take() for _ in range(1 + width)] for _ in range(n_rows)]
    used = [row[0] for row in rows]
    whole = all(type(n) is int and 0 <= n <= adwin.max_buckets for n in used)
    if not whole or (n_rows > 1 and used[-1] == 0) or sum(n << r for r, n in enumerate(map(int, used))) != sums[2]:
        raise StateError(f"ADWIN rows of {used} buckets are not a window of {sums[2]} elements")
    if fired not in (0, 1) or not all(type(v) is float for v in chain(sums, *(row[1:] for row in rows))):
        raise StateError("ADWIN sums are not all floats")
    if not all(type(n) is int and 0 <= n < 2**31 for n in counters):
        raise StateError(f"ADWIN counters {counters}: want 0 to {2**31 - 1}")
    adwin._helper.__setstate__(_bytes_of(adwin, (*sums, *counters), list(chain(*rows))))
    adwin._drift_detected = bool(fired)


def _bytes_of(adwin: Any, learned: Numbers, rows: Numbers) -> bytes:
    size = int(adwin.max_buckets) + 1
    n_rows, rest = divmod(len(rows), 1 + 2 * size)
    if rest:
        raise StateError(f"ADWIN rows of {len(rows)} numbers: want a multiple of {1 + 2 * size}")
    given = (adwin.delta, adwin.clock, adwin.max_buckets, float(adwin.min_window_length), float(adwin.grace_period))
    out = [_HEAD.pack(*given, *learned, n_rows)]
    for at in range(0, len(rows), 1 + 2 * size):
        totals, variances = rows[at + 1 : at + 1 + size], rows[at + 1 + size : at + 1 + 2 * size]
        out.append(_ROW_HEAD.pack(adwin.max_buckets, rows[at], size) + struct.pack(f"<{size}d", *totals))
        out.append(struct.pack(f"<Q{size}d", size, *variances))
    tail = (adwin.delta, adwin.clock, adwin.max_buckets, adwin.min_window_length, adwin.grace_period)
    return b"".join([*out, _TAIL.pack(*tail)])
