"""What a fetch brought of a partition, unpacked as it is taken. Nothing in it raises, and memory is bounded.

A record whose value is larger than `InputLimits.record_bytes` is refused before anything holds it; so is, by its
offsets, a batch that would become larger than ``batch_bytes``, or that cannot be read. Of each fetch one batch at a
time is decompressed, and of that only so many records as are taken become objects.
A fetch that is damaged is asked for once more: the connection may be at fault. What is damaged again is so in the log.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple

import numpy as np
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.record.util import calc_crc32c

from weir.online.codec.limits import InputLimits
from weir.streams.kafka.consume.codecs import NAMES, BatchTooLarge, decompress
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.consume.unpack import HEADER_BYTES, TAKEN, Columns, Header, OldBatch, OpenBatch, old_crc_fits
from weir.streams.records import Record, RefusedRecord, oversized

_ROOM: Final = 4 << 20
"""Bytes of records that are taken in one go; one more record may be on top."""
KEPT: Final = 64 * 1024
"""How much of a record that is too large, or of a batch that cannot be read, its dead letter holds."""
_RECORD: Final = partial(tuple.__new__, Record)
"""A third of the time of ``Record._make``."""
_LENGTH_FROM, _MAGIC_AT, _CRC_FROM = 12, 16, 21
_LEAST: Final = {0: 26, 1: 34}
"""Bytes of the smallest message of the old formats."""


class Unpacking:
    """What one reader of partitions allows, and remembers of them. One thread at a time.

    Parameters
    ----------
    limits : what a record and a batch may hold.
    special : the same of some topics.
    """

    def __init__(self, limits: InputLimits, special: Mapping[str, InputLimits] | None = None) -> None:
        self.limits, self.special = limits, special or {}
        self.most = TAKEN
        """Records that are taken in one go."""
        self.suspects: dict[Any, int] = {}
        """By partition, the offset at which a fetch was damaged."""
        self.out = np.empty((6, TAKEN), np.int64)

    def watch(self, fetcher: Any) -> None:
        """Let one of aiokafka's fetchers bring `FetchedRecords` instead of unpacking by itself."""

        def fetched(tp: Any, whole: _Whole, aborted: Any, position: int, *_: Any) -> FetchedRecords:
            state = fetcher._subscriptions.subscription.assignment.state_value(tp)
            found = FetchedRecords(self, tp, whole.data, position, aborted or (), state.highwater)
            found.limits = self.special.get(tp.topic, self.limits)
            return found

        # aiokafka has no place to give another: its method runs with other classes under the same names.
        ours = {**vars(aiokafka_fetcher), "MemoryRecords": _Whole, "PartitionRecords": fetched}
        code = type(fetcher)._proc_fetch_request.__code__
        fetcher._proc_fetch_request = MethodType(FunctionType(code, ours), fetcher)


class _Found(NamedTuple):
    """A `Slice` that is being made."""

    offsets: list[int]
    records: list[Record]
    refused: list[RefusedRecord]


