"""Dead letters of a lane: refused records on their way out, and the limit that pauses its partition."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from weir.streams.config import topics
from weir.streams.errors import TooManyRejects
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.outputs import dead_letter, letter_room
from weir.streams.records import RefusedRecord
from weir.streams.reject_limit import RejectLimit
from weir.streams.worker.context import Context


def refused_of(batch: FetchedBatch, rows: Iterable[tuple[int, str]]) -> list[RefusedRecord]:
    """Everything of a batch that is refused, in order; ``rows``: ``(index of a record, reason)``."""
    return in_order(
        batch.refused, [RefusedRecord(batch.offset_of(i), why, batch.records[i]) for i, why in sorted(rows)]
    )


def in_order(fetched: Sequence[RefusedRecord], decoded: Sequence[RefusedRecord]) -> list[RefusedRecord]:
    """What was refused as it was fetched and as it was decoded, by offset."""
    return sorted([*fetched, *decoded], key=lambda refused: refused.offset) if fetched else list(decoded)


class DeadLetters:
    """Sends what one lane refuses; raises ``TooManyRejects`` when it is most of the input, but for the first batch."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._limit = RejectLimit(ctx.settings.worker.rejects)
        self._passed = False
        """Whether a batch has passed: without one a partition that is tried again would never get on."""

    async def send(
        self, topic: str, partition: int, records: int, refused: list[RefusedRecord]
    ) -> list[asyncio.Future[Any]]:
        """Send what was refused of so many ``records``; its acknowledgement, if there is anything.

        ``topic`` is what it is called on the brokers.
        """
        try:
            self._limit.update(records, sum(r.offsets for r in refused), refused[-1].reason if refused else "")
        except TooManyRejects:
            if self._passed:
                raise
        self._passed = True
        if not refused:
            return []
        now, ctx = self._ctx.now(), self._ctx
        name = ctx.name(topics.DEAD_LETTERS)
        room = letter_room(ctx.records.limit(name))
        letters = [dead_letter(topic, partition, r, now, room) for r in refused]
        ctx.metrics.refused(topic, [(r.reason, r.offsets) for r in refused])
        return [await ctx.records.send(name, letters)]
