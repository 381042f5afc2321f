"""Segment files of the embedded log: framed, checksummed record batches, one append-only file.

A frame is a little-endian header (magic, length, CRC-32 of the payload) and a msgpack payload
``[seq, topic, partition, base_offset, [[key, value, ts], ...]]``. A crash can leave a torn frame at the end; recovery
cuts it off. Damage anywhere else is an error, because records behind it would be lost in silence.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import msgspec

from streams.errors import LogError

_HEADER = struct.Struct("<4sII")
_MAGIC = b"WLG1"

Frame = tuple[int, str, int, int, list[tuple[bytes, bytes, float]]]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def _payload(file: BinaryIO, at: int) -> bytes | None:
    """The payload of the frame at ``at``, or ``None`` when there is no whole one."""
    file.seek(at)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack(header)
    if magic != _MAGIC or length > os.fstat(file.fileno()).st_size - file.tell():
        return None
    payload = file.read(length)
    return payload if crc32(payload) == checksum else None


class SegmentStore:
    """One log file in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "records.log"
        self._file = self.path.open("ab")
        self._positions: list[tuple[int, int]] = []
        """(seq, byte position) of each frame."""

    def recover(self) -> Iterator[Frame]:
        """Every whole frame from the start; a torn one at the end is cut off."""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while (at := file.tell()) < size:
                frame = self._read_frame(file, at, size)
                if frame is None:
                    self._cut(at)
                    return
                self._positions.append((frame[0], at))
                yield frame

    def _read_frame(self, file: BinaryIO, at: int, size: int) -> Frame | None:
        """The frame at ``at``; ``None`` where a crash tore the last one."""
        payload = _payload(file, at)
        if payload is not None:
            frame: Frame = _decoder.decode(payload)
            return frame
        file.seek(at)
        rest = file.read()
        # A torn frame is a frame's beginning, or the zeros of a block that was allotted and never written.
        torn = rest.startswith(_MAGIC[: len(rest)]) or (at > 0 and not rest.strip(b"\0"))
        if torn and not self._any_behind(file, at, rest):
            return None
        raise LogError(
            f"{self.path}: damaged at byte {at} of {size}; restore the file, or cut it there to lose what is behind"
        )

    def _any_behind(self, file: BinaryIO, at: int, rest: bytes) -> bool:
        """Whether a whole frame follows: then the one at ``at`` is damaged (perhaps its length), not torn."""
        found = rest.find(_MAGIC, 1)
        while found >= 0:
            if _payload(file, at + found) is not None:
                return True
            found = rest.find(_MAGIC, found + 1)
        return False

    @property
    def last_position(self) -> int:
        """Where the newest frame begins, recovered or written."""
        return self._positions[-1][1]

    def read(self, position: int) -> list[tuple[bytes, bytes, float]]:
        """The records of the frame at ``position``, from the disk."""
        self._file.flush()
        with self.path.open("rb") as file:
            file.seek(position)
            frame = self._read_frame(file, position, os.fstat(file.fileno()).st_size)
        if frame is None:
            raise LogError(f"{self.path}: no whole batch at byte {position}; the file was changed while in use")
        return frame[4]

    def write(
        self, seq: int, topic: str, partition: int, offset: int, records: Sequence[tuple[bytes, bytes, float]]
    ) -> None:
        """Append one batch."""
        payload = _encoder.encode((seq, topic, partition, offset, records))
        self._positions.append((seq, self._file.tell()))
        self._file.write(_HEADER.pack(_MAGIC, len(payload), crc32(payload)) + payload)

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