class _Whole:
    """All that a fetch brought, with what aiokafka asks of its own class."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data or b""

    def has_next(self) -> bool:
        return bool(self.data)

    def size_in_bytes(self) -> int:
        return len(self.data)


class FetchedRecords:
    """One fetch of one partition.

    Parameters
    ----------
    unpacking : of the reader.
    partition : whose it is.
    data : record batches one behind the other; the last may be cut off.
    position : the offset that was asked for.
    aborted : ``(producer, first offset)`` of transactions that do not count.
    end : offset behind the last record of the log, so far as it is known.
    """

    def __init__(
        self,
        unpacking: Unpacking,
        partition: Any,
        data: bytes,
        position: int,
        aborted: Sequence[tuple[int, int]] = (),
        end: int | None = None,
    ) -> None:
        self.next_fetch_offset = position
        """Where reading goes on; by aiokafka's name."""
        self.bytes = 0
        """Of the keys and values taken so far."""
        self.limits = unpacking.limits
        self._unpacking, self._partition, self._end = unpacking, partition, end
        self._data, self._at = data, 0
        self._bytes = np.frombuffer(data, np.uint8)
        self._open: OpenBatch | OldBatch | None = None
        self._frame, self._first, self._stop, self._codec = memoryview(b""), 0, 0, 0
        # By offset, as they are taken from the front: brokers promise no order, and Java's client sorts them too.
        self._aborted, self._aborting = sorted(aborted, key=lambda a: a[1]), set[int]()

    @property
    def done(self) -> bool:
        """Whether everything was taken."""
        return self._open is None and self._at >= len(self._data)

    def __iter__(self) -> FetchedRecords:
        """Stretches as large as the reader wants them."""
        return self

    def __next__(self) -> Slice:
        """The next one that holds anything."""
        while not self.done:
            found = self.take(self._unpacking.most, _ROOM)
            if found.records or found.refused:
                return found
        raise StopIteration

    def take(self, most: int, room: int) -> Slice:
        """Up to ``most`` records of some ``room`` bytes, and what was refused among them."""
        found, limits = _Found([], [], []), self.limits
        out, most = self._unpacking.out, min(most, TAKEN)
        first, row, large, data, appended = 0, 0, False, self._data, True
        while row < most and room > 0 and not self.done:
            if self._open is None:
                found.refused.extend(self._next())
                continue
            batch = self._open
            if batch.data is not data:  # what was found until now lies elsewhere
                self._put(found, data, out[:, first:row], large)
                first, large, data = row, False, batch.data
            row, size, some = batch.take(self.next_fetch_offset, room, limits.record_bytes, out, row, most)
            room, large, self.bytes = room - size, large or some, self.bytes + size
            appended = appended and batch.appended
            # Never back: a fetch begins with the whole batch that holds the offset asked for.
            self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)
            if batch.wrong:
                found.refused.append(self._refuse(f"unreadable: {{}}: {batch.wrong}"))
            if batch.done:
                self.next_fetch_offset = max(self.next_fetch_offset, self._stop)
                self._open = None
        self._put(found, data, out[:, first:row], large)
        return Slice(*found, appended)

    def _put(self, found: _Found, data: bytes, columns: Columns, large: bool) -> None:
        """Make records of what lies in ``data``."""
        # Sizes are looked at only where the kernel met one that is too large, which is nearly never.
        if large:
            largest = self.limits.record_bytes
            fits = (columns[[3, 5]] - columns[[2, 4]]).max(axis=0) <= largest
            found.refused.extend(_too_large(data, row, largest) for row in columns[:, ~fits].T.tolist())
            found.refused.sort(key=lambda refused: refused.offset)
            columns = columns[:, fits]
        offsets, _, key_at, key_end, value_at, value_end = columns.tolist()
        keys = [data[a:b] for a, b in zip(key_at, key_end, strict=True)]
        values = [data[a:b] for a, b in zip(value_at, value_end, strict=True)]
        found.offsets.extend(offsets)
        found.records.extend(map(_RECORD, zip(keys, values, (columns[1] / 1000).tolist(), strict=True)))

    # -- batches -------------------------------------------------------------------------------------------------

    def _next(self) -> list[RefusedRecord]:
        """Open the next batch, or go behind it; what of it is refused."""
        at, left = self._at, len(self._data) - self._at
        length = struct.unpack_from(">i", self._data, at + 8)[0] if left > _MAGIC_AT else 0
        magic = self._data[at + _MAGIC_AT] if left > _MAGIC_AT else 0
        size = _LENGTH_FROM + length
        # Cut off, as the last of a fetch may be: anywhere, also before it has said how long it is.
        if at > 0 and (size > left or left <= _MAGIC_AT):
            self._at = len(self._data)
            return []
        self._frame = memoryview(self._data)[at : at + max(size, 0)]
        # The first of a fetch is never cut off: brokers give it whole, whatever the bound (KIP-74).
        if size < _LEAST.get(magic, HEADER_BYTES) or size > left:
            self._frame = memoryview(self._data)[at:]
            return self._damaged(len(self._data), "it does not say how long it is")
        self._at = at + size
        refused = self._next_old() if magic < 2 else self._next_new()
        if self._open is not None:  # what was damaged on its way has come whole
            self._unpacking.suspects.pop(self._partition, None)
        return refused

    def _next_new(self) -> list[RefusedRecord]:
        frame = self._frame
        header = Header.of(frame)
        self._first, self._stop, self._codec = header.base, header.stop, header.codec
        if calc_crc32c(frame[_CRC_FROM:]) != header.crc:
            return self._damaged(self._at, "its checksum is wrong")
        if header.stop <= self.next_fetch_offset:  # it was read before; a fetch does not begin with such a batch
            return self._damaged(self._at, "it ends before it begins") if len(frame) == self._at else []
        if header.magic > 2:
            return [self._passed(f"unreadable: {{}}: format {header.magic} is not known")]
        if not self._counts(header):
            self.next_fetch_offset = header.stop
            return []
        if not header.codec:
            at = self._at - len(frame) + HEADER_BYTES
            self._open = OpenBatch(header, self._data, self._bytes, at, self._at)
            return []
        try:
            data = decompress(header.codec, frame[HEADER_BYTES:], self.limits.batch_bytes)
        except ValueError as error:
            return [self._passed(self._said(error))]
        self._open = OpenBatch(header, data, np.frombuffer(data, np.uint8), 0, len(data))
        return []

    def _next_old(self) -> list[RefusedRecord]:
        (offset,) = struct.unpack_from(">q", self._frame)
        self._first, self._stop, self._codec = 0, offset + 1, self._frame[17] & 0x07
        if not old_crc_fits(self._frame):
            return self._damaged(self._at, "its checksum is wrong")
        if self._stop <= self.next_fetch_offset:
            return []
        try:
            self._open = OldBatch(self._frame, self.limits.batch_bytes)
        except ValueError as error:
            return [self._passed(self._said(error))]
        return []

    def _counts(self, header: Header) -> bool:
        """Whether a batch holds records that count: no marker, and no transaction that was given up."""
        # Without a number the producer was not idempotent, and had no transactions.
        if header.producer >= 0:
            while self._aborted and self._aborted[0][1] <= header.base:
                self._aborting.add(self._aborted.pop(0)[0])
            if header.control and _aborts(header, self._frame):
                self._aborting.discard(header.producer)
            if header.transactional and header.producer in self._aborting:
                return False
        return not header.control

    # -- what cannot be read -------------------------------------------------------------------------------------

    def _damaged(self, behind: int, why: str) -> list[RefusedRecord]:
        """Ask for a batch again the first time, and refuse it the second; ``behind``: where the next begins."""
        suspects, position = self._unpacking.suspects, self.next_fetch_offset
        if suspects.get(self._partition) != position:
            suspects[self._partition] = position
            # The position stays, and nothing behind is taken, so aiokafka asks from here again.
            self._at = len(self._data)
            return []
        del suspects[self._partition]
        self._at = behind
        # What the batch says of itself may be wrong; the next one follows it, and it does not end behind the log.
        if len(self._data) - behind >= 8:
            (self._stop,) = struct.unpack_from(">q", self._data, behind)
        if not position < self._stop <= (self._end or self._stop):
            self._stop = position + 1
        self._first = position
        return [self._passed(f"unreadable: {{}}: {why}, in two fetches")]

    def _said(self, error: ValueError) -> str:
        if isinstance(error, BatchTooLarge):
            return f"oversized: {{}}: {error}; send smaller batches or raise [limits] batch_bytes"
        return f"unreadable: {{}}: {error}"

    def _passed(self, reason: str) -> RefusedRecord:
        """The rest of a batch is refused, and reading goes on behind it."""
        refused = self._refuse(reason)
        self.next_fetch_offset = max(self.next_fetch_offset, self._stop)
        return refused

    def _refuse(self, reason: str) -> RefusedRecord:
        # What is behind the last record of a batch is told of that one.
        frame, last = self._frame, self._stop - 1
        first = min(max(self.next_fetch_offset, self._first), last)
        codec = NAMES[self._codec] if self._codec < len(NAMES) else f"codec {self._codec}"
        said = reason.format(f"a batch of {len(frame)} bytes ({codec}), offsets {first} to {last}")
        record, size, sha256 = _cut(b"", frame, 0.0)
        return RefusedRecord(first, said, record, last, size, sha256)


