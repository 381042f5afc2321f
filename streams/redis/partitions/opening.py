"""Reads what a lane left in Redis: its record, then its journal in pages, of one and the same moment.

A journal of a million ids is 20 MB. In one answer it would hold up Redis, and our loop while it is taken apart.
"""

from __future__ import annotations

import asyncio
from typing import Final

from weir.streams.errors import StateError
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_record import POSITION_AND_NONCE

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
        page = min(max(PAGE_BYTES // each, 1), _MOST_ENTRIES)
