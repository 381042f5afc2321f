"""Reads topics of the service's log whole, or what is newest in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from weir.streams.records import Record
from weir.streams.service.ports import ServiceLog


class PlacedRecord(NamedTuple):
    """A record and where it is."""

    partition: int
    offset: int
    record: Record


async def every_record(
    log: ServiceLog, topic: str, since: float | None = None, newest: int | None = None
) -> AsyncIterator[PlacedRecord]:
    """The records of a topic up to its present end, in the order of each partition.

    Parameters
    ----------
    since : only those that became available then or later, epoch seconds.
    newest : only about so many of each partition, the last ones; offsets may have gaps.
    """
    starts = {} if since is None else await log.offsets_at(topic, since)
    for partition, span in (await log.spans(topic)).items():
        at = max(span.first, starts.get(partition, 0), 0 if newest is None else span.end - newest)
        while at < span.end:
            batches = await log.read(topic, partition, at)
            for batch in batches:
                for index, record in enumerate(batch.records):
                    if at <= (offset := batch.offset_of(index)) < span.end:
                        yield PlacedRecord(partition, offset, record)
            at = batches[-1].next_offset if batches else span.end
