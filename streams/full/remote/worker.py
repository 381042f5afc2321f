"""One inference worker: full models on a GPU (or CPU) of its own, for the score lanes of many workers.

Its lanes are the partitions of ``inference-requests``; their states and positions are in Redis, written together as
everybody's are, so a worker that dies loses nothing and takes no event in twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from online.task import TaskSpec
from streams import topics
from streams.errors import UsageError
from streams.full.following import UpdatesFollower
from streams.full.loading import full_models, require_provider
from streams.full.remote.host import OWN, InferenceHost
from streams.full.serving import FullModels
from streams.ops.metrics import Metrics
from streams.ops.watchdog import Watchdog, WatchdogPolicy
from streams.ops.web import WebServer
from streams.settings import Settings
from streams.stores.link import RedisLink
from streams.stores.redis import LaneStore
from streams.transport import FetchedBatch
from streams.worker.context import Context
from streams.worker.run import WorkerApp, run_app, transport_fields

log = logging.getLogger(__name__)

_TICK_S: Final = 1.0


def group_of(settings: Settings) -> str:
    """The consumer group of inference workers."""
    return f"{settings.worker.group}-inference"


class InferenceWorker:
    """One inference worker, not started.

    Parameters
    ----------
    settings, tasks : what to run.
    """

    def __init__(self, settings: Settings, tasks: Sequence[TaskSpec]) -> None:
        w, prefix = settings.worker, settings.redis.prefix
        specs = {task.name: task.full for task in tasks if task.full is not None and task.full.remote}
        if not specs:
            names = ", ".join(task.name for task in tasks)
            raise UsageError(f"tasks {names}: none has [full] remote = true, so there is nothing to run here")
        self.settings = settings
        # Requests that retention deleted are of decisions that were made long ago.
        fields = {**transport_fields(settings), "when_deleted": "skip"}
        self.app = WorkerApp.from_settings(settings, group_of(settings), w.instance(), **fields)
        self.app.worker = self
        self.metrics = Metrics(settings.topics.own)
        self.link = RedisLink(
            settings.redis, patience_s=w.store_patience_s, timeout_s=settings.redis.timeout_s, prefix=prefix
        )
        store = LaneStore(self.link, prefix=prefix, cache_rows=w.cache_rows)
        self.ctx = Context(settings, tasks, self.app, self.link, store, self.metrics)
        m = settings.models
        self.models = full_models(tasks, m.provider, m.threads, self.metrics, remote=True)
        self.updates = UpdatesFollower(
            settings.kafka.client_options("updates"), self.models, settings.topics.name(topics.MODEL_UPDATES)
        )
        self.host = InferenceHost(self.ctx, self.models, specs)
        self.status = InferenceStatus(self.ctx, self.host, self.models)
        self.ctx.watchdog = Watchdog(WatchdogPolicy(w.watchdog_s), self.status.in_flight) if w.watchdog_s else None
        self._web: WebServer | None = None
        self._background: list[asyncio.Task[None]] = []
        self.app.start_offsets, self.app.on_revoked = self.host.assigned, self.host.revoked
        self._read()

    def _read(self) -> None:
        @self.app.agent(self.app.batch_topic(self.settings.topics.name(OWN)), name="lanes")
        async def lanes(stream: Any) -> None:
            async for batch in self.app.batches(stream):
                self._take(batch)

    def _take(self, batch: FetchedBatch) -> None:
        if self.ctx.watchdog is not None:
            self.ctx.watchdog.started()
        self.host.take(batch)

    async def before(self) -> None:
        """Everything that must be up before the consumer."""
        w = self.settings.worker
        if w.web_port != 0:
            port = 0 if w.web_port == "auto" else w.web_port
            names = {"role": "inference", "worker": w.name()}
            self._web = WebServer(w.web_host, port, self.status, self.metrics, names)
            await self._web.start()
            log.info("health, readiness and metrics at %s", self._web.url)
        require_provider(self.models, self.settings.models.provider)
        await self.app.records.start()
        await self.link.start()
        await self.updates.catch_up()

    def started(self) -> None:
        """The consumer is up: begin what runs beside it."""
        if self.ctx.watchdog is not None:
            self.ctx.watchdog.start(asyncio.get_running_loop())
        for work in (self._follow, self._tick):
            self._background.append(asyncio.ensure_future(work()))

    async def after(self) -> None:
        """Everything that must be down after the consumer, as far as it was up."""
        if self.ctx.watchdog is not None:
            self.ctx.watchdog.stop()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.updates.stop()
        await self.app.records.stop()
        await self.link.stop()
        if self._web is not None:
            await self._web.stop()

    async def _follow(self) -> None:
        try:
            await self.updates.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must not go on without it
            await self.ctx.crash(error)

    async def _tick(self) -> None:
        while True:
            self.status.measure()
            await asyncio.sleep(_TICK_S)


class InferenceStatus:
    """Answers the web endpoints and the watchdog.

    Parameters
    ----------
    ctx, host, models : the worker's parts.
    """

    def __init__(self, ctx: Context, host: InferenceHost, models: FullModels) -> None:
        self._ctx, self._host, self._models = ctx, host, models

    def ready(self) -> list[str]:
        """Why the worker does not do its work yet, a sentence each."""
        if not self._ctx.assigned:
            return ["no partitions were assigned yet: the worker is starting, or its group is rebalancing"]
        return []

    def describe(self) -> Mapping[str, object]:
        """Lanes and models."""
        return {"lanes": [lane.name for lane in self._host.lanes.values()], "full": self._models.describe()}

    def in_flight(self) -> object:
        """What is being worked on, for the log of the watchdog."""
        tickets = self._ctx.app.batch_consumer.offsets.working()
        working = [f"{ticket.partition[0]}-{ticket.partition[1]}@{ticket.base_offset}" for ticket in tickets]
        return working or "batches that wait"

    def measure(self) -> None:
        """Set the gauges."""
        m, ctx = self._ctx.metrics, self._ctx
        m.set("weir_since_batch_seconds", time.monotonic() - ctx.completed_at)
        if not ctx.assigned:
            return
        consumer = ctx.app.batch_consumer
        m.lags({(tp.topic, tp.partition): lag for tp, lag in consumer.lag().items()})
        working = len(consumer.offsets.working())
        m.set("weir_batches_in_flight", working)
        if ctx.watchdog is not None:
            ctx.watchdog.holding(working)
        m.set("weir_partitions_assigned", len(self._host.lanes), topic=OWN)


def run_inference(settings: Settings, tasks: Sequence[TaskSpec]) -> int:
    """Run an inference worker until it is told to stop; its exit status, 0 after a clean stop.

    Raises ``WeirError`` for what ended it and a person can mend.
    """
    return asyncio.run(_run(settings, tasks))


async def _run(settings: Settings, tasks: Sequence[TaskSpec]) -> int:
    return await run_app(InferenceWorker(settings, tasks))
