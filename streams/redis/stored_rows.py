"""What a row is in Redis: its key, and a header before the packed bytes. The only place that knows the layout.

Key: ``<prefix>:{<topic>-<partition>}:<table>:<entity>``; what is in braces decides the slot in a cluster, so all of a
lane is in one. Value: 24 bytes of header, little endian, then the row.

=======  =====  ==============================================================
bytes    type   what
=======  =====  ==============================================================
0-1      u2     version of this layout: 1 a row as it is, 2 a compact one
2-3      u2     words of eight bytes that a compact row has; else zero
4-7      u4     schema: a digest of what gives the row its meaning
8-15     i8     offset of the last record that changed the row
16-23    f8     event time of the last change, epoch seconds
24-      bytes  the row, as ``weir.online.features`` packs it (version 1) or
                as ``weir.online.features.compact_rows`` stores it (2)
=======  =====  ==============================================================

Both versions are read side by side: a row is written compactly with its next change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.online.codec.forms.machine_words import U, jit_inline, put
from weir.online.errors import StateError
from weir.online.features.compact_rows import SPARE, Rows, Words, expand, store_row, words_of
from weir.online.jit import njit

Lane = tuple[str, int]
"""Topic and partition."""

VERSION: Final = 1
COMPACT: Final = 2
HEADER: Final = np.dtype(
    [("version", "<u2"), ("words", "<u2"), ("schema", "<u4"), ("offset", "<i8"), ("updated_at", "<f8")]
)
HEADER_BYTES: Final = HEADER.itemsize
_AS_COMPACT: Final = U(VERSION ^ COMPACT)
"""What turns the first word of a row's header into that of a compact one, words aside."""


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as it is in Redis."""

    lane: Lane
    schema: int
    offset: int
    """Of the last record that changed the row."""
    updated_at: float
    """Event time of that change, epoch seconds."""
    row: bytes


def place_of(lane: Lane) -> str:
    """A partition in one word.

    >>> place_of(("labels", 3))
    'labels-3'
    """
    return f"{lane[0]}-{lane[1]}"


def lane_prefix(prefix: str, lane: Lane) -> str:
    """What all keys of a lane begin with.

    >>> lane_prefix("weir", ("user-events", 3))
    'weir:{user-events-3}:'
    """
    return f"{prefix}:{{{lane[0]}-{lane[1]}}}:"


def row_key(prefix: str, lane: Lane, table: str, entity: str) -> str:
    """Where a row is.

    >>> row_key("weir", ("user-events", 3), "fraud.user", "u1")
    'weir:{user-events-3}:fraud.user:u1'
    """
    return f"{lane_prefix(prefix, lane)}{table}:{entity}"


def encode_row(schema: int, offset: int, updated_at: float, row: bytes) -> bytes:
    """One value with a row as it is; `framed_values` makes those of whole batches, and compact ones."""
    return np.array([(VERSION, 0, schema, offset, updated_at)], dtype=HEADER).tobytes() + row


def framed_values(heads: NDArray[Any], rows: Rows) -> NDArray[np.uint8]:
    """Values as arguments of a Redis command, compact where that is smaller, one behind the other.

    Parameters
    ----------
    heads : ``(n,)`` of ``HEADER``, version 1.
    rows : ``(n, row_bytes) uint8``; ``row_bytes`` is a multiple of 8.
    """
    n, row_bytes = rows.shape
    most = len(b"$%d\r\n\r\n" % (HEADER_BYTES + row_bytes)) + HEADER_BYTES + row_bytes
    # As large as if no row were compact; the kernel writes whole words, so there is room behind the last.
    out = np.empty(n * most + SPARE, np.uint8)
    return out[: _frame(heads.view(np.uint64).reshape(n, HEADER_BYTES // 8), words_of(rows), out)]


@njit(cache=True, nogil=True)
def _frame(heads: Words, words: Words, out: Rows) -> int:
    """Write the values of rows; where they end."""
    row_bytes = 8 * words.shape[1]
    row = np.empty(row_bytes + SPARE, np.uint8)
    at = 0
    for i in range(len(heads)):
        size = store_row(words, i, row, 0)
        at = _begin_argument(out, at, HEADER_BYTES + size)
        first = heads[i, 0]
        if size < row_bytes:
            first = (first ^ _AS_COMPACT) | U(words.shape[1]) << U(16)
        put(out, at, first)
        put(out, at + 8, heads[i, 1])
        put(out, at + 16, heads[i, 2])
        at += HEADER_BYTES
        out[at : at + size] = row[:size]
        at += size
        out[at], out[at + 1] = 13, 10
        at += 2
    return at


@jit_inline
def _begin_argument(out: Rows, at: int, size: int) -> int:
    """Write the frame before an argument of so many bytes; where it ends."""
    digits = 1
    while size >= 10**digits:
        digits += 1
    out[at] = 36  # $
    for k in range(digits, 0, -1):
        out[at + k] = 48 + size % 10
        size //= 10
    at += digits + 1
    out[at], out[at + 1] = 13, 10
    return at + 2


def decode_row(lane: Lane, value: bytes) -> StoredRow:
    """Take a value apart; raises ``StateError`` for what is no row of these versions.

    >>> decode_row(("user-events", 3), encode_row(7, 41, 2.5, b"abcd"))
    StoredRow(lane=('user-events', 3), schema=7, offset=41, updated_at=2.5, row=b'abcd')
    """
    if len(value) < HEADER_BYTES:
        raise StateError(f"{len(value)} bytes are no stored row, whose header alone has {HEADER_BYTES}")
    head, row = np.frombuffer(value, dtype=HEADER, count=1)[0], value[HEADER_BYTES:]
    if head["version"] == COMPACT:
        held = np.frombuffer(row, np.uint8)
        row = expand(held, np.array([len(held)]), 8 * int(head["words"])).tobytes()
    elif head["version"] != VERSION:
        raise StateError(_other_version(int(head["version"])))
    return StoredRow(lane, int(head["schema"]), int(head["offset"]), float(head["updated_at"]), row)


def unpack_rows(table: str, schema: int, row_bytes: int, values: Sequence[bytes]) -> tuple[Rows, NDArray[np.float64]]:
    """Rows ``(n, row_bytes) uint8`` and their event times ``(n,)``.

    Raises
    ------
    StateError
        A value of another version, schema or width.
    """
    sizes = np.fromiter(map(len, values), np.int64, len(values))
    # Before heads are cut out: that of a short value would reach into the row behind it.
    if len(values) and int(sizes.min()) < HEADER_BYTES:
        raise StateError(other_schema(table, (int(sizes.min()) - HEADER_BYTES, 0), (row_bytes, schema)))
    stored = np.frombuffer(b"".join(values), np.uint8)
    at = (np.cumsum(sizes) - sizes)[:, None] + np.arange(HEADER_BYTES)
    heads = stored[at].view(HEADER)[:, 0] if len(values) else np.empty(0, HEADER)  # (n,)
    compact = heads["version"] == COMPACT
    odd = ~compact & (heads["version"] != VERSION)
    if odd.any():
        raise StateError(_other_version(int(heads["version"][odd][0])))
    # int64 first: eight times a u2 overflows it.
    widths = np.where(compact, 8 * heads["words"].astype(np.int64), sizes - HEADER_BYTES)
    odd = (widths != row_bytes) | (heads["schema"] != schema)
    if odd.any():
        held = (int(widths[odd][0]), int(heads["schema"][odd][0]))
        raise StateError(other_schema(table, held, (row_bytes, schema)))
    try:
        return expand(stored, sizes, row_bytes, skip=HEADER_BYTES), heads["updated_at"]
    except StateError as exc:
        raise StateError(f"table {table!r} in Redis is damaged ({exc}); run 'weir features rebuild'") from exc


def other_schema(table: str, held: tuple[int, int], wanted: tuple[int, int]) -> str:
    """What to say where rows in Redis do not mean what the task means; each is width and schema."""
    return (
        f"table {table!r} in Redis holds rows of {held[0]} B, schema {held[1]:08x}, but the task now wants "
        f"{wanted[0]} B, schema {wanted[1]:08x}: its aggregates changed; stop the workers and run "
        "'weir features rebuild', or go back to the task that wrote them"
    )


def _other_version(version: int) -> str:
    return (
        f"the rows in Redis have layout version {version}, this program reads {VERSION} and {COMPACT}; "
        "run 'weir features rebuild', or go back to the version of Weir that wrote them"
    )
