"""The newest records of the feed in memory, from which clients resume without reading the log."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cached_property
from heapq import merge
from operator import attrgetter
from typing import Final

from weir.streams.records import RecordBatch
from weir.streams.service.feed.feed_item import FeedItem
from weir.streams.service.feed.place import LETTERS, Place, Shard

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
        batch, shard = self._batch, self.shard
        items = (FeedItem(shard, batch.offset_of(i), record) for i, record in enumerate(batch.records))
        return [item for item in items if item.offset >= self._start]


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
