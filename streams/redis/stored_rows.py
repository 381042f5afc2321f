"""What a row is in Redis: its key, and a header before the packed bytes. The only place that knows the layout.

Key: ``<prefix>:{<topic>-<partition>}:<table>:<entity>``; what is in braces decides the slot in a cluster, so all of a
lane is in one. Value: 24 bytes of header, little endian, then the row.

=======  =====  ==============================================================
bytes    type   what
=======  =====  ==============================================================
0-1      u2     version of this layout
2-3      u2     zero
4-7      u4     schema: a digest of what gives the row its meaning
8-15     i8     offset of the last record that changed the row
16-23    f8     event time of the last change, epoch seconds
24-      bytes  the row, as ``weir.online.features`` packs it
=======  =====  ==============================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.online.errors import StateError

Lane = tuple[str, int]
"""Topic and partition."""

VERSION: Final = 1
HEADER: Final = np.dtype(
    [("version", "<u2"), ("zero", "<u2"), ("schema", "<u4"), ("offset", "<i8"), ("updated_at", "<f8")]
)
HEADER_BYTES: Final = HEADER.itemsize


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
    """One value; ``LaneStore`` writes whole batches of them with the same ``HEADER``."""
    return np.array([(VERSION, 0, schema, offset, updated_at)], dtype=HEADER).tobytes() + row


def decode_row(lane: Lane, value: bytes) -> StoredRow:
    """Take a value apart; raises ``StateError`` for what is no row of this version.

    >>> decode_row(("user-events", 3), encode_row(7, 41, 2.5, b"abcd"))
    StoredRow(lane=('user-events', 3), schema=7, offset=41, updated_at=2.5, row=b'abcd')
    """
    if len(value) < HEADER_BYTES:
        raise StateError(f"{len(value)} bytes are no stored row, whose header alone has {HEADER_BYTES}")
    head = np.frombuffer(value, dtype=HEADER, count=1)[0]
    if head["version"] != VERSION:
        raise StateError(_other_version(int(head["version"])))
    return StoredRow(lane, int(head["schema"]), int(head["offset"]), float(head["updated_at"]), value[HEADER_BYTES:])


def unpack_rows(
    table: str, schema: int, row_bytes: int, values: Sequence[bytes]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Rows ``(n, row_bytes) uint8`` (a view) and their event times ``(n,)``.

    Raises
    ------
    StateError
        A value of another version, schema or width.
    """
    n, width = len(values), HEADER_BYTES + row_bytes
    joined = b"".join(values)
    if len(joined) != n * width or (n and max(map(len, values)) != width):
        odd = next(value for value in values if len(value) != width)
        held = int(np.frombuffer(odd, dtype=HEADER, count=1)[0]["schema"]) if len(odd) >= HEADER_BYTES else 0
        raise StateError(other_schema(table, (len(odd) - HEADER_BYTES, held), (row_bytes, schema)))
    block = np.frombuffer(joined, dtype=np.uint8).reshape(n, width)  # (n, 24 + row_bytes)
    heads: NDArray[Any] = np.ascontiguousarray(block[:, :HEADER_BYTES]).view(HEADER)[:, 0] if n else np.empty(0, HEADER)
    if (heads["version"] != VERSION).any():
        raise StateError(_other_version(int(heads["version"][heads["version"] != VERSION][0])))
    if (heads["schema"] != schema).any():
        held = int(heads["schema"][heads["schema"] != schema][0])
        raise StateError(other_schema(table, (row_bytes, held), (row_bytes, schema)))
    return block[:, HEADER_BYTES:], heads["updated_at"]


def other_schema(table: str, held: tuple[int, int], wanted: tuple[int, int]) -> str:
    """What to say where rows in Redis do not mean what the task means; each is width and schema."""
    return (
        f"table {table!r} in Redis holds rows of {held[0]} B, schema {held[1]:08x}, but the task now wants "
        f"{wanted[0]} B, schema {wanted[1]:08x}: its aggregates changed; stop the workers and run "
        "'weir features rebuild', or go back to the task that wrote them"
    )


def _other_version(version: int) -> str:
    return (
        f"the rows in Redis have layout version {version}, this program reads {VERSION}; "
        "run 'weir features rebuild', or go back to the version of Weir that wrote them"
    )
