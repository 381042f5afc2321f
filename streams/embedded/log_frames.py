"""Frames: checksummed record batches in the files of an embedded log, one after another.

A frame is a little-endian header (magic, length, CRC-32 of the payload) and a msgpack payload
``[seq, topic, partition, base_offset, [[key, value, ts], ...]]``. A crash can leave a torn frame at the end of a file:
a reader takes what is whole at the moment it looks, and the owner cuts the rest off when it opens the file again. Other
damage is an error, because records behind it would be lost in silence.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, overload
from zlib import crc32

import msgspec

from weir.online.frozen import dataclass
from weir.streams.errors import LogError
from weir.streams.records import Record

HEADER: Final = struct.Struct("<4sII")
_MAGIC: Final = b"WLG1"

Frame = tuple[int, str, int, int, list[tuple[bytes, bytes, float]]]
"""seq, topic, partition, base offset, records."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


@dataclass(frozen=True, slots=True)
class LoggedBatch:
    """A `RecordBatch` of records appended together, and its place among all batches of the log."""

    seq: int
    """Position of this batch among all batches of the log."""
    topic: str
    partition: int
    base_offset: int
    records: Sequence[Record]

    @property
    def next_offset(self) -> int:
        """Offset of the first record behind this batch."""
        return self.base_offset + len(self.records)

    def offset_of(self, index: int) -> int:
        """Offset of ``records[index]``."""
        return self.base_offset + index


class FrameSpan(NamedTuple):
    """A frame, and the bytes ``[at, end)`` of the file that it takes."""

    at: int
    end: int
    frame: Frame


def pack(magic: bytes, payload: bytes) -> bytes:
    """A payload with its header."""
    return HEADER.pack(magic, len(payload), crc32(payload)) + payload


def pack_frame(batch: LoggedBatch) -> bytes:
    """The frame of a batch."""
    frame = (batch.seq, batch.topic, batch.partition, batch.base_offset, list(batch.records))
    return pack(_MAGIC, _encoder.encode(frame))


def read_payload(file: BinaryIO, at: int, size: int, magic: bytes = _MAGIC) -> bytes | None:
    """The payload that is packed at ``at``, the file then standing behind it; ``None`` when there is no whole one."""
    file.seek(at)
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    found, length, checksum = HEADER.unpack(header)
    # Zeros behind a magic are no empty frame, whose checksum would be right: they are a torn one.
    # Against the size that the caller looked at: the owner may append meanwhile, and half of that is no damage.
    if found != magic or not length or at + HEADER.size + length > size:
        return None
    payload = file.read(length)
    return payload if crc32(payload) == checksum else None


def read_frame(file: BinaryIO, at: int, size: int) -> FrameSpan | None:
    """The frame at ``at``, or ``None`` when no whole one lies there within the first ``size`` bytes."""
    payload = read_payload(file, at, size)
    return None if payload is None else FrameSpan(at, file.tell(), _decoder.decode(payload))


def is_torn(file: BinaryIO, at: int, size: int, magic: bytes = _MAGIC) -> bool:
    """Whether what was found not whole is the last that was written, half of it, rather than damaged.

    It is the beginning of a frame, or the zeros of a block that was allotted and not yet written; and no whole frame
    follows, for then the one at ``at`` is damaged (perhaps its length).
    """
    file.seek(at)
    rest = file.read(size - at)
    # File systems allot blocks ahead: after a power cut a file may end in zeros that nobody wrote.
    solid = rest.rstrip(b"\0")
    begun = solid.startswith(magic) or magic.startswith(solid)
    of_zeros = not solid and at == 0 and magic == _MAGIC  # a file of them alone is no log
    return begun and not of_zeros and not _any_behind(file, at, size, rest)


def _any_behind(file: BinaryIO, at: int, size: int, rest: bytes) -> bool:
    found = rest.find(_MAGIC, 1)
    while found >= 0:
        if read_payload(file, at + found, size) is not None:
            return True
        found = rest.find(_MAGIC, found + 1)
    return False


def frames(path: Path, at: int = 0) -> Iterator[FrameSpan]:
    """Every whole frame of a file from ``at`` up to its present end; a torn one there is left out.

    Raises
    ------
    LogError
        A frame is damaged: what stands behind it would be lost in silence.
    """
    # Once: a file that is being written would else never come to its end here.
    size = path.stat().st_size
    with path.open("rb") as file:
        while at < size:
            found = read_frame(file, at, size)
            if found is None:
                if is_torn(file, at, size):
                    return
                raise LogError(
                    f"{path}: damaged at byte {at} of {size}; restore the file, or cut it there to lose what is behind"
                )
            yield found
            at = found.end


class StoredRecords(Sequence[Record]):
    """Records of a frame that are read from the file when someone asks for them."""

    def __init__(self, path: Path, position: int, count: int) -> None:
        self._path, self._position, self._count = path, position, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        """Raises ``LogError`` where the frame is no longer there, ``FileNotFoundError`` where its file is not."""
        with self._path.open("rb") as file:
            found = read_frame(file, self._position, os.fstat(file.fileno()).st_size)
        if found is None:
            raise LogError(f"{self._path}: no whole batch at byte {self._position}; the file was changed while in use")
        return iter([Record(*record) for record in found.frame[4]])

    @overload
    def __getitem__(self, at: int) -> Record: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Record]: ...

    def __getitem__(self, at: int | slice) -> Record | Sequence[Record]:
        return list(self)[at]
