"""Predictions that score lanes of the same process hand over, put before a label lane in the order of the log.

They come as soon as the brokers have acknowledged them. Offsets say where they belong, and what is missing in between
(of a worker that died, say) is read from Kafka. Offsets that go back are of what was read already, or of a topic that
was made anew, whose predictions must not be taken for that. It does not know what the lane does with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import numpy as np

from weir.online.batch import ScoredBatch
from weir.streams.config import topics
from weir.streams.kafka.produce.producer import Sent
from weir.streams.redis.partitions.label_journal import OffsetRange
from weir.streams.worker.labelling.publisher import MAX_WAITING, PendingStep
from weir.streams.worker.labelling.step_reader import LaneReader

IDLE_CHECK_S: Final = 2.0
"""How often a lane to which nobody hands over looks for predictions that a dead worker left."""


class HandedPredictions:
    """Those of one partition, from `begin` on.

    Parameters
    ----------
    inbox : where the lane takes its steps from.
    reader : reads ranges of the topic.
    same_log : raises ``StateError`` where the topic is another one than that of the lane's position.
    """

    def __init__(
        self, inbox: asyncio.Queue[PendingStep], reader: LaneReader, same_log: Callable[[], Awaitable[None]]
    ) -> None:
        self._inbox, self._reader, self._same_log = inbox, reader, same_log
        self._room = asyncio.Semaphore(MAX_WAITING)
        self._order = asyncio.Lock()
        self._begun = asyncio.Event()
        self._queued = 0
        """Next offset, as of the steps that wait."""
        self._handed_at = 0.0

    def begin(self, offset: int) -> None:
        """The lane is where it was, and goes on with the prediction at ``offset``."""
        self._queued = offset
        self._begun.set()

    async def put(self, sent: list[Sent], scored: dict[str, ScoredBatch]) -> None:
        """Take what was sent together, one task after the other."""
        await self._begun.wait()
        async with self._order:
            self._handed_at = asyncio.get_running_loop().time()
            start, stop = sent[0].base_offset, sent[-1].base_offset + sent[-1].count
            rows = sum(len(s) for s in scored.values())
            if start < self._queued:
                await self._same_log()
            # What nobody hands over (of a worker that died, or of somebody else) comes first, in the order of the log.
            if start > self._queued:
                await self._queue_range(start)
            if start == self._queued and stop - start == rows:
                await self._queue(
                    PendingStep(OffsetRange(topics.PREDICTIONS, start, stop), scored=_placed(scored, start))
                )
            elif stop > self._queued:  # somebody else wrote in between, or a part of it was read already
                await self._queue_range(stop)

    def taken(self, work: PendingStep) -> None:
        """The lane has taken a step: there is room for what was handed over in it."""
        for _ in range(work.handed):
            self._room.release()

    async def look_for_left(self) -> None:
        """Take predictions that nobody hands over: acknowledged, but their worker died before it could.

        Those that were there at the look before, too: newer ones are on their way, on a busy worker for a while.
        """
        await self._begun.wait()
        loop, seen = asyncio.get_running_loop(), 0
        while True:
            if loop.time() - self._handed_at >= IDLE_CHECK_S:
                _, end = await self._reader.bounds()
                if end < self._queued:
                    await self._same_log()
                async with self._order:
                    # Asked again under the lock, as something may have been handed over while the brokers were asked.
                    if seen > self._queued and loop.time() - self._handed_at >= IDLE_CHECK_S:
                        await self._queue_range(end)
                seen = end
            await asyncio.sleep(IDLE_CHECK_S)

    async def _queue_range(self, stop: int) -> None:
        async for work in self._reader.rest(self._queued, stop):
            await self._queue(work)

    async def _queue(self, work: PendingStep) -> None:
        await self._room.acquire()
        work.handed = 1
        # Before it is taken: whoever looks for predictions that were left must not find this one.
        self._queued = work.step.stop
        self._inbox.put_nowait(work)


def _placed(scored: dict[str, ScoredBatch], start: int) -> dict[str, ScoredBatch]:
    """What was sent together, one task after the other, with the offsets it got."""
    placed, at = dict[str, ScoredBatch](), start
    for task, own in scored.items():
        placed[task] = replace(own, offsets=np.arange(at, at + len(own)))
        at += len(own)
    return placed
