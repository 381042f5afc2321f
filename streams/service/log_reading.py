"""Reads topics of the service's log whole, or what is newest in them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Self

from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.kafka_errors import RecordsDeleted
from weir.streams.records import Record, RecordBatch
from weir.streams.service.ports import ServiceLog, Span
from weir.streams.service.problems import NoLongerKept


class PlacedRecord(NamedTuple):
    """A record and where it is."""

    partition: int
    offset: int
    record: Record


def within(batches: Sequence[RecordBatch], start: int, end: float = math.inf) -> list[tuple[int, Record]]:
    """The records from ``start`` to before ``end``, with their offsets: the first batch may begin before it."""
    placed = ((batch.offset_of(i), record) for batch in batches for i, record in enumerate(batch.records))
    return [(offset, record) for offset, record in placed if start <= offset < end]


async def records_between(
    log: ServiceLog, topic: str, partition: int, start: int, end: int
) -> AsyncIterator[tuple[int, Record]]:
    """The records of a partition from ``start`` to before ``end``, with their offsets."""
    while start < end:
        batches = await log.read(topic, partition, start)
        for placed in within(batches, start, end):
            yield placed
        # The rest of the offsets may hold no record: compacted, or marks of another producer's transactions.
        start = batches[-1].next_offset if batches else end


async def every_record(log: ServiceLog, topic: str, newest: int | None = None) -> AsyncIterator[PlacedRecord]:
    """The records of a topic up to its present end, in the order of each partition.

    Parameters
    ----------
    newest : only about so many of each partition, the last ones; offsets may have gaps.
    """
    for partition, span in (await log.spans(topic)).items():
        at = max(span.first, 0 if newest is None else span.end - newest)
        # What came after the ends were looked up is not of this reading.
        async for offset, record in records_between(log, topic, partition, at, span.end):
            yield PlacedRecord(partition, offset, record)


class ServiceLogReader:
    """One topic of a service's log, for what folds models and finds scores; see ``TopicReader``.

    Parameters
    ----------
    log : of either mode.
    topic : Weir's own name.
    """

    def __init__(self, log: ServiceLog, topic: str) -> None:
        self.topic, self._log = topic, log
        self._spans: Mapping[int, Span] = {}

    async def __aenter__(self) -> Self:
        self._spans = await self._log.spans(self.topic)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing: the log stays open."""

    def partitions(self) -> list[int]:
        """See ``TopicReader``."""
        return sorted(self._spans)

    async def bounds(self, partition: int) -> tuple[int, int]:
        """See ``TopicReader``; as they were when the reader was opened. An empty topic of one process has none yet."""
        return self._spans.get(partition, Span(0, 0))

    async def offset_at(self, partition: int, ts: float) -> int:
        """See ``TopicReader``."""
        return (await self._log.offsets_at(self.topic, ts)).get(partition, 0)

    async def read(self, partition: int, start: int, stop: int) -> AsyncIterator[Slice]:
        """See ``TopicReader``."""
        at = start
        while at < stop:
            try:
                batches = await self._log.read(self.topic, partition, at)
            # Who reads through ``TopicReader`` knows the error of Kafka alone.
            except NoLongerKept as gone:
                raise RecordsDeleted(gone.detail) from gone
            for batch in batches:
                places = [batch.offset_of(i) for i in range(len(batch.records))]
                yield Slice(places, tuple(batch.records)).split(stop)[0].split(at)[1]
            at = batches[-1].next_offset if batches else stop
