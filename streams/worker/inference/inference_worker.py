"""One inference worker: full models on a GPU (or CPU) of its own, for the score lanes of many workers.

Its lanes are the partitions of ``inference-requests``; their states and positions are in Redis, written together as
everybody's are, so a worker that dies loses nothing and takes no event in twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from faust.types import TP

from weir.online.task.full_spec import FullSpec
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError
from weir.streams.offline_models.serving import FullModels
from weir.streams.ops.signals import run_until_stopped
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.worker.context import Context
from weir.streams.worker.inference.batch_pool import Pool
from weir.streams.worker.inference.inference_partition import InferenceLane
from weir.streams.worker.lane_table import LaneTable
from weir.streams.worker.process import Process, run_process
from weir.streams.worker.status import ProcessStatus
from weir.streams.worker.warmup import warm_up_states

log = logging.getLogger(__name__)


OWN: Final = topics.INFERENCE_REQUESTS


class InferenceHost(LaneTable):
    """Opens a lane for each partition of ``inference-requests`` that this worker is given."""

    def __init__(self, ctx: Context, models: FullModels, specs: Mapping[str, FullSpec]) -> None:
        super().__init__(ctx)
        self._inputs = {task.name: len(task.runner.inputs) for task in models.tasks}
        self._scorers = {name: scorer for name in self._inputs if (scorer := models.scorer(name)) is not None}
        self._pool = Pool(ctx.store, self._scorers, {name: specs[name].kept_s for name in self._scorers}, ctx.metrics)
        for name, scorer in self._scorers.items():
            if scorer.row_bytes:
                ctx.store.create(f"{name}.full", scorer.row_bytes, scorer.schema, specs[name].kept_s)

    async def assigned(self, tps: set[TP]) -> dict[TP, int]:
        """Open the lanes of ``tps``; the offsets to go on from, where there are any.

        A lane of which the store has nothing goes on where its group committed: a state that was lost is built up
        again, as that of a new entity.
        """
        await self.ctx.topics.look([OWN])
        await self.ctx.store.tables.settle([(OWN, tp.partition) for tp in tps])
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


class InferenceWorker(Process):
    """One inference worker, not started."""

    def __init__(self, settings: Settings, tasks: Sequence[TaskSpec]) -> None:
        specs = {task.name: task.full for task in tasks if task.full is not None and task.full.remote}
        if not specs:
            names = ", ".join(task.name for task in tasks)
            raise UsageError(f"tasks {names}: none has [full] remote = true, so there is nothing to run here")
        # Requests that retention deleted are of decisions that were made long ago.
        super().__init__(settings, tasks, "inference", served=tasks, remote=True, when_deleted="skip")
        host = InferenceHost(self.ctx, self.ctx.full, specs)
        self._consume([OWN], host, InferenceStatus(self.ctx, host))

    async def prepare(self) -> None:
        """See ``Process``."""
        await asyncio.to_thread(warm_up_states)  # the endpoints answer meanwhile


class InferenceStatus(ProcessStatus):
    """Answers the web endpoints and the watchdog of an inference worker."""

    def __init__(self, ctx: Context, host: InferenceHost) -> None:
        super().__init__(ctx)
        self._host = host

    def describe(self) -> Mapping[str, object]:
        """Describe the lanes and the models, for ``/ready``."""
        lanes = [lane.name for lane in self._host.lanes.values()]
        return {**super().describe(), "lanes": lanes, "full": self._ctx.full.outline()}

    def lanes(self) -> Mapping[str, int]:
        """See ``ProcessStatus``."""
        return {OWN: len(self._host.lanes)}


def run_inference(settings: Settings, tasks: Sequence[TaskSpec]) -> int:
    """Run an inference worker until it is told to stop; its exit status, 0 after a clean stop.

    Raises ``WeirError`` for what ended it and a person can mend.
    """
    return run_until_stopped(_run(settings, tasks))


async def _run(settings: Settings, tasks: Sequence[TaskSpec]) -> int:
    return await run_process(InferenceWorker(settings, tasks))
