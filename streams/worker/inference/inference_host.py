"""The inference worker's lanes as partitions come and go."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from faust.types import TP

from weir.online.task.full_spec import FullSpec
from weir.streams.config import topics
from weir.streams.offline_models.serving import FullModels
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.worker.context import Context
from weir.streams.worker.inference.batch_pool import Pool
from weir.streams.worker.inference.inference_partition import InferenceLane
from weir.streams.worker.lane_table import LaneTable

log = logging.getLogger(__name__)

OWN: Final = topics.INFERENCE_REQUESTS


class InferenceHost(LaneTable):
    """Opens a lane for each partition of ``inference-requests`` that this worker is given.

    Parameters
    ----------
    ctx : what the lanes share.
    models : the full models that this worker runs.
    specs : ``[full]`` of their tasks.
    """

    def __init__(self, ctx: Context, models: FullModels, specs: Mapping[str, FullSpec]) -> None:
        super().__init__(ctx)
        self._inputs = {task.name: len(task.runner.inputs) for task in models.tasks}
        self._scorers = {name: scorer for name in self._inputs if (scorer := models.scorer(name)) is not None}
        self._pool = Pool(ctx.store, self._scorers, ctx.metrics)
        for name, scorer in self._scorers.items():
            if scorer.row_bytes:
                ctx.store.create(f"{name}.full", scorer.row_bytes, scorer.schema, specs[name].ttl)

    async def assigned(self, tps: set[TP]) -> dict[TP, int]:
        """Open the lanes of ``tps``; the offsets to go on from, where there are any.

        A lane of which the store has nothing goes on where its group committed: a state that was lost is built up
        again, as that of a new entity.
        """
        await self.ctx.topics.look([OWN])
        await self.ctx.store.settle([(OWN, tp.partition) for tp in tps])
        await self.revoked(tps)  # one that comes again without having been revoked has a lane of before
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
        await self.close_all([self.lanes.pop(key) for tp in tps if (key := self.key(tp)) in self.lanes])

    def make(self, key: Lane) -> InferenceLane:
        """See `LaneTable`."""
        return InferenceLane(key, self.ctx, self._scorers, self._inputs, self._pool)
