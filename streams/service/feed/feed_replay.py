"""What a client has missed: records after its place, from the log and then from the ring, up to the newest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from itertools import takewhile
from typing import Final

from weir.streams.service.feed.feed_filter import FeedFilter
from weir.streams.service.feed.feed_item import FeedItem
from weir.streams.service.feed.place import Place, Shard
from weir.streams.service.feed.ring import Ring
from weir.streams.service.ports import ServiceLog
from weir.streams.service.problems import Problem

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
            numbered = ((batch.offset_of(i), record) for batch in batches for i, record in enumerate(batch.records))
            if found := deque(FeedItem(shard, at, record) for at, record in numbered if offset <= at < end):
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
    return Problem(
        410,
        "No longer kept",
        f"{shard.topic}-{shard.partition}: offset {offset} can no longer be read; {why}",
        value=offset,
        fix="read what you need from links, then follow the feed from there",
        links={"alerts": "/v1/alerts", "feed": f"/v1/feed{since}"},
    )
