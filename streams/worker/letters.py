"""Dead letters of a lane: refused records on their way out, and the limit that stops the worker."""

from __future__ import annotations

import asyncio
from typing import Any

from streams import topics
from streams.host.outputs import dead_letter
from streams.host.rejects import RejectLimit
from streams.transport import FetchedBatch
from streams.worker.context import Context


class Letters:
    """Sends what one lane refuses; raises ``TooManyRejects`` when it is most of the input."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._limit = RejectLimit(ctx.settings.worker.rejects)

    async def send(self, batch: FetchedBatch, refused: list[tuple[int, str]]) -> list[asyncio.Future[Any]]:
        """Send ``(index in the batch, reason)`` each as a dead letter; their acknowledgement, if there are any."""
        self._limit.update(len(batch.records), len(refused), refused[-1][1] if refused else "")
        if not refused:
            return []
        now, ctx = self._ctx.now(), self._ctx
        letters = [
            dead_letter(
                batch.topic, batch.partition, batch.offset_of(i), why, batch.records[i].value, now, batch.records[i].key
            )
            for i, why in sorted(refused)
        ]
        ctx.metrics.refused(batch.topic, [why for _, why in refused])
        return [await ctx.records.send(ctx.name(topics.DEAD_LETTERS), letters)]
