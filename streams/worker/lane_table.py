"""The lanes of the partitions that a worker has, by key: a batch to its lane, and one lane at a time shut and opened.

It is what pauses and orders by hand work on. A lane that is moved by hand, to another offset or time, is closed. What
is skipped becomes one dead letter that names the offsets, acknowledged before the lane moves: nothing is passed over
without a trace. It does not know how a rebalance goes.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from faust.types import TP

from weir.online.task.spec import STREAM_KEYS
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.outputs import dead_letter
from weir.streams.records import Record, RefusedRecord
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.worker.context import Context
from weir.streams.worker.labelling.label_partition import LabelLane
from weir.streams.worker.lanes.lane import RowLane
from weir.streams.worker.scoring.event_partition import ScoreLane

PartitionLane = RowLane | LabelLane
"""What runs one partition, whatever its records are."""
SKIPPED: Final = "skipped"
"""The first word of the reason."""


@asynccontextmanager
async def _opened(lane: PartitionLane) -> AsyncIterator[int | None]:
    """A lane that is open and not started; where it is."""
    await lane.open()
    try:
        yield lane.starts.get(lane.lane)
    finally:
        await lane.close()


def _moved(before: int | None, offset: int) -> str:
    if before is None:
        return f"goes on at {offset}; where it was is not known"
    if offset > before:
        return f"{offset - before} offsets skipped, {before} to {offset - 1}, told in one dead letter"
    return f"back from {before} to {offset}"


async def _letter(ctx: Context, lane: tuple[str, int], before: int | None, offset: int, by: str) -> None:
    if before is None or offset <= before:
        return
    why = f"{SKIPPED}: by hand, offsets {before} to {offset - 1} ({offset - before}), by {by}"
    skipped = RefusedRecord(before, why, Record(b"", b"", 0.0), offset - 1)
    letter = dead_letter(ctx.name(lane[0]), lane[1], skipped, ctx.now(), 0)
    await (await ctx.records.send(ctx.name(topics.DEAD_LETTERS), [letter]))


class LaneTable(ABC):
    """Lanes by key, which is the topic and partition that they read."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.lanes: dict[Lane, PartitionLane] = {}
        ctx.pauses.host = self

    @abstractmethod
    async def assigned(self, tps: set[TP]) -> dict[TP, int]:
        """Open the lanes of ``tps``; the offsets to go on from, where there are any."""

    @abstractmethod
    async def revoked(self, tps: Iterable[TP]) -> None:
        """Let go of the lanes of ``tps``."""

    @abstractmethod
    def make(self, key: Lane) -> PartitionLane:
        """A lane, not open."""

    def key(self, tp: TP) -> Lane:
        """The key of the lane that reads a partition."""
        return self.ctx.own(tp)

    def topics_of(self, key: Lane) -> Sequence[str]:
        """Topics, by Weir's own names, to whose records the positions of a lane belong."""
        return (key[0],)

    def partitions_of(self, key: Lane) -> list[TP]:
        """What the consumer reads for a lane."""
        return [self.ctx.topic_partition(key)]

    def take(self, batch: FetchedBatch) -> None:
        """Bring a batch to its lane."""
        lane = self.lanes.get(self.key(TP(batch.topic, batch.partition)))
        if lane is not None:  # else the partition has just gone, and its next owner reads the batch
            lane.put(batch)

    async def open_lane(self, key: Lane) -> PartitionLane:
        """Open a lane, and keep it also where that fails, so that it is shut."""
        # In the table before it is open: whoever pauses or revokes it meanwhile finds it there.
        lane = self.lanes[key] = self.make(key)
        await lane.open()
        return lane

    async def reopen(self, key: Lane) -> Mapping[TP, int]:
        """Open a lane, not started; the offsets to go on from, where there are any."""
        for topic in self.topics_of(key):
            await self.ctx.topics.check((topic, key[1]))
        starts = (await self.open_lane(key)).starts
        return {tp: starts[own] for tp in self.partitions_of(key) if (own := self.ctx.own(tp)) in starts}

    def begin(self, key: Lane) -> None:
        """Start a lane that was opened."""
        if key in self.lanes:
            self.lanes[key].start()

    async def shut(self, key: Lane) -> None:
        """Close a lane whose partitions stay with us, if it is open; what it has computed is written first."""
        if key in self.lanes:
            await self.lanes[key].finish(self.ctx.settings.worker.drain_s)
            # Or not: its partition may have gone meanwhile, which takes the lane out of the table.
            self.lanes.pop(key, None)

    async def close_all(self, lanes: Sequence[PartitionLane]) -> None:
        """Close lanes that are not in the table any more."""
        await asyncio.gather(*(lane.close() for lane in lanes))

    def names(self) -> list[str]:
        """Of the lanes that are open."""
        return [lane.name for lane in self.lanes.values()]

    def positions(self) -> Mapping[Lane, tuple[int | None, float | None]]:
        """Next offset and event time of the lanes that take batches."""
        return {key: where for key, lane in self.lanes.items() if (where := lane.where) is not None}

    async def seek(self, key: Lane, offset: int, by: str) -> str:
        """Have a lane that is closed go on at ``offset``; what was done, in words.

        Of a label lane that is the next label; its predictions stay where they are.
        """
        lane, pause = self.make(key), self.ctx.pauses.paused.get(key)
        async with _opened(lane) as before:
            if before is None and pause is not None:
                before = pause.offset
            # Before the lane moves: a crash in between tells of it twice rather than never.
            await _letter(self.ctx, lane.lane, before, offset, by)
            await lane.move(offset)
        await self.ctx.topics.sought(key)
        return _moved(before, offset)

    async def set_watermark(self, key: Lane, ts: float) -> str:
        """Have a lane that is closed take ``ts``, epoch seconds, for the newest event time; what was done, in words."""
        if key[0] not in STREAM_KEYS:
            raise UsageError(f"{key[0]}-{key[1]} keeps no event time; give a partition of a stream of events")
        lane = self.make(key)
        assert isinstance(lane, ScoreLane), f"{lane.name} keeps no event time"
        async with _opened(lane) as at:
            if at is None:
                raise UsageError(f"{lane.name}: nothing of it was processed yet, so there is no event time to correct")
            before = lane.intake.watermark
            await lane.set_watermark(ts)
        return f"its event time was {before:.3f} and is {ts:.3f}"
