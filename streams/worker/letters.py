"""Dead letters of a lane: refused records on their way out, and the limit that pauses its partition."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

from streams import topics
from streams.errors import TooManyRejects
from streams.host.outputs import dead_letter
from streams.host.rejects import RejectLimit
from streams.log import Record
from streams.transport import FetchedBatch
from streams.worker.context import Context


class Refused(NamedTuple):
    """A record that cannot be used."""

    offset: int
    reason: str
    record: Record


def refused_of(batch: FetchedBatch, rows: Iterable[tuple[int, str]]) -> list[Refused]:
    """``(index in the batch, reason)`` each as what is refused, in order."""
    return [Refused(batch.offset_of(i), why, batch.records[i]) for i, why in sorted(rows)]


class Letters:
    """Sends what one lane refuses; raises ``TooManyRejects`` when it is most of the input, but for the first batch."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._limit = RejectLimit(ctx.settings.worker.rejects)
        self._passed = False
        """Whether a batch has passed: without one a partition that is tried again would never get on."""

    async def send(self, topic: str, partition: int, records: int, refused: list[Refused]) -> list[asyncio.Future[Any]]:
        """Send what was refused of so many ``records``; its acknowledgement, if there is anything.

        ``topic`` is what it is called on the brokers.
        """
        try:
            self._limit.update(records, len(refused), refused[-1].reason if refused else "")
        except TooManyRejects:
            if self._passed:
                raise
        self._passed = True
        if not refused:
            return []
        now, ctx = self._ctx.now(), self._ctx
        letters = [dead_letter(topic, partition, at, why, r.value, now, r.key) for at, why, r in refused]
        ctx.metrics.refused(topic, [why for _, why, _ in refused])
        return [await ctx.records.send(ctx.name(topics.DEAD_LETTERS), letters)]
