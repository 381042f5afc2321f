"""Frames of a log file: checksummed record batches, one behind the other.

A frame is a little-endian header (magic, length, CRC-32 of the payload) and a msgpack payload
``[seq, topic, partition, base_offset, [[key, value, ts], ...]]``. A crash can leave a torn frame at the end. Damage
anywhere else is an error, because records behind it would be lost in silence. It knows no log.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final, NamedTuple
from zlib import crc32

import msgspec

_HEADER: Final = struct.Struct("<4sII")
_MAGIC: Final = b"WLG1"

Frame = tuple[int, str, int, int, list[tuple[bytes, bytes, float]]]
"""seq, topic, partition, base offset, records."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


class FrameSpan(NamedTuple):
    """A frame, and the bytes ``[at, end)`` of the file that it takes."""

    at: int
    end: int
    frame: Frame


def pack_frame(frame: Frame) -> bytes:
    """The bytes of a frame."""
    payload = _encoder.encode(frame)
    return _HEADER.pack(_MAGIC, len(payload), crc32(payload)) + payload


def read_frame(file: BinaryIO, at: int, size: int) -> FrameSpan | None:
    """The frame at ``at``, or ``None`` when no whole one lies there within the first ``size`` bytes."""
    payload = _payload(file, at, size)
    return None if payload is None else FrameSpan(at, file.tell(), _decoder.decode(payload))


def is_torn(file: BinaryIO, at: int, size: int) -> bool:
    """Whether what ``read_frame`` found not whole is the last frame, half written, rather than a damaged one.

    It is the beginning of a frame, or the zeros of a block that was allotted and never written; and no whole frame
    follows, for then the one at ``at`` is damaged (perhaps its length).
    """
    file.seek(at)
    rest = file.read(size - at)
    begun = rest.startswith(_MAGIC[: len(rest)]) or (at > 0 and not rest.strip(b"\0"))
    return begun and not _any_behind(file, at, size, rest)


def _any_behind(file: BinaryIO, at: int, size: int, rest: bytes) -> bool:
    found = rest.find(_MAGIC, 1)
    while found >= 0:
        if _payload(file, at + found, size) is not None:
            return True
        found = rest.find(_MAGIC, found + 1)
    return False


def _payload(file: BinaryIO, at: int, size: int) -> bytes | None:
    """The payload of the frame at ``at``, the file then standing behind it; ``None`` when there is no whole one."""
    file.seek(at)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack(header)
    if magic != _MAGIC or at + _HEADER.size + length > size:
        return None
    payload = file.read(length)
    return payload if crc32(payload) == checksum else None
