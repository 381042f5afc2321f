"""The inference worker's lanes as partitions come and go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Final

from faust.types import TP

from weir.online.task.full_spec import FullSpec
from weir.streams.config import topics
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.offline_models.serving import FullModels
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.worker.context import Context
from weir.streams.worker.inference.batch_pool import Pool
from weir.streams.worker.inference.inference_partition import InferenceLane
from weir.streams.worker.moves import seek_rows, set_watermark

log = logging.getLogger(__name__)

OWN: Final = topics.INFERENCE_REQUESTS


class InferenceHost:
    """Opens a lane for each partition of ``inference-requests`` that this worker is given.

    Parameters
    ----------
    ctx : what the lanes share.
    models : the full models that this worker runs.
    specs : ``[full]`` of their tasks.
    """

    def __init__(self, ctx: Context, models: FullModels, specs: Mapping[str, FullSpec]) -> None:
        self.ctx = ctx
        self.lanes: dict[int, InferenceLane] = {}
        self._inputs = {task.name: len(task.runner.inputs) for task in models.tasks}
        self._scorers = {name: scorer for name in self._inputs if (scorer := models.scorer(name)) is not None}
        ctx.pauses.host = self
        self._pool = Pool(ctx.store, self._scorers, ctx.metrics)
        for name, scorer in self._scorers.items():
            if scorer.row_bytes:
                ctx.store.create(f"{name}.full", scorer.row_bytes, scorer.schema, specs[name].ttl)

    def take(self, batch: FetchedBatch) -> None:
        """Bring a batch to its lane."""
        lane = self.lanes.get(batch.partition)
        if lane is not None:  # else the partition has just gone, and its next owner reads the batch
            lane.put(batch)

    async def assigned(self, tps: set[TP]) -> dict[TP, int]:
        """Open the lanes of ``tps``; the offsets to go on from, where there are any.

        A lane of which the store has nothing goes on where its group committed: a state that was lost is built up
        again, as that of a new entity.
        """
        await self.ctx.topics.look([OWN])
        await self.ctx.store.settle([(OWN, tp.partition) for tp in tps])
        await self.revoked(tps)
        keys = sorted((OWN, tp.partition) for tp in tps)
        starts = await self.ctx.pauses.open_or_pause(keys)
        for key in keys:
            if key not in self.ctx.pauses.paused:
                self.begin(key)
        self.ctx.assigned, self.ctx.lanes = True, len(self.lanes)
        self.ctx.metrics.inc("weir_rebalances_total")
        log.info("%d partitions assigned: %s", len(tps), ", ".join(f"{OWN}-{number}" for _, number in keys))
        return starts

    async def revoked(self, tps: Iterable[TP]) -> None:
        """Close the lanes of ``tps``."""
        tps = list(tps)
        await self.ctx.pauses.forget({(OWN, tp.partition) for tp in tps})
        gone = [self.lanes.pop(tp.partition) for tp in tps if tp.partition in self.lanes]
        await asyncio.gather(*(lane.close() for lane in gone))

    def key(self, tp: TP) -> Lane:
        """See `process.PartitionHost`."""
        return self.ctx.own(tp)

    def partitions_of(self, lane: Lane) -> list[TP]:
        """See `pauses.Host`."""
        return [self.ctx.topic_partition(lane)]

    async def shut(self, lane: Lane) -> None:
        """See `pauses.Host`."""
        if lane[1] in self.lanes:
            await self.lanes[lane[1]].drain(self.ctx.settings.worker.drain_s)
            await self.lanes[lane[1]].close()
            self.lanes.pop(lane[1], None)

    async def reopen(self, lane: Lane) -> Mapping[TP, int]:
        """See `pauses.Host`."""
        await self.ctx.topics.check(lane)
        opened = self.lanes[lane[1]] = self._lane(lane)
        start = await opened.open()
        return {} if start is None else {self.ctx.topic_partition(lane): start}

    def begin(self, lane: Lane) -> None:
        """See `pauses.Host`."""
        self.lanes[lane[1]].start()

    def lanes_open(self) -> list[Lane]:
        """See `control.Movable`."""
        return [(OWN, partition) for partition in self.lanes]

    def positions(self) -> Mapping[Lane, tuple[int | None, float | None]]:
        """See `control.Movable`."""
        return {(OWN, partition): (lane.next_offset, None) for partition, lane in self.lanes.items()}

    async def seek(self, lane: Lane, offset: int, by: str) -> str:
        """See `control.Movable`."""
        told = await seek_rows(self._lane(lane), offset, by)
        await self.ctx.topics.sought(lane)
        return told

    async def set_watermark(self, lane: Lane, ts: float) -> str:
        """See `control.Movable`."""
        return await set_watermark(self._lane(lane), ts)

    def _lane(self, lane: Lane) -> InferenceLane:
        return InferenceLane(lane, self.ctx, self._scorers, self._inputs, self._pool)
