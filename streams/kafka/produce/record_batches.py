"""Kafka record batches (message format 2) encoded whole: a compiled kernel lays out one partition's records at once.

Records come as columns, keys and values end to end, so that none has to be an object.

A stand-in for aiokafka's `BatchBuilder`, byte for byte the same, which costs 1-2 us a record. Source:
https://kafka.apache.org/documentation/#recordbatch. It knows neither topics nor brokers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
from aiokafka import codec
from aiokafka.record.util import calc_crc32c
from numpy.typing import NDArray

from weir.online.jit import njit
from weir.streams.records import Record

HEADER_BYTES = 61
RECORD_BYTES = 1 + 5 + 10 + 5 + 5 + 5 + 1
"""The most that a record takes beside its key and value: attributes, five variable-length numbers, no headers."""

# Base offset, length, leader epoch, magic, CRC | attributes, last offset, first and last time, producer id and epoch,
# sequence, records. The CRC covers what is behind it.
_HEADER = struct.Struct(">qiibIhiqqqhii")
_CRC_AT, _CRC_FROM, _LENGTH_FROM = 17, 21, 12
# Fast levels: aiokafka's own take 12 (lz4, 9) and 25 times (gzip, 9) as long for a sixth and an eighth less, and 1.5
# times (zstd, 3) for nothing.
_CODECS: dict[str, tuple[int, Callable[[bytes], bytes] | None]] = {
    "none": (0, None),
    "gzip": (1, partial(codec.gzip_encode, compresslevel=1)),
    "snappy": (2, codec.snappy_encode),
    "lz4": (3, partial(codec.lz4_encode, level=1)),
    "zstd": (4, partial(codec.zstd_encode, level=1)),
}
Bytes = NDArray[np.uint8]
Ends = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Columns:
    """Records as columns: ``keys`` and ``values`` end to end, (.,) uint8; where each ends and its time, (B,) int64."""

    keys: Bytes
    key_ends: Ends
    values: Bytes
    value_ends: Ends
    times_ms: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.times_ms)

    @classmethod
    def of(cls, records: Sequence[Record]) -> Columns:
        """The columns of some records."""
        keys, values = [r[0] for r in records], [r[1] for r in records]
        times = np.array([r[2] for r in records], dtype=np.float64) * 1000.0
        return cls(*_end_to_end(keys), *_end_to_end(values), times.astype(np.int64))

    @classmethod
    def written(cls, keys: Sequence[str], values: bytes, value_ends: Ends, ts: float) -> Columns:
        """Those of records of one time, in epoch seconds, whose ``values`` are end to end already.

        >>> columns = Columns.written(["é", "u1"], b"{}[1]", np.array([2, 5]), 1.5)
        >>> columns.record(1)
        Record(key=b'u1', value=b'[1]', ts=1.5)
        """
        joined = "".join(keys)
        if joined.isascii():
            ends = np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)))
            own = np.frombuffer(joined.encode(), np.uint8), ends
        else:
            own = _end_to_end([key.encode() for key in keys])
        return cls(*own, np.frombuffer(values, np.uint8), value_ends, np.full(len(keys), int(ts * 1000.0)))

    @classmethod
    def concat(cls, parts: Sequence[Columns]) -> Columns:
        """The records of all parts, one part behind the other."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.of(())
        return cls(
            *_behind([(part.keys, part.key_ends) for part in parts]),
            *_behind([(part.values, part.value_ends) for part in parts]),
            np.concatenate([part.times_ms for part in parts]),
        )

    def record(self, row: int) -> Record:
        """One of the records."""
        key, value = _cut(self.keys, self.key_ends, row), _cut(self.values, self.value_ends, row)
        return Record(key, value, int(self.times_ms[row]) / 1000.0)

    def sizes(self) -> NDArray[np.int64]:
        """Bytes of key and value of each record, ``(B,) int64``."""
        sizes = self.key_ends + self.value_ends
        sizes[1:] -= sizes[:-1].copy()
        return sizes


def _end_to_end(parts: Sequence[bytes]) -> tuple[Bytes, Ends]:
    sizes = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    return np.frombuffer(b"".join(parts), dtype=np.uint8), np.cumsum(sizes)


def _behind(parts: Sequence[tuple[Bytes, Ends]]) -> tuple[Bytes, Ends]:
    starts = accumulate((len(joined) for joined, _ in parts), initial=0)
    ends = [ends + start for (_, ends), start in zip(parts, starts, strict=False)]
    # Read-only, as everywhere: to compiled code another kind of array would be another type, and to be compiled anew.
    return np.frombuffer(b"".join([joined.data for joined, _ in parts]), np.uint8), np.concatenate(ends)


def _cut(joined: Bytes, ends: Ends, row: int) -> bytes:
    return joined[ends[row - 1] if row else 0 : ends[row]].tobytes()


