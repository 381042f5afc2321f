"""What Redis knows of a lane besides its rows: the lane record, with its journal; how both are read, and emptied.

The position in the record is compared and set by the flush script.

Value of ``<prefix>:{<topic>-<partition>}:lane``: 24 bytes (version u2, zero u2 and u4, next offset i8, a nonce of 8
bytes), then the rest as msgpack. The nonce names one flush: a repeat of it, whose answer was lost, finds its own; and
two workers that came to the same offset by other batches (Redis lost a second, a rebalance) are told apart.
"""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Final

import msgspec

from weir.online.errors import UNREADABLE, StateError
from weir.streams.redis.client import RedisClient
from weir.streams.redis.stored_rows import Lane, lane_prefix

VERSION: Final = 1
COMPACT: Final = 2
"""Version of the record of a lane with rows: some may be compact, which programs of before cannot read."""
_HEAD: Final = struct.Struct("<HHIq8s")
POSITION_AND_NONCE: Final = slice(8, 24)
"""Where the next offset and the nonce are in the value."""
_OFFSET: Final = struct.Struct("<q")


class LaneRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A lane as its last flush left it."""

    next_offset: int
    """The first record not in the rows."""
    mark: bytes = b""
    """The host's own state, such as the watermark."""
    schemas: dict[str, int] = {}
    """Of every table that the lane has rows of."""
    journal: int = 0
    """Entries of the journal."""
    left: dict[str, int] = {}
    """Of tables that the owner does not have, the first record that their rows miss: its task was taken away, or was
    changed, and may come back."""


def encode_position(offset: int | None) -> bytes:
    """The position as the flush script compares it; empty where there must be no record."""
    return b"" if offset is None else _OFFSET.pack(offset)


def decode_position(position: bytes) -> int | None:
    """The offset of a position, with or without its nonce.

    >>> decode_position(encode_position(41)), decode_position(encode_position(None))
    (41, None)
    """
    return int(_OFFSET.unpack_from(position)[0]) if position else None


def encode_record(record: LaneRecord) -> bytes:
    """The value, with a nonce of its own."""
    version = COMPACT if record.schemas else VERSION
    return _HEAD.pack(version, 0, 0, record.next_offset, os.urandom(8)) + msgspec.msgpack.encode(record)


def decode_record(value: bytes) -> LaneRecord:
    """Take a value apart.

    Raises
    ------
    StateError
        It is no lane record, or one of another version.
    """
    if len(value) < _HEAD.size:
        raise StateError(f"{len(value)} bytes are no lane record; {_FIX}")
    version = _HEAD.unpack_from(value)[0]
    if version not in (VERSION, COMPACT):
        reads = f"{VERSION} and {COMPACT}"
        raise StateError(f"the lane record in Redis has version {version}, this program reads {reads}; {_FIX}")
    try:
        return msgspec.msgpack.decode(memoryview(value)[_HEAD.size :], type=LaneRecord)
    except UNREADABLE as exc:
        raise StateError(f"the lane record in Redis is damaged ({exc}); {_FIX}") from exc


_FIX: Final = "run 'weir features rebuild', or go back to the version of Weir that wrote it"


PAGE_BYTES: Final = 1 << 20
"""Of entries in one answer, more or less."""
_FIRST_PAGE: Final = 16
_MOST_ENTRIES: Final = 4_096
_TRIES: Final = 50
_PAUSE_S: Final = 0.2


async def read_lane(link: RedisClient, base: str) -> tuple[bytes | None, list[bytes]]:
    """The record's value, ``None`` where there is none, and the journal's entries, oldest first.

    Raises ``StateError`` where somebody keeps writing meanwhile: a worker whose partition this was writes once more.
    """
    for _ in range(_TRIES):
        value = await link.execute("GET", f"{base}lane")
        journal = await _journal(link, f"{base}journal")
        # Each flush sets another nonce: where it is the same, record and journal are of one moment.
        if await read_position(link, base) == (b"" if value is None else value[POSITION_AND_NONCE]):
            return value, journal
        await asyncio.sleep(_PAUSE_S)
    raise StateError(
        f"{base}lane changes while it is read, {_TRIES} times in a row: another worker writes this partition; see "
        "'weir partitions list' and whether two fleets share redis.prefix"
    )


async def read_position(link: RedisClient, base: str) -> bytes:
    """Position and nonce of the record now; empty where there is none."""
    position = await link.execute("GETRANGE", f"{base}lane", POSITION_AND_NONCE.start, POSITION_AND_NONCE.stop - 1)
    return bytes(position)


async def _journal(link: RedisClient, key: str) -> list[bytes]:
    entries: list[bytes] = []
    page = _FIRST_PAGE
    while True:
        found: list[bytes] = await link.execute("LRANGE", key, len(entries), len(entries) + page - 1)
        entries += found
        if len(found) < page:
            return entries
        each = sum(map(len, found)) // len(found) + 1
        # By the size of what came: entries of a quiet lane and of a busy one differ widely.
        page = min(max(PAGE_BYTES // each, 1), _MOST_ENTRIES)


CLEARING: Final = b"\xff\xff" + b"\x00" * 6 + b"\xff" * 16
"""In the place of the record meanwhile: no version that anyone reads, and a position that no worker left."""
_PAGE: Final = 1000


async def clear_lane(link: RedisClient, prefix: str, lane: Lane) -> int:
    """Delete everything of a lane; returns how many keys. Workers must not run; one that does is refused (`LaneMoved`).

    When this is cut short, workers refuse to open the lane (``StateError``) until it is cleared again.
    """
    base = lane_prefix(prefix, lane)
    route = base.encode()
    # First, so that a worker that runs all the same is refused, and one that opens the lane too.
    await link.execute("SET", f"{base}lane", CLEARING)
    cursor, deleted = b"0", 0
    while True:
        cursor, keys = await link.execute("SCAN", cursor, "MATCH", f"{base}*", "COUNT", _PAGE, route=route)
        # The record goes last, as it keeps workers out meanwhile.
        rest = [key for key in keys if key != route + b"lane"]
        if rest:
            deleted += await link.execute("UNLINK", *rest)
        if cursor == b"0":
            return deleted + int(await link.execute("UNLINK", f"{base}lane"))
