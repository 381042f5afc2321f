"""Decompresses what a record batch holds, never to more than a bound: a few kB may be made to become gigabytes.

Each codec writes into a buffer of the size allowed, so that nothing larger ever exists. It knows neither batches nor
brokers. Numbers of codecs are those of https://kafka.apache.org/documentation/#recordbatch.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np

NAMES: Final = ("none", "gzip", "snappy", "lz4", "zstd")
"""By number."""
_XERIAL: Final = b"\x82SNAPPY\x00"
"""How Java's snappy begins: blocks follow its header, each behind its length."""
_XERIAL_BYTES: Final = 16
_FULL: Final = "failed to write whole buffer"
"""What Rust says when a codec's output does not fit."""


class BatchTooLarge(ValueError):  # noqa: N818 - named for what happened, as in weir.streams.errors
    """The data would become larger than allowed."""


def decompress(codec: int, data: memoryview, most: int) -> bytes:
    """What ``data`` holds, at most ``most`` bytes.

    Raises
    ------
    BatchTooLarge : it holds more.
    ValueError : it is not what the codec writes, or the codec is not known, or not installed.

    >>> decompress(1, memoryview(zlib.compress(b"abc" * 9, wbits=31)), 27) == b"abc" * 9
    True
    >>> decompress(1, memoryview(zlib.compress(b"abc" * 9, wbits=31)), 26)
    Traceback (most recent call last):
    weir.streams.kafka.consume.codecs.BatchTooLarge: more than 26 bytes after decompression
    """
    if codec >= len(NAMES):
        raise ValueError(f"codec {codec} is not known; known are {', '.join(NAMES[1:])}")
    if codec == 1:
        return _gunzip(data, most)
    # Only here: gzip is Python's own, and a deployment without the others need not have the package.
    try:
        import cramjam
    except ImportError:
        raise ValueError(f"codec {NAMES[codec]} needs cramjam; run: pip install 'weir[kafka]'") from None
    try:
        if codec == 2:
            return _unsnap(data, most, cramjam.snappy)
        return _into((cramjam.lz4 if codec == 3 else cramjam.zstd).decompress_into, data, most)
    except cramjam.DecompressionError as error:
        if str(error) == _FULL:
            raise _too_large(most) from error
        raise ValueError(f"not {NAMES[codec]}: {error}") from error


def _gunzip(data: memoryview, most: int) -> bytes:
    parts, left = list[bytes](), most
    while data:  # a file of gzip may have several members
        member = zlib.decompressobj(wbits=31)
        try:
            # One byte more than allowed tells what is too large from what just fits.
            part = member.decompress(data, left + 1)
        except zlib.error as error:
            raise ValueError(f"not gzip: {error}") from error
        if len(part) > left:
            raise _too_large(most)
        if not member.eof:
            raise ValueError("not gzip: it ends early")
        left -= len(part)
        parts.append(part)
        data = memoryview(member.unused_data)
    return b"".join(parts)


def _unsnap(data: memoryview, most: int, snappy: Any) -> bytes:
    blocks = _blocks(data) if bytes(data[: len(_XERIAL)]) == _XERIAL else [data]
    # Snappy says first how large it becomes. A size that lies fails at the buffer, which has just that size.
    sizes = [int(snappy.decompress_raw_len(block)) for block in blocks]
    if sum(sizes) > most:
        raise _too_large(most)
    return b"".join(_into(snappy.decompress_raw_into, block, size) for block, size in zip(blocks, sizes, strict=True))


def _blocks(data: memoryview) -> list[memoryview]:
    blocks, at = list[memoryview](), _XERIAL_BYTES
    while at < len(data):
        if at + 4 > len(data):
            raise ValueError("not snappy: it ends early")
        (size,) = struct.unpack_from(">i", data, at)
        at += 4 + size
        if size <= 0 or at > len(data):
            raise ValueError(f"not snappy: a block of {size} bytes, {len(data) - at + size} are left")
        blocks.append(data[at - size : at])
    return blocks


def _into(write: Callable[[memoryview, Any], int], data: memoryview, most: int) -> bytes:
    out = np.empty(most, np.uint8)  # pages that nothing is written to take no memory
    return out[: write(data, out)].tobytes()


def _too_large(most: int) -> BatchTooLarge:
    return BatchTooLarge(f"more than {most} bytes after decompression")