@njit(cache=True, inline="always")
def _varint(out: Any, at: int, number: int) -> int:
    # Zigzag, then seven bits a byte, the lowest first. Returns where it ends.
    rest = np.uint64((number << 1) ^ (number >> 63))
    while rest > np.uint64(0x7F):
        out[at] = np.uint8((rest & np.uint64(0x7F)) | np.uint64(0x80))
        rest >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(rest)
    return at + 1


@njit(cache=True, inline="always")
def _varint_size(number: int) -> int:
    rest, size = np.uint64((number << 1) ^ (number >> 63)), 1
    while rest > np.uint64(0x7F):
        rest >>= np.uint64(7)
        size += 1
    return size


@njit(cache=True)
def _encode(
    keys: Any, key_ends: Any, values: Any, value_ends: Any, times: Any, rows: Any, first: int, limit: int, out: Any
) -> tuple[int, int, int]:
    # Records rows[first:] into out (.,) uint8, behind the header, up to limit bytes but at least one. Returns how many
    # there are, where they end and the largest time.
    at, base, newest = 61, times[rows[first]], times[rows[first]]
    for place in range(first, len(rows)):
        row, number = rows[place], place - first
        key_at = key_ends[row - 1] if row > 0 else 0
        value_at = value_ends[row - 1] if row > 0 else 0
        key_size, value_size, delta = key_ends[row] - key_at, value_ends[row] - value_at, times[row] - base
        size = 2 + _varint_size(delta) + _varint_size(number) + _varint_size(key_size) + key_size
        size += _varint_size(value_size) + value_size
        if number > 0 and at + size + _varint_size(size) > limit:
            return number, at, newest
        at = _varint(out, at, size)
        out[at] = 0  # attributes
        at = _varint(out, at + 1, delta)
        at = _varint(out, at, number)
        at = _varint(out, at, key_size)
        out[at : at + key_size] = keys[key_at : key_at + key_size]
        at = _varint(out, at + key_size, value_size)
        out[at : at + value_size] = values[value_at : value_at + value_size]
        at += value_size
        out[at] = 0  # headers
        at += 1
        newest = max(newest, times[row])
    return len(rows) - first, at, newest


class EncodedBatch:
    """One record batch, with the methods of aiokafka's `BatchBuilder` that its producer calls."""

    def __init__(self, buffer: bytearray, count: int, times: tuple[int, int], compression: str) -> None:
        self._buffer, self._count, self._times, self._compression = buffer, count, times, compression
        self._producer: tuple[int, int, int] = (-1, -1, 0)
        self._built = False

    def record_count(self) -> int:
        """Records in it."""
        return self._count

    def size(self) -> int:
        """Its bytes, before compression until it is built."""
        return len(self._buffer)

    def close(self) -> None:
        """It has been closed from the start."""

    def closed(self) -> bool:
        """Nothing can be added."""
        return True

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytearray:
        # A repeat of the request must be the same bytes, so that the broker recognises it.
        if not self._built:
            self._built = True
            self._write_header(self._compress())
        return self._buffer

    def _compress(self) -> int:
        number, encode = _CODECS[self._compression]
        if encode is None:
            return 0
        body = encode(bytes(memoryview(self._buffer)[HEADER_BYTES:]))
        # Small batches may grow; the header says of each what it is.
        if len(body) >= len(self._buffer) - HEADER_BYTES:
            return 0
        self._buffer[HEADER_BYTES:] = body
        return number

    def _write_header(self, attributes: int) -> None:
        buffer, last = self._buffer, self._count - 1
        behind = len(buffer) - _LENGTH_FROM
        _HEADER.pack_into(buffer, 0, 0, behind, -1, 2, 0, attributes, last, *self._times, *self._producer, self._count)
        struct.pack_into(">I", buffer, _CRC_AT, calc_crc32c(memoryview(buffer)[_CRC_FROM:]))


def encoded_batches(
    columns: Columns, rows: NDArray[np.int64], limit: int, compression: str = "none"
) -> Iterator[EncodedBatch]:
    """The chosen records in batches of at most ``limit`` bytes; a larger single record has one to itself.

    ``rows`` : ``(n,) int64``, places in ``columns``, in the order of sending.
    """
    if not len(rows):
        return
    c, sizes, first = columns, columns.sizes()[rows] + RECORD_BYTES, 0
    out = np.empty(HEADER_BYTES + max(int(sizes.max()), min(int(sizes.sum()), limit)), dtype=np.uint8)
    while first < len(rows):
        count, end, newest = _encode(c.keys, c.key_ends, c.values, c.value_ends, c.times_ms, rows, first, limit, out)
        times = int(c.times_ms[rows[first]]), int(newest)
        # A copy: the next batch is laid out in the same buffer while this one waits for its broker.
        yield EncodedBatch(bytearray(out[:end].data), count, times, compression)
        first += count
