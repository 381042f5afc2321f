"""Finds the records of one Kafka batch, in the bytes it holds; no number in them is believed.

A compiled kernel checks every length against the bytes that are there. Records come as columns ``(6, n) int64``:
offset, time in ms, where the key begins and ends in the data, where the value does. It knows no topics and no brokers.

Source: https://kafka.apache.org/documentation/#recordbatch, and #messageset for the formats before 2017.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weir.online.jit import njit
from weir.streams.kafka.consume.codecs import decompress

Columns = NDArray[np.int64]
TAKEN: Final = 4_096
"""Records that are found in one go, at most."""
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES: Final = _HEADER.size


class Header(NamedTuple):
    """What a batch of format 2 begins with."""

    base: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_delta: int
    first_ms: int
    newest_ms: int
    producer: int
    producer_epoch: int
    sequence: int
    records: int

    @classmethod
    def of(cls, frame: memoryview) -> Header:
        """Read it; ``frame`` has at least `HEADER_BYTES`."""
        return cls._make(_HEADER.unpack_from(frame))

    @property
    def stop(self) -> int:
        """The offset behind its last."""
        return self.base + self.last_delta + 1

    @property
    def codec(self) -> int:
        """Its number."""
        return self.attributes & 0x07

    @property
    def transactional(self) -> bool:
        """Whether its records count only once their transaction is committed."""
        return bool(self.attributes & 0x10)

    @property
    def control(self) -> bool:
        """Whether it holds a transaction's marker instead of records."""
        return bool(self.attributes & 0x20)


@njit(cache=True, nogil=True, inline="always")
def _number(data: Any, at: int, end: int) -> Any:
    # A number of variable length in data (B,) uint8, and where it ends; -1 where it does not end before `end`.
    value, shift = np.uint64(0), np.uint64(0)
    # Ten bytes of seven bits hold 64; what is longer is no number of Kafka's.
    while at < end and shift < np.uint64(70):
        byte = np.uint64(data[at])
        value |= (byte & np.uint64(0x7F)) << shift
        at += 1
        if byte < np.uint64(0x80):
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), -1


@njit(cache=True, nogil=True)
def _scan(
    data: Any,
    at: int,
    end: int,
    base: int,
    last: int,
    first_ms: int,
    appended_ms: int,
    since: int,
    before: int,
    room: int,
    largest: int,
    out: Any,
    row: int,
    most: int,
) -> tuple[int, int, int, int, bool, int, bool]:
    # Finds records in data[at:end] (B,) uint8 and writes them to out (6, N) from `row` on; those before the offset
    # `since` are left out. Ends at row `most`, where `room` bytes were found (values larger than `largest` do not
    # count), or at what is no record. Returns the next row, how many records were read, where it ended, the last offset
    # read less `base`, whether it ended at no record, the bytes, and whether any was larger than `largest`.
    seen, size_of_all, large = 0, 0, False
    while at < end and row < most and size_of_all < room:
        size, body = _number(data, at, end)
        if body < 0 or size < 1 or size > end - body:
            return row, seen, at, before, True, size_of_all, large
        stop = body + size
        time, place = _number(data, body + 1, stop)  # behind the attributes
        if place < 0:
            return row, seen, at, before, True, size_of_all, large
        offset, place = _number(data, place, stop)
        # Else one record could move the reader anywhere: offsets ascend, up to what the header says.
        if place < 0 or offset <= before or offset > last:
            return row, seen, at, before, True, size_of_all, large
        key, key_at = _number(data, place, stop)
        if key_at < 0 or key > stop - key_at:
            return row, seen, at, before, True, size_of_all, large
        key_end = key_at + max(key, 0)
        value, value_at = _number(data, key_end, stop)
        if value_at < 0 or value > stop - value_at:
            return row, seen, at, before, True, size_of_all, large
        at, before, seen = stop, offset, seen + 1
        # A fetch begins with the whole batch that holds the offset asked for.
        if base + offset >= since:
            out[0, row], out[1, row] = base + offset, appended_ms if appended_ms >= 0 else first_ms + time
            out[2, row], out[3, row], out[4, row], out[5, row] = key_at, key_end, value_at, value_at + max(value, 0)
            row += 1
            if value > largest or key > largest:
                large = True
            else:
                size_of_all += size
    return row, seen, at, before, False, size_of_all, large


class UnpackedBatch(NamedTuple):
    """What was found of a batch."""

    row: int
    """Where the next one goes."""
    size: int
    """Bytes of the records."""
    large: bool
    """Whether any is larger than allowed."""


