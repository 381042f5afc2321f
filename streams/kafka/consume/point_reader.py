"""Reads single records of a topic back by their offsets, and says where it begins and ends, over one connection.

A broker gives whole batches of records. What lies next to a record that was asked for is kept for a while: who reads
one after the other, however slowly, reads each batch once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np

from weir.online.batch import IntVector
from weir.online.codec.limits import InputLimits
from weir.streams.errors import BrokerError
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.kafka_errors import RecordsDeleted
from weir.streams.records import Record

FETCH_BYTES: Final = 256 << 10
KEEP_BYTES: Final = 32 << 20
_SPAN_BYTES: Final = 1_024
"""What a stretch itself counts as: of many that hold little, or nothing, there would else be no end."""
NEAR: Final = 2_000
"""Offsets to the next record that are read over; beyond it the reader goes there."""
PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Kept:
    """Records that a broker gave at once."""

    partition: int
    start: int
    stop: int
    offsets: IntVector
    records: Sequence[Record]
    size: int


class PointReader:
    """Records of one topic by their offsets; connects when first asked, and anew after an error.

    Parameters
    ----------
    options : of ``KafkaSettings.client_options``.
    topic : the topic.
    limits : how large its records may be.
    keep_bytes : what is kept of what was read, at most.
    """

    def __init__(
        self, options: Mapping[str, Any], topic: str, limits: InputLimits | None = None, keep_bytes: int = KEEP_BYTES
    ) -> None:
        self._options, self._topic, self._limits, self._keep_bytes = dict(options), topic, limits, keep_bytes
        self._reader: RangeReader | None = None
        self._turn = asyncio.Lock()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._size = 0
        self._numbers = count()
        self.fetches = 0
        """How often a broker was asked."""

    async def read(self, partition: int, offsets: Sequence[int]) -> dict[int, Record]:
        """The records at ``offsets``; one that Kafka does not hold any more is left out.

        Raises
        ------
        BrokerError
            No broker answered; the next call connects anew.
        UsageError
            There is no such topic.
        """
        async with self._turn:
            found = self._from_kept(partition, offsets)
            # Ascending, so that every stretch of the log is read once.
            left = deque(sorted(offset for offset in offsets if offset not in found))
            try:
                while left:
                    await self._fetch(partition, left, found)
            except BrokerError:
                await self.close()
                raise
            return {offset: record for offset, record in found.items() if record is not None}

    def _from_kept(self, partition: int, offsets: Sequence[int]) -> dict[int, Record | None]:
        """What was read before; ``None`` where there is no record."""
        found: dict[int, Record | None] = {}
        for number, kept in [(n, kept) for n, kept in self._kept.items() if kept.partition == partition]:
            if inside := [offset for offset in offsets if kept.start <= offset < kept.stop]:
                self._kept.move_to_end(number)
                found |= _at(kept, inside)
        return found

    async def _fetch(self, partition: int, left: deque[int], found: dict[int, Record | None]) -> None:
        """Read the first of ``left``, and what follows it closely."""
        reader, at = await self._connected(), left[0]
        reader.stand(partition, at)
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while left and left[0] < at + NEAR:
            try:
                offsets, records, *_ = await reader.fetch()
            except RecordsDeleted:
                await self._leave_out(reader, partition, left)
                return
            self.fetches += 1
            before, at = at, await reader.position()
            if at > before:
                kept = self._keep(partition, before, at, offsets, records)
                inside = [left.popleft() for _ in range(sum(offset < at for offset in left))]
                found |= _at(kept, inside)
            elif asyncio.get_running_loop().time() > deadline:
                raise BrokerError(
                    f"{self._topic}-{partition}: nothing came for {PATIENCE_S:g} s at offset {at}; see whether the "
                    "brokers are up"
                )

    async def _leave_out(self, reader: RangeReader, partition: int, left: deque[int]) -> None:
        """Give up what is before the log's beginning or behind its end; raises what the brokers say else."""
        first, end = await reader.bounds(partition)
        there = [offset for offset in left if first <= offset < end]
        if len(there) == len(left):
            raise BrokerError(f"{self._topic}-{partition}: offset {left[0]} is between {first} and {end}, and refused")
        left.clear()
        left.extend(there)

    async def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset that is kept, and the one behind the last that may be read now; raises as ``read`` does."""
        async with self._turn:
            try:
                return await (await self._connected()).bounds(partition)
            except BrokerError:
                await self.close()
                raise

    async def _connected(self) -> RangeReader:
        if self._reader is None:
            reader = RangeReader(self._options, self._topic, fetch_bytes=FETCH_BYTES, limits=self._limits)
            self._reader = await reader.__aenter__()
        return self._reader

    def _keep(self, partition: int, start: int, stop: int, offsets: Sequence[int], records: Sequence[Record]) -> _Kept:
        size = _SPAN_BYTES + sum(len(record.value) + len(record.key) for record in records)
        kept = _Kept(partition, start, stop, np.array(offsets, np.int64), records, size)
        self._kept[next(self._numbers)] = kept
        self._size += size
        # The newest stays however large it is: the caller takes from it now.
        while self._size > self._keep_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size
        return kept

    async def close(self) -> None:
        """Let go of the connection."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.__aexit__(None, None, None)


def _at(kept: _Kept, offsets: Sequence[int]) -> dict[int, Record | None]:
    """What was read at some of its offsets; ``None`` where there is no record."""
    found = dict[int, Record | None].fromkeys(offsets)
    place = np.searchsorted(kept.offsets, np.array(offsets, np.int64)).tolist()
    for offset, at in zip(offsets, place, strict=True):
        if at < len(kept.records) and kept.offsets[at] == offset:
            found[offset] = kept.records[at]
    return found
