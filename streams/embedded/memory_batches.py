"""The batches of a log without a directory: a list."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterator, Sequence

from weir.streams.embedded.log_frames import LoggedBatch
from weir.streams.embedded.log_index import Lanes


class MemoryBatches:
    """What `SegmentStore` is to a directory; nothing survives the process."""

    def __init__(self) -> None:
        self._batches: list[LoggedBatch] = []
        self.lanes: Lanes = {}
        self._dropped: dict[tuple[str, int], int] = {}
        """By partition, the first offset that was not forgotten."""
        self.next_seq = 0

    def add(self, batches: Sequence[LoggedBatch]) -> None:
        """Append batches."""
        for batch in batches:
            lane = batch.topic, batch.partition
            newest = max(record.ts for record in batch.records)
            self._batches.append(batch)
            self.lanes[lane] = batch.next_offset, max(newest, self.lanes.get(lane, (0, newest))[1])
            self.next_seq = batch.seq + 1

    def truncate(self, seq: int) -> int:
        """Drop every batch from ``seq`` on; returns how many records went."""
        at = self._at(seq)
        dropped = self._batches[at:]
        del self._batches[at:]
        for batch in reversed(dropped):
            self.lanes[batch.topic, batch.partition] = batch.base_offset, float("-inf")
        self.next_seq = min(self.next_seq, seq)
        return sum(len(b.records) for b in dropped)

    def forget(self, before_seq: int) -> None:
        """Drop every batch before ``before_seq``."""
        at = self._at(before_seq)
        for batch in self._batches[:at]:
            self._dropped[batch.topic, batch.partition] = batch.next_offset
        del self._batches[:at]

    @property
    def first_seq(self) -> int:
        """Of the first batch that is kept."""
        return self._batches[0].seq if self._batches else self.next_seq

    def first_offset(self, topic: str, partition: int) -> int:
        """Of the first record that is kept of a partition."""
        return self._dropped.get((topic, partition), 0)

    def read(self, topics: Collection[str], seq: int) -> tuple[list[LoggedBatch], int]:
        """Batches of these topics from ``seq`` to the present end, and the batch behind that."""
        batches = self._batches[self._at(seq) :]
        return [b for b in batches if b.topic in topics], batches[-1].seq + 1 if batches else self.next_seq

    def lane(self, topic: str, partition: int, offset: int, newest: float) -> Iterator[LoggedBatch]:
        """Batches of a partition that reach behind ``offset``, from the first with a time of ``newest`` or later on."""
        for batch in self._batches[:]:
            if (batch.topic, batch.partition) == (topic, partition) and batch.next_offset > offset:
                if max(record.ts for record in batch.records) >= newest:
                    newest = float("-inf")
                if newest == float("-inf"):
                    yield batch

    def _at(self, seq: int) -> int:
        return bisect.bisect_left(self._batches, seq, key=lambda b: b.seq)
