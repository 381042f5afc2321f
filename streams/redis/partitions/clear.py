"""Empties one lane, for a rebuild: its rows, its journal and, last, its record."""

from __future__ import annotations

from typing import Final

from weir.streams.redis.client import RedisClient
from weir.streams.redis.stored_rows import Lane, lane_prefix

CLEARING: Final = b"\xff\xff" + b"\x00" * 6 + b"\xff" * 16
"""In the place of the record meanwhile: no version that anyone reads, and a position that no worker left."""
_PAGE: Final = 1000


async def clear_lane(link: RedisClient, prefix: str, lane: Lane) -> int:
    """Delete everything of a lane; returns how many keys. Workers must not run; one that does is refused (`LaneMoved`).

    When this is cut short, workers refuse to open the lane (``StateError``) until it is cleared again.
    """
    base = lane_prefix(prefix, lane)
    route = base.encode()
    await link.execute("SET", f"{base}lane", CLEARING)
    cursor, deleted = b"0", 0
    while True:
        cursor, keys = await link.execute("SCAN", cursor, "MATCH", f"{base}*", "COUNT", _PAGE, route=route)
        rest = [key for key in keys if key != route + b"lane"]
        if rest:
            deleted += await link.execute("UNLINK", *rest)
        if cursor == b"0":
            return deleted + int(await link.execute("UNLINK", f"{base}lane"))


async def clear_prefix(link: RedisClient) -> int:
    """Delete every key under the link's prefix, of one Redis (not of a cluster); returns how many."""
    cursor, deleted = b"0", 0
    while True:
        cursor, keys = await link.execute("SCAN", cursor, "MATCH", f"{link.prefix}:*", "COUNT", _PAGE, route=b"")
        if keys:
            deleted += await link.execute("UNLINK", *keys)
        if cursor == b"0":
            return deleted
