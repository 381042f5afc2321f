"""Large values in Redis: compressed where that pays, cut into parts, checked by digest when read back.

Parts are written first and expire; whoever makes them count (a script that writes their `BlobRef`) lifts that, so a
crash in between leaves nothing behind for long. Redis holds a client's whole request in memory, hence the parts.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from typing import Final

import msgspec

from weir.online.errors import StateError
from weir.streams.redis.client import RedisClient

PART_BYTES: Final = 16 << 20
MOST_BYTES: Final = 2 << 30
"""Of a blob, unpacked: what says it holds more is not of our making."""
ORPHAN_S: Final = 3_600
"""What is not made to count within this time goes away."""
_SAMPLE_BYTES: Final = 1 << 18
_PAYS: Final = 0.8
"""Compress where the sample shrinks at least to this share."""


class BlobRef(msgspec.Struct, frozen=True, array_like=True):
    """Where a blob is and how to check it."""

    key: str
    parts: int
    digest: bytes
    """SHA-256 of the blob as it was given."""
    compressed: bool
    size: int
    """Bytes that it takes in Redis."""

    def part_keys(self) -> list[str]:
        """The keys of its parts; those of a reference that nobody of us made are cut short."""
        return [f"{self.key}:{i}" for i in range(min(self.parts, MOST_BYTES // PART_BYTES))]


async def put_blob(link: RedisClient, key: str, data: bytes, *, part_bytes: int = PART_BYTES) -> BlobRef:
    """Write ``data`` under ``key:0``, ``key:1`` ...; the parts expire unless a script persists them.

    Raises ``StateError`` for more than could be read back, before anything is written.
    """
    # What a script makes count takes the place of what could be read: the last snapshot, and the steps behind it.
    if len(data) > MOST_BYTES:
        raise StateError(
            f"{key}: {len(data)} B are more than is read back, {MOST_BYTES}: make [worker] label_bytes less, or "
            "give the topics keyed by entity more partitions"
        )
    ref, packed = await asyncio.to_thread(_pack, key, data, part_bytes)
    for part, at in zip(ref.part_keys(), range(0, max(len(packed), 1), part_bytes), strict=True):
        # One after the other: Redis holds a request whole, and so would it hold several.
        await link.execute("SET", part, packed[at : at + part_bytes], "EX", ORPHAN_S)
    return ref


async def get_blob(link: RedisClient, ref: BlobRef) -> bytes | None:
    """The blob; ``None`` when a part is gone or damaged."""
    parts = [await link.execute("GET", key) for key in ref.part_keys()]
    if any(part is None for part in parts):
        return None
    return await asyncio.to_thread(_unpack, ref, b"".join(parts))


def _pack(key: str, data: bytes, part_bytes: int) -> tuple[BlobRef, bytes]:
    # A sample, as the attempt on the whole costs seconds for a large snapshot that does not shrink.
    sample = data[:_SAMPLE_BYTES]
    pays = len(zlib.compress(sample, 1)) < _PAYS * len(sample)
    packed = zlib.compress(data, 1) if pays else data
    parts = max(1, -(-len(packed) // part_bytes))
    return BlobRef(key, parts, hashlib.sha256(data).digest(), pays, len(packed)), packed


def _unpack(ref: BlobRef, packed: bytes) -> bytes | None:
    unpacker = zlib.decompressobj()
    try:
        # Bounded, as the reference is read from a store that others may write.
        data = unpacker.decompress(packed, MOST_BYTES) if ref.compressed else packed
    except zlib.error:
        return None
    if ref.compressed and not unpacker.eof:  # cut, or larger than anything that we store
        return None
    return data if hashlib.sha256(data).digest() == ref.digest else None
