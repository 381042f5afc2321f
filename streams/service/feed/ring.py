"""The newest records of the feed in memory, from which clients resume without the log; and what a client has missed."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import cached_property
from heapq import merge
from itertools import takewhile
from operator import attrgetter
from typing import Final

from weir.streams.records import RecordBatch
from weir.streams.service.feed.feed_item import FeedFilter, FeedItem
from weir.streams.service.feed.place import LETTERS, Place, Shard
from weir.streams.service.parts import Problem
from weir.streams.service.ports import ServiceLog, within

_RECORD_BYTES: Final = 400
"""Of objects around one record; its value counts twice, as it came and as it is sent."""


class FeedBatch:
    """Consecutive records of one partition in the ring; nothing of them is made before a client asks for it.

    Parameters
    ----------
    seq : its number among all batches of the ring, in the order in which they are handed out.
    batch : the records.
    start : records before this offset are left out.
    """

    def __init__(self, seq: int, batch: RecordBatch, start: int) -> None:
        self.seq, self._batch, self._start = seq, batch, start
        self.shard, self.next_offset = Shard(batch.topic, batch.partition), batch.next_offset
        self.bytes = sum(2 * len(record.value) + _RECORD_BYTES for record in batch.records)

    @cached_property
    def items(self) -> list[FeedItem]:
        """The records."""
        return [FeedItem(self.shard, at, record) for at, record in within([self._batch], self._start)]


class Ring:
    """Batches in the order in which they came, with an index by partition and offset.

    Parameters
    ----------
    max_bytes : of all batches; the topic that holds most gives its oldest ones first, so that a flood of predictions
        does not push the alerts out.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.end, self.first = Place(""), Place("")
        """Where each partition goes on after the newest batch, and the first offset that can be read here. Who opens
        the log says its epoch."""
        self.seq = 0
        self._of_topic: dict[str, deque[FeedBatch]] = {topic: deque() for topic in LETTERS}
        self._of_shard: dict[Shard, deque[FeedBatch]] = {}
        self._bytes: dict[str, int] = dict.fromkeys(LETTERS, 0)

    def begin(self, shard: Shard, offset: int) -> None:
        """Nothing of ``shard`` is here yet; its next record has ``offset`` or a later one."""
        if shard not in self._of_shard:
            self._of_shard[shard] = deque()
            self.end[shard] = self.first[shard] = offset

    def add(self, batch: RecordBatch) -> FeedBatch:
        """Take the newest batch of a partition; records that were counted as past already are left out of it."""
        shard = Shard(batch.topic, batch.partition)
        self.begin(shard, batch.base_offset)
        self.seq += 1
        made = FeedBatch(self.seq, batch, self.end[shard])
        # Never back: ids that name the end were given out already.
        self.end[shard] = max(self.end[shard], batch.next_offset)
        self._of_topic[batch.topic].append(made)
        self._of_shard[shard].append(made)
        self._bytes[batch.topic] += made.bytes
        while sum(self._bytes.values()) > self._max_bytes:
            self._evict()
        return made

    def _evict(self) -> None:
        topic = max(self._bytes, key=self._bytes.__getitem__)
        oldest = self._of_topic[topic].popleft()
        self._of_shard[oldest.shard].popleft()  # the oldest of a topic is the oldest of its partition
        self._bytes[topic] -= oldest.bytes
        self.first[oldest.shard] = max(self.first[oldest.shard], oldest.next_offset)

    def behind(self, place: Place, wanted: Iterable[str]) -> dict[Shard, int]:
        """Partitions whose records after ``place`` are not all here, with the first offset that is."""
        return {shard: first for shard in self.end.shards(wanted) if place[shard] < (first := self.first[shard])}

    def after(self, place: Place, wanted: Iterable[str]) -> Iterator[FeedBatch]:
        """Batches with records after ``place``, in order. Use it up before anything is added."""
        return merge(*(self._tail(shard, place[shard]) for shard in self.end.shards(wanted)), key=attrgetter("seq"))

    def _tail(self, shard: Shard, offset: int) -> Iterator[FeedBatch]:
        batches = self._of_shard.get(shard, ())
        start = bisect_right(batches, offset, key=attrgetter("next_offset"))
        return (batches[i] for i in range(start, len(batches)))


_READS: Final = 4
"""Reads of the log at once, of all clients: a thousand that come back together must not be in the way of events."""
_READ_BYTES: Final = 1 << 16
_CHUNK, _CHUNK_BYTES = 128, 1 << 16
"""Records between two pauses, in which the event loop serves others."""


