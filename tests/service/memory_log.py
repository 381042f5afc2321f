"""A log of the service in memory, with retention, gaps between offsets, and a tail that tells late."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from weir.streams.records import Record, RecordBatch
from weir.streams.service.parts import NoLongerKept
from weir.streams.service.ports import Decoded, Listener, Outcome, Span


class MemoryBatch(NamedTuple):
    """Records with any offsets in order."""

    topic: str
    partition: int
    offsets: Sequence[int]
    records: Sequence[Record]
    next_offset: int

    @property
    def base_offset(self) -> int:
        return self.offsets[0]

    def offset_of(self, index: int) -> int:
        return self.offsets[index]


class MemoryServiceLog:
    """Batches in lists; ``write`` keeps one back from the listeners until ``hand_out``."""

    def __init__(self, epoch: str = "memory") -> None:
        self.epoch = epoch
        self.reads = 0
        self.batches: dict[tuple[str, int], list[MemoryBatch]] = {}
        self._first: dict[tuple[str, int], int] = {}
        self._listeners: list[tuple[frozenset[str], Listener]] = []
        self._written: list[MemoryBatch] = []

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def append(self, topic: str, records: Sequence[Record], decoded: Decoded | None = None) -> list[Outcome]:
        self.add(topic, records)
        return [Outcome("accepted")] * len(records)

    def end(self, topic: str, partition: int) -> int:
        batches = self.batches.get((topic, partition))
        return batches[-1].next_offset if batches else 0

    def write(self, topic: str, records: Sequence[Record], partition: int = 0, gap: int = 0) -> MemoryBatch:
        start = self.end(topic, partition)
        offsets = range(start, start + len(records))
        batch = MemoryBatch(topic, partition, offsets, tuple(records), start + len(records) + gap)
        self.batches.setdefault((topic, partition), []).append(batch)
        self._written.append(batch)
        return batch

    def hand_out(self) -> None:
        while self._written:
            batch = self._written.pop(0)
            for topics, listener in list(self._listeners):
                if batch.topic in topics:
                    listener(batch)

    def add(self, topic: str, records: Sequence[Record], partition: int = 0, gap: int = 0) -> MemoryBatch:
        batch = self.write(topic, records, partition, gap)
        self.hand_out()
        return batch

    def forget(self, topic: str, partition: int, before: int) -> None:
        """Retention: whole batches before ``before`` go."""
        batches = self.batches.get((topic, partition), [])
        while batches and batches[0].next_offset <= before and len(batches) > 1:
            self._first[topic, partition] = batches.pop(0).next_offset

    def subscribe(self, topics: Sequence[str], listener: Listener) -> Callable[[], None]:
        entry = (frozenset(topics), listener)
        self._listeners.append(entry)
        return lambda: self._listeners.remove(entry)

    async def spans(self, topic: str) -> Mapping[int, Span]:
        return {p: Span(self._first.get((t, p), 0), self.end(t, p)) for t, p in self.batches if t == topic}

    async def offsets_at(self, topic: str, ts: float) -> Mapping[int, int]:
        found = {}
        for (name, partition), batches in self.batches.items():
            if name == topic:
                later = (b.offset_of(i) for b in batches for i, r in enumerate(b.records) if r.ts >= ts)
                found[partition] = next(later, self.end(topic, partition))
        return found

    async def read(self, topic: str, partition: int, offset: int, max_bytes: int = 1 << 20) -> Sequence[RecordBatch]:
        self.reads += 1
        first = self._first.get((topic, partition), 0)
        if offset < first:
            raise NoLongerKept(topic, partition, offset, first)
        left = [b for b in self.batches.get((topic, partition), []) if b.next_offset > offset]
        return left[:2]