def _too_large(data: bytes, row: list[int], largest: int) -> RefusedRecord:
    offset, time, key_at, key_end, value_at, value_end = row
    # The kernel says only that one of the two is too large.
    if value_end - value_at > largest:
        why = oversized(value_end - value_at, largest)
    else:
        why = oversized(key_end - key_at, largest, "bytes of key")
    view = memoryview(data)
    record, whole, sha256 = _cut(
        bytes(view[key_at : min(key_end, key_at + KEPT)]), view[value_at:value_end], time / 1000
    )
    return RefusedRecord(offset, why, record, None, whole, sha256)


def _cut(key: bytes, value: memoryview, ts: float) -> tuple[Record, int | None, str | None]:
    """A record of the first bytes; how many there are and their digest, where it does not hold all."""
    record = Record(key, bytes(value[:KEPT]), ts)
    return (record, None, None) if len(value) <= KEPT else (record, len(value), hashlib.sha256(value).hexdigest())


def _aborts(header: Header, frame: memoryview) -> bool:
    """Whether a marker says that a transaction was given up: its key is a version and 0."""
    data, out = bytes(frame), np.empty((6, 1), np.int64)
    marker = OpenBatch(header, data, np.frombuffer(data, np.uint8), HEADER_BYTES, len(data))
    found = marker.take(header.base, 1, len(data), out, 0, 1)
    return found.row == 1 and data[out[2, 0] : out[3, 0]][2:4] == b"\x00\x00"
