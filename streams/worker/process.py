"""What every worker process stands on: links, full models, web endpoints, watchdog; started and stopped in order.

Up: web endpoints, links, models, then the consumer and what runs beside it. Down: the consumer drains and commits, then
what ran beside it, then the links. A signal ends the way up wherever it is. An unexpected error ends the process: the
supervisor starts it again, and what was not complete is repeated. It does not know what is done with a batch.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.config.worker_settings import LinkSettings
from weir.streams.errors import in_words
from weir.streams.kafka.admin.cluster import topic_settings_there
from weir.streams.kafka.consume.app import BatchApp
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.offline_models.loading import full_models, require_provider
from weir.streams.offline_models.update_follower import UpdatesFollower
from weir.streams.ops.metrics import Metrics
from weir.streams.ops.signals import Deadline, end_tasks, stop_signals, until_one_ends
from weir.streams.ops.watchdog import Watchdog, WatchdogPolicy
from weir.streams.ops.web import WebServer
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_store import LaneStore
from weir.streams.worker.context import Context
from weir.streams.worker.control import Control
from weir.streams.worker.lane_table import LaneTable
from weir.streams.worker.links import StoreWatch
from weir.streams.worker.warmup import warm_up_links, warm_up_records, warm_up_structs

if TYPE_CHECKING:
    from weir.streams.worker.status import ProcessStatus

log = logging.getLogger(__name__)
_TICK_S: Final = 1.0
SWITCH_S: Final = 0.0002
"""How long a thread may keep the interpreter when another wants it. The thread that talks to Kafka wants it a few times
a fetch; waiting for Python's 5 ms each time was a third of an event's way."""
STOP_S: Final = 20.0
"""How long a worker may take to stop, by a signal or after an error, before it is ended."""


class WorkerApp(BatchApp):
    """The Faust app, with what runs beside the consumer."""

    process: Process

    async def on_start(self) -> None:
        """The consumer, then what runs beside it."""
        await super().on_start()
        self.process.started()


class Process:
    """A worker process, not started.

    Parameters
    ----------
    settings, tasks : what to run.
    role : for the consumer group and the web endpoints.
    served : the tasks whose full models may run here.
    remote : whether those are run that have ``[full] remote = true``, or those that have not.
    fields : of ``TransportSettings``, where ``[worker]`` does not say it.
    """

    def __init__(
        self,
        settings: Settings,
        tasks: Sequence[TaskSpec],
        role: str,
        *,
        served: Sequence[TaskSpec],
        remote: bool = False,
        **fields: Any,
    ) -> None:
        w, r, prefix = settings.worker, settings.redis, settings.redis.prefix
        self.settings, self.role = settings, role
        transport = {**transport_fields(settings), **fields}
        self.app = WorkerApp.from_settings(settings, f"{w.group}-{role}", w.instance(), **transport)
        self.app.process = self
        self.metrics = Metrics(settings.topics.own)
        self.link = RedisClient(r, patience_s=w.store_patience_s, timeout_s=r.timeout_s, prefix=prefix)
        store = LaneStore(self.link, prefix=prefix, cache_rows=w.cache_rows)
        full = full_models(served, settings.models, self.metrics, remote=remote)
        self.ctx = Context(settings, tasks, self.app, self.link, store, self.metrics, full)
        updates = settings.topics.name(topics.MODEL_UPDATES)
        self.updates = UpdatesFollower(settings.kafka.client_options("updates"), full, updates)
        self._web: WebServer | None = None
        self._background: list[asyncio.Task[None]] = []
        self._failed: Exception | None = None

    def _consume(self, names: Iterable[str], lanes: LaneTable, status: ProcessStatus) -> None:
        """Have the records of some topics, by Weir's own names, brought to lanes, and a status told."""
        self._lanes, self._status = lanes, status
        self._control = Control(self.ctx, lanes)
        limit = self.settings.worker.watchdog_s
        policy, waits = WatchdogPolicy(limit), self.ctx.links.away
        self.ctx.watchdog = Watchdog(policy, status.in_flight, waits=waits) if limit else None
        self.app.start_offsets, self.app.on_revoked = lanes.assigned, lanes.revoked
        self.app.on_failed = lambda tp, error: self.ctx.fail(lanes.key(tp), error)
        topic = self.app.batch_topic(*(self.settings.topics.name(own) for own in names))

        @self.app.agent(topic, name="lanes")
        async def read(stream: Any) -> None:
            async for batch in stream:  # none is taken here: until a lane takes one, what follows it is gathered
                self._take(batch)

    def _take(self, batch: FetchedBatch) -> None:
        if self.ctx.watchdog is not None:
            self.ctx.watchdog.started()
        self._lanes.take(batch)

    async def before(self) -> None:
        """Everything that must be up before the consumer."""
        warm_up_structs()
        self.link.stall = self.ctx.stall
        self.ctx.stall.start()
        await self._serve()
        await self.app.records.start()
        await self.link.start()
        await self._look_at_topics()
        log.info("compiling what is needed: half a minute or more on the first start on a machine, later a second")
        await asyncio.to_thread(warm_up_records)  # the endpoints answer meanwhile
        await asyncio.to_thread(warm_up_links)
        await self.prepare()
        require_provider(self.ctx.full, self.settings.models.provider)
        await self.updates.catch_up()

    async def _look_at_topics(self) -> None:
        # In a thread, as kafka-python's admin client waits for its sockets.
        there = await asyncio.to_thread(topic_settings_there, self.settings.kafka)
        self.app.records.limits = there.limits
        for own in topics.ALL:
            if own != topics.DEAD_LETTERS_DONE and (name := self.ctx.name(own)) in there.compacted:
                # Unlike what retention takes, it leaves no trace for whoever reads on: offsets are missing in between.
                words = "topic %s is compacted: of each key only the newest record stays, and others are lost unread; "
                log.error(words + "set its cleanup.policy to delete, as weir topics create --alter does", name)

    async def prepare(self) -> None:
        """What must be ready before full models are loaded; the links are up."""

    async def _serve(self) -> None:
        """First of all, so that the endpoints answer while the rest comes up."""
        w = self.settings.worker
        if w.web_port == 0:
            return
        port, about = 0 if w.web_port == "auto" else w.web_port, {"role": self.role, "worker": w.name()}
        self._web = WebServer(w.web_host, port, self._status, self.metrics, about)
        await self._web.start()
        log.info("health, readiness and metrics at %s", self._web.url)

    def started(self) -> None:
        """The consumer is up: begin what runs beside it."""
        if self.ctx.watchdog is not None:
            self.ctx.watchdog.start(asyncio.get_running_loop())
        # Behind the consumer: each may ask it, and the watchdog counts from here.
        for work in self.beside():
            self._background.append(asyncio.ensure_future(self._guard(work)))

    def beside(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What runs beside the consumer; an error in it ends the process."""
        watch = StoreWatch(self.link, self.ctx.store, self.metrics).run
        return (self.updates.run, self._tick, watch, self._control.run, self.ctx.links.run)

    @property
    def reason(self) -> BaseException | None:
        """Why the process ends, if not because it was told to."""
        return self.app.crash_reason or self._failed

    def ends(self, error: Exception) -> None:
        """Note why the process ends: the first reason counts, what follows from it is only logged."""
        if self.reason is None:
            self._failed = error
        elif error is not self.reason:
            log.warning("on the way down: %s", in_words(error))

    async def after(self) -> None:
        """Everything that must be down after the consumer, as far as it was up, whatever else fails."""
        self.ctx.stall.stop()
        if self.ctx.watchdog is not None:
            self.ctx.watchdog.stop()
        # `conclude` ends the follower cleanly, before what runs beside is cancelled.
        for stop in (self.conclude, self._end_background, self._control.stop, self.updates.stop):
            await self._down(stop)
        # The links behind everything that still stores and sends.
        for stop in (self.app.records.stop, self.link.stop):
            await self._down(stop)
        if self._web is not None:
            await self._down(self._web.stop)

    async def _down(self, stop: Callable[[], Awaitable[None]]) -> None:
        try:
            await stop()
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest must still go down
            self.ends(error)

    async def _end_background(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def conclude(self) -> None:
        """What is stored in the end; the links are still up."""

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must not go on without it
            await self.ctx.crash(error)

    async def _tick(self) -> None:
        """What is looked at now and then, for the metrics."""
        while True:
            self.ctx.pauses.look()
            self._status.measure()
            await asyncio.sleep(_TICK_S)


def transport_fields(settings: Settings) -> dict[str, Any]:
    """Fields of ``TransportSettings`` that ``[worker]`` sets."""
    w, letters = settings.worker, settings.topics.name(topics.DEAD_LETTERS)
    held = {name: getattr(w, name) for name in LinkSettings.model_fields if name != "instance_id"}
    return {**held, "larger": {letters: topics.largest_record(topics.DEAD_LETTERS, w.max_record_bytes)}}


async def run_process(process: Process) -> int:
    """Run a process until it is told to stop; its exit status. Raises what ended it."""
    app, asked = process.app, asyncio.Event()
    app.finalize()
    sys.setswitchinterval(SWITCH_S)
    deadline = Deadline(STOP_S, lambda: process.reason)

    def stop() -> None:
        deadline.begin()
        asked.set()

    with stop_signals(asyncio.get_running_loop(), stop) as caught:
        try:
            await until_one_ends(process.before(), asked.wait())
            # A signal on the way up: what was never started has no partitions to drain.
            if not asked.is_set():
                await app.start()
                await until_one_ends(app.wait_until_stopped(), asked.wait())
                deadline.begin()
                await app.stop()
        except Exception as error:  # noqa: BLE001 - it is raised when all is down
            process.ends(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # Ours, from outside. Else Faust cancelled its own commit and let that through.
            if task is None or task.cancelling():
                raise
            log.warning("the last commit was cut short while stopping; what it was of is read again")  # by Faust itself
        deadline.begin()  # also behind an error on the way up, where nobody has asked for an end
        await process.after()
        if process.reason is not None:  # what failed may have left tasks behind; a clean stop has ended its own
            await end_tasks()
        deadline.cancel()
    if process.reason is not None:
        raise process.reason
    return caught.status
