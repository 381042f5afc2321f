"""The file of an embedded log: read by anybody, written by one. Checksummed record batches, one behind the other.

A frame is a little-endian header (magic, length, CRC-32 of the payload) and a msgpack payload
``[seq, topic, partition, base_offset, [[key, value, ts], ...]]``. A crash can leave a torn frame at the end: a reader
takes what is whole at the moment it looks, and the owner cuts the rest off when it opens the file again. Other damage
is an error, because records behind it would be lost in silence.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, overload
from zlib import crc32

import msgspec

from weir.streams.errors import LogError
from weir.streams.records import Record

FILE: Final = "records.log"
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


class StoredRecords(Sequence[Record]):
    """Records of a frame that are read from the file when someone asks for them."""

    def __init__(self, file: SegmentReader, position: int, count: int) -> None:
        self._file, self._position, self._count = file, position, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        return iter(self._file.read(self._position))

    @overload
    def __getitem__(self, at: int) -> Record: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Record]: ...

    def __getitem__(self, at: int | slice) -> Record | Sequence[Record]:
        return list(self)[at]


class SegmentReader:
    """Reads a log file without owning it: nothing is cut off, nothing is locked.

    Parameters
    ----------
    path : the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def frames(self) -> Iterator[FrameSpan]:
        """Every whole frame up to the present end; a torn one there is left out.

        Raises
        ------
        LogError
            A frame is damaged: what stands behind it would be lost in silence.
        """
        size, at = self.path.stat().st_size, 0
        with self.path.open("rb") as file:
            while at < size:
                found = read_frame(file, at, size)
                if found is None:
                    if is_torn(file, at, size):
                        return
                    raise LogError(
                        f"{self.path}: damaged at byte {at} of {size}; restore the file, or cut it there to lose what "
                        "is behind"
                    )
                yield found
                at = found.end

    def read(self, position: int) -> list[Record]:
        """The records of the frame at ``position``."""
        with self.path.open("rb") as file:
            found = read_frame(file, position, os.fstat(file.fileno()).st_size)
        if found is None:
            raise LogError(f"{self.path}: no whole batch at byte {position}; the file was changed while in use")
        return [Record(*record) for record in found.frame[4]]


class SegmentStore(SegmentReader):
    """The file in a directory, as its one owner."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory / FILE)
        self._file = self.path.open("ab")
        self._positions: list[tuple[int, int]] = []
        """(seq, byte position) of each frame."""

    def recover(self) -> Iterator[FrameSpan]:
        """Every whole frame from the start; a torn one at the end is cut off."""
        end = 0
        for placed in self.frames():
            self._positions.append((placed.frame[0], placed.at))
            end = placed.end
            yield placed
        if end < self.path.stat().st_size:
            self._cut(end)

    def read(self, position: int) -> list[Record]:
        """The records of the frame at ``position``, from the disk."""
        self._file.flush()
        return super().read(position)

    def write(
        self, seq: int, topic: str, partition: int, offset: int, records: Sequence[tuple[bytes, bytes, float]]
    ) -> int:
        """Append one batch; where its frame begins."""
        at = self._file.tell()
        self._positions.append((seq, at))
        self._file.write(pack_frame((seq, topic, partition, offset, list(records))))
        return at

    def truncate(self, seq: int) -> None:
        """Drop every frame from ``seq`` on."""
        keep = len(self._positions)
        while keep and self._positions[keep - 1][0] >= seq:
            keep -= 1
        if keep < len(self._positions):
            self._cut(self._positions[keep][1])
            del self._positions[keep:]

    def _cut(self, position: int) -> None:
        self._file.flush()
        os.truncate(self.path, position)
        self._file.seek(0, os.SEEK_END)

    def sync(self) -> None:
        """Flush to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        if not self._file.closed:
            self.sync()
            self._file.close()