class OpenBatch:
    """A batch that is being read.

    Parameters
    ----------
    header : its own.
    data, bytes_ : what holds its records, decompressed; the same as an array.
    at, end : where they begin and end there.
    """

    def __init__(self, header: Header, data: bytes, bytes_: NDArray[np.uint8], at: int, end: int) -> None:
        self.data, self._header = data, header
        self._bytes, self._at, self._end = bytes_, at, end
        self._before, self._seen = -1, 0
        self.appended = bool(header.attributes & 0x08)
        """Whether the times are the broker's, of when it took the records."""
        self.wrong = ""
        """Why nothing more can be read of it."""

    @property
    def next_offset(self) -> int:
        """The offset behind what was read."""
        return self._header.base + self._before + 1

    @property
    def done(self) -> bool:
        """Whether nothing more can be read."""
        return bool(self.wrong) or self._at >= self._end

    def take(self, since: int, room: int, largest: int, out: Columns, row: int, most: int) -> UnpackedBatch:
        """Find the next records from offset ``since`` on for ``out[:, row:most]``, of some ``room`` bytes."""
        h = self._header
        row, seen, self._at, self._before, broken, size, large = _scan(
            self._bytes, self._at, self._end, h.base, h.last_delta, h.first_ms,
            h.newest_ms if self.appended else -1, since, self._before, room, largest, out, row, most,
        )  # fmt: skip
        self._seen += seen
        if broken:
            self.wrong = f"behind {self._seen} of its {h.records} records is something else"
        elif self._at >= self._end and self._seen != h.records:
            self.wrong = f"it says that it holds {h.records} records, and has {self._seen}"
        return UnpackedBatch(row, size, large)


class OldBatch:
    """A message of format 0 or 1: one record, or several compressed; like `OpenBatch`.

    Raises what `decompress` does, and ``ValueError`` for what is no message.
    """

    def __init__(self, frame: memoryview, most: int) -> None:
        self.wrong, self.data = "", bytes(frame)
        (row,) = found = list(_messages(self.data))
        codec, self.appended = frame[17] & 0x07, bool(frame[17] & 0x08)
        if codec:
            self.data = decompress(codec, frame[row[4] : row[5]], most)
            found = list(_messages(self.data))
            if frame[16] == 1 and found:  # offsets count from the first; the message has that of the last
                found = [(each[0] + row[0] - found[-1][0], *each[1:]) for each in found]
        self._rows = np.array(found, np.int64).reshape(-1, 6).T
        if self.appended:
            self._rows[1] = row[1]
        # Of several compressed ones it moves as they are taken.
        self.next_offset = row[0] + 1 if not codec else 0

    @property
    def done(self) -> bool:
        """Whether nothing more can be read."""
        return not self._rows.shape[1]

    def take(self, since: int, room: int, largest: int, out: Columns, row: int, most: int) -> UnpackedBatch:
        """Find the next records from offset ``since`` on for ``out[:, row:most]``."""
        del room
        found, self._rows = np.split(self._rows, [most - row], axis=1)
        if found.shape[1]:
            self.next_offset = int(found[0, -1]) + 1
        found = found[:, found[0] >= since]
        out[:, row : row + found.shape[1]] = found
        sizes = found[[3, 5]] - found[[2, 4]]
        return UnpackedBatch(row + found.shape[1], int(sizes.sum()), bool((sizes > largest).any()))


def _messages(data: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Rows of messages of the formats 0 and 1, one behind the other."""
    at = 0
    while at < len(data):
        try:
            offset, size, _, magic, _ = struct.unpack_from(">qiIbb", data, at)
            (time,) = struct.unpack_from(">q", data, at + 18) if magic == 1 else (-1,)
            place = at + (26 if magic == 1 else 18)
            (key,) = struct.unpack_from(">i", data, place)
            (value,) = struct.unpack_from(">i", data, place + 4 + max(key, 0))
        except struct.error as error:
            raise ValueError(f"not a message: {error}") from error
        key_at, stop = place + 4, at + 12 + size
        value_at = key_at + max(key, 0) + 4
        if not value_at + max(value, 0) <= stop <= len(data):
            raise ValueError(f"not a message: {size} bytes at {at} hold a key of {key} and a value of {value} bytes")
        yield offset, time, key_at, value_at - 4, value_at, value_at + max(value, 0)
        at = stop


def old_crc_fits(frame: memoryview) -> bool:
    """Whether the checksum of a message of format 0 or 1 is right."""
    (crc,) = struct.unpack_from(">I", frame, 12)
    return zlib.crc32(frame[16:]) == int(crc)