class Replay:
    """Reads for clients that are not at the newest record.

    Parameters
    ----------
    log : what the ring no longer has is read from it.
    ring : the newest records.
    """

    def __init__(self, log: ServiceLog, ring: Ring) -> None:
        self._log, self._ring = log, ring
        self._reading = asyncio.Semaphore(_READS)

    async def check(self, wanted: FeedFilter, place: Place) -> None:
        """Raise a ``Problem`` (410) where records after ``place`` are lost: too old, or of a log that was cut."""
        behind = self._ring.behind(place, wanted.topics)
        # A place ahead of this process is of a faster replica, or of a log that lost its end: only the log can tell.
        doubtful = {*behind, *(s for s in place.shards(wanted.topics) if place[s] > self._ring.end[s])}
        for topic in sorted({shard.topic for shard in doubtful}):
            for partition, (first, end) in (await self._log.spans(topic)).items():
                shard = Shard(topic, partition)
                if shard in behind and place[shard] < first:
                    raise await self._too_old(shard, place[shard], first)
                if shard in doubtful and place[shard] > end:
                    raise lost(shard, place[shard], f"the log ends at {end}: its last records were lost")

    async def _too_old(self, shard: Shard, offset: int, first: int) -> Problem:
        oldest = await self._log.read(shard.topic, shard.partition, first, 1)
        since = f"?since={oldest[0].records[0].ts}" if oldest else ""
        return lost(shard, offset, f"the first that is kept is {first}", since)

    async def items(self, wanted: FeedFilter, place: Place, until: int | None = None) -> AsyncIterator[list[FeedItem]]:
        """Records after ``place`` that are wanted, some at a time; ``place`` moves on with them.

        Ends when ``place`` is at the newest record of the ring (or at its batch ``until``), without a pause after that:
        who joins the live feed at once misses nothing. A list is empty where nothing was wanted for a while.

        Raises
        ------
        NoLongerKept
            Retention was faster.
        """
        while True:
            if behind := self._ring.behind(place, wanted.topics):
                async for chunk in self._from_log(place, behind):
                    yield _passed(wanted, place, chunk)
                for shard, first in behind.items():
                    # Offsets without a record (compacted, or marks of transactions) lie behind the client now, too.
                    place[shard] = max(place[shard], first)
            elif chunk := self._from_ring(wanted, place, until):
                yield _passed(wanted, place, chunk)
                await asyncio.sleep(0)
            else:
                return

    def _from_ring(self, wanted: FeedFilter, place: Place, until: int | None) -> list[FeedItem]:
        """The next of them; all records of a batch, or those after ``place``."""
        chunk: list[FeedItem] = []
        batches = self._ring.after(place, wanted.topics)
        size = 0
        for batch in takewhile(lambda batch: until is None or batch.seq <= until, batches):
            # None where the place is in the gap at the end of a batch: that must not look like the end of the ring.
            if fresh := [item for item in batch.items if item.offset >= place[batch.shard]]:
                chunk += fresh
                size += batch.bytes
            if len(chunk) >= _CHUNK or size >= _CHUNK_BYTES:
                break
        return chunk

    async def _from_log(self, place: Place, ends: Mapping[Shard, int]) -> AsyncIterator[list[FeedItem]]:
        """Records of each partition from ``place`` to its end, merged by time; partitions keep their order."""
        # A piece of each partition alone is in memory: a client may be a week behind.
        sources = {shard: await self._read(shard, place[shard], end) for shard, end in ends.items()}
        chunk: list[FeedItem] = []
        size = 0
        while waiting := [shard for shard, items in sources.items() if items]:
            shard = min(waiting, key=lambda shard: sources[shard][0].record.ts)
            # Records of several partitions have no common order but their time, by which a person reads them.
            item = sources[shard].popleft()
            chunk.append(item)
            size += len(item.record.value)
            if not sources[shard]:
                sources[shard] = await self._read(shard, item.offset + 1, ends[shard])
            if len(chunk) >= _CHUNK or size >= _CHUNK_BYTES:
                yield chunk
                await asyncio.sleep(0)
                chunk, size = [], 0
        yield chunk

    async def _read(self, shard: Shard, offset: int, end: int) -> deque[FeedItem]:
        """The next records before ``end``; none where there are no more."""
        while offset < end:
            async with self._reading:
                batches = await self._log.read(shard.topic, shard.partition, offset, _READ_BYTES)
            if not batches:
                break
            if found := deque(FeedItem(shard, at, record) for at, record in within(batches, offset, end)):
                return found
            offset = batches[-1].next_offset
        return deque()


def _passed(wanted: FeedFilter, place: Place, chunk: list[FeedItem]) -> list[FeedItem]:
    """What is wanted of a chunk; ``place`` moves behind all of it."""
    for item in chunk:
        place[item.shard] = item.offset + 1
    return [item for item in chunk if wanted.matches(item)]


def lost(shard: Shard, offset: int, why: str, since: str = "") -> Problem:
    """What a client is told whose next records are not there any more: begin with a snapshot."""
    words = f"{shard.topic}-{shard.partition}: offset {offset} can no longer be read; {why}"
    fix = "read what you need from links, then follow the feed from there"
    links = {"alerts": "/v1/alerts", "feed": f"/v1/feed{since}"}
    return Problem(410, "No longer kept", words, value=offset, fix=fix, links=links)
