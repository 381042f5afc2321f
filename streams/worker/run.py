"""One worker process, put together: links, models, lanes, web endpoints, watchdog; started and stopped in order.

Up: links, kernels, models (restored, then read to the end of ``examples``), then the consumer. Down: the consumer
drains and commits, lanes close, then the links. A signal ends the way up wherever it is. An unexpected error ends the
process: the supervisor starts it again, and what was not complete is repeated.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from online.task import TaskSpec
from streams import topics
from streams.admin.specs import max_message_bytes
from streams.errors import WeirError
from streams.following.fold import ExampleFold
from streams.following.follower import Follower, FollowPolicy
from streams.following.snapshots import ModelSnapshots
from streams.full.following import UpdatesFollower
from streams.full.loading import full_models, require_provider
from streams.full.remote.client import RemoteClient
from streams.ops.deadline import Deadline
from streams.ops.metrics import Metrics
from streams.ops.signals import stop_signals
from streams.ops.watchdog import Watchdog, WatchdogPolicy
from streams.ops.web import WebServer
from streams.settings import Role, Settings
from streams.stores.link import RedisLink
from streams.stores.redis import LaneStore
from streams.transport import BatchApp, FetchedBatch
from streams.worker.context import Context
from streams.worker.host import LaneHost
from streams.worker.status import WorkerStatus
from streams.worker.warmup import warm_up

log = logging.getLogger(__name__)
_TICK_S: Final = 1.0
STOP_S: Final = 20.0
"""How long a worker may take to stop, by a signal or after an error, before it is ended."""


class Runs(Protocol):
    """A process around an app: what is up before its consumer, beside it, and down after it."""

    app: WorkerApp

    async def before(self) -> None:
        """Everything that must be up before the consumer."""

    def started(self) -> None:
        """The consumer is up."""

    async def after(self) -> None:
        """Everything that must be down after the consumer."""


class WorkerApp(BatchApp):
    """The Faust app, with what runs beside the consumer."""

    worker: Runs

    async def on_start(self) -> None:
        """The consumer, then what runs beside it."""
        await super().on_start()
        self.worker.started()


class Worker:
    """One worker, not started.

    Parameters
    ----------
    settings, tasks, role : what to run.
    """

    def __init__(self, settings: Settings, tasks: Sequence[TaskSpec], role: Role) -> None:
        w, prefix = settings.worker, settings.redis.prefix
        self.settings, self.role = settings, role
        self.app = WorkerApp.from_settings(settings, w.group_id(role), w.instance(), **transport_fields(settings))
        self.app.worker = self
        self.metrics = Metrics(settings.topics.own)
        self.link = RedisLink(
            settings.redis, patience_s=w.store_patience_s, timeout_s=settings.redis.timeout_s, prefix=prefix
        )
        store = LaneStore(self.link, prefix=prefix, cache_rows=w.cache_rows)
        self.follower = Follower(
            settings.kafka.client_options("models"),
            [ExampleFold.of(task) for task in tasks],
            snapshots=ModelSnapshots(self.link),
            topic=settings.topics.name(topics.EXAMPLES),
            policy=FollowPolicy(snapshot_interval_s=w.snapshot_every_s),
        )
        full = full_models(
            tasks if role != "label" else (), settings.models.provider, settings.models.threads, self.metrics
        )
        self.ctx = Context(settings, tasks, self.app, self.link, store, self.metrics, full)
        self.updates = UpdatesFollower(
            settings.kafka.client_options("updates"), full, settings.topics.name(topics.MODEL_UPDATES)
        )
        self.host = LaneHost(self.ctx, self.follower, role)
        self.status = WorkerStatus(self.ctx, self.host, self.follower)
        self.ctx.watchdog = Watchdog(WatchdogPolicy(w.watchdog_s), self.status.in_flight) if w.watchdog_s else None
        self._web: WebServer | None = None
        self._remote: RemoteClient | None = None
        self._background: list[asyncio.Task[None]] = []
        self.app.start_offsets, self.app.on_revoked = self.host.assigned, self.host.revoked
        self._read()

    def _read(self) -> None:
        names = [self.settings.topics.name(own) for own in self.host.topics]

        @self.app.agent(self.app.batch_topic(*names), name="lanes")
        async def lanes(stream: Any) -> None:
            async for batch in self.app.batches(stream):
                self._take(batch)

    def _take(self, batch: FetchedBatch) -> None:
        if self.ctx.watchdog is not None:
            self.ctx.watchdog.started()
        self.host.take(batch)

    async def before(self) -> None:
        """Everything that must be up before the consumer; the links first, because they say what is wrong at once."""
        w = self.settings.worker
        if w.web_port != 0:
            port = 0 if w.web_port == "auto" else w.web_port
            self._web = WebServer(w.web_host, port, self.status, self.metrics, {"role": self.role, "worker": w.name()})
            await self._web.start()
            log.info("health, readiness and metrics at %s", self._web.url)
        await self.app.records.start()
        await self.link.start()
        for task in self.ctx.tasks:
            await asyncio.to_thread(warm_up, task)  # the endpoints answer meanwhile
        await self.follower.catch_up()
        for task in self.ctx.tasks:
            log.info("task %s: model at version %d", task.name, self.follower.version(task.name))
        require_provider(self.ctx.full, self.settings.models.provider)
        await self.updates.catch_up()
        if self.role != "label" and any(task.full is not None and task.full.remote for task in self.ctx.tasks):
            self.ctx.remote = self._remote = RemoteClient(self.ctx)
            await self._remote.start()

    def started(self) -> None:
        """The consumer is up: begin what runs beside it."""
        # Batches make many short-lived objects and no cycles: look for cycles seldom, and not at what is here to stay.
        gc.collect()
        gc.freeze()
        gc.set_threshold(200_000, 20, 20)
        if self.ctx.watchdog is not None:
            self.ctx.watchdog.start(asyncio.get_running_loop())
        for work in (self.follower.run, self.updates.run, self._tick):
            self._background.append(asyncio.ensure_future(self._guard(work)))

    async def after(self) -> None:
        """Everything that must be down after the consumer, as far as it was up."""
        if self.ctx.watchdog is not None:
            self.ctx.watchdog.stop()
        await self.follower.stop()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.updates.stop()
        if self._remote is not None:
            await self._remote.stop()
        await self.app.records.stop()
        await self.link.stop()
        if self._web is not None:
            await self._web.stop()

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must not go on without it
            await self.ctx.crash(error)

    async def _tick(self) -> None:
        """What is looked at now and then, for the metrics."""
        while True:
            self.status.measure()
            await asyncio.sleep(_TICK_S)


def transport_fields(settings: Settings) -> dict[str, Any]:
    """Fields of ``TransportSettings`` that ``[worker]`` sets."""
    w, letters = settings.worker, settings.topics.name(topics.DEAD_LETTERS)
    return {
        "max_batch": w.max_batch,
        "max_in_flight": w.max_in_flight,
        "session_timeout_s": w.session_timeout_s,
        "drain_timeout_s": w.drain_s,
        "leave_on_stop": w.leave_on_stop,
        "commit_interval_s": w.commit_interval_s,
        "when_deleted": w.when_deleted,
        "delivery_timeout_s": w.delivery_timeout_s,
        "max_record_bytes": w.max_record_bytes,
        "larger": {letters: max_message_bytes(topics.DEAD_LETTERS, w.max_record_bytes)},
    }


def run_worker(settings: Settings, tasks: Sequence[TaskSpec], role: Role) -> int:
    """Run a worker until it is told to stop; its exit status, 0 after a clean stop.

    Raises ``WeirError`` for what ended it and a person can mend.
    """
    return asyncio.run(_run(settings, tasks, role))


async def _run(settings: Settings, tasks: Sequence[TaskSpec], role: Role) -> int:
    return await run_app(Worker(settings, tasks, role))


async def run_app(worker: Runs) -> int:
    """Run a process until it is told to stop; its exit status. Raises ``WeirError`` for what ended it."""
    app, asked = worker.app, asyncio.Event()
    app.finalize()
    deadline = Deadline(STOP_S)

    def stop() -> None:
        deadline.begin()
        asked.set()

    with stop_signals(asyncio.get_running_loop(), stop) as caught:
        try:
            await _either(worker.before(), asked.wait())
            if not asked.is_set():
                await app.start()
                await _either(app.wait_until_stopped(), asked.wait())
                deadline.begin()
                await app.stop()
        finally:
            await worker.after()
            deadline.cancel()
    error = app.crash_reason
    if isinstance(error, WeirError):
        raise error
    if error is not None:
        log.critical("the worker ends: %s: %s", type(error).__name__, error)
        return 1
    return caught.status


async def _either(*works: Coroutine[Any, Any, object]) -> None:
    """Wait for the first to end, and end the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
