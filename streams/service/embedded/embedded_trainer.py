"""Trains the full models of an embedded service beside it: requests and examples from its log, updates back to it.

Data sets are read and models are trained in a child process, so scoring only shares the processors with it. What the
trainer knows is durable in the directory (``models/TASK/trainer``), so a training that a kill interrupted goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from weir.models.durable import write_durably
from weir.models.registry.registry import Registry, open_files
from weir.online.codec.why_invalid import explain
from weir.online.codec.wire import ModelUpdate, RetrainRequest
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import BrokerError
from weir.streams.offline_models.model_updates import update_record
from weir.streams.ops.metric_registry import Registry as Metrics
from weir.streams.ops.repeated_trouble import RepeatedTrouble
from weir.streams.records import RecordBatch
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog
from weir.streams.service.parts import NoLongerKept, Part, Problem, ended, set_within
from weir.streams.service.ports import within
from weir.streams.trainer.job.job_runner import Runner, SubprocessRunner
from weir.streams.trainer.job.live_examples import decode_live
from weir.streams.trainer.job.real_steps import directory_workshop
from weir.streams.trainer.registry_port import RegistryShelf
from weir.streams.trainer.state_journal import FilesJournal
from weir.streams.trainer.task_supervisor import TaskSupervisor
from weir.streams.trainer.trainer_errors import PASSING

log = logging.getLogger(__name__)

_OWNER: Final = "embedded"
"""The directory is of one process, so a lease that a killed one held is this one's at once."""
_LOOK_S: Final = 1.0
"""Between two looks at the examples, while a model is judged live."""
_APPEND_S: Final = 60.0


class EmbeddedTrainer(Part):
    """The trainers of the tasks that have a full model; a part of the service.

    Parameters
    ----------
    settings : ``[trainer]``, and where models are kept.
    tasks : of the service.
    service_log : which it follows.
    metrics : of the process.
    runner : where jobs are done; a child process when not given.
    """

    def __init__(
        self,
        settings: Settings,
        tasks: Sequence[TaskSpec],
        service_log: EmbeddedServiceLog,
        metrics: Metrics,
        runner: Runner | None = None,
    ) -> None:
        self._log, self._settings = service_log, settings.trainer
        directory = service_log.engine.directory.path
        self._position = directory / "trainer-position"
        self._metrics = metrics
        shop = directory_workshop(settings, directory, runner or SubprocessRunner(settings.trainer.stop_s))
        shop = replace(shop, progress=self._progress)
        shelf, journal = RegistryShelf(Registry(settings.models.registry)), open_files(settings.models.registry)
        self.benches = {
            task.name: TaskSupervisor(
                task, FilesJournal(journal), shelf, shop, self._publish, owner=_OWNER, lease_s=settings.trainer.lease_s,
                clock=time.time, time=_EventTime(service_log, task.stream), metrics=metrics,
            )
            for task in tasks
            if task.full is not None
        }  # fmt: skip
        self._nudge = asyncio.Event()
        self._failures = RepeatedTrouble(log, "the trainer does nothing", PASSING)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._end_subscription: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Follow the log, once it is open."""
        self._loop = asyncio.get_running_loop()
        for bench in self.benches.values():
            bench.on_idle = self._wake
        # Only to be woken: what is asked is read from the log, which also has what came before this start.
        self._end_subscription = self._log.subscribe([topics.RETRAIN_REQUESTS], self._asked)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Let trainings write a checkpoint, and end their process."""
        self._end_subscription()
        await ended(self._task)
        for bench in self.benches.values():
            # A while longer than the runner gives its child, which is killed then, and does not stay behind.
            await asyncio.to_thread(bench.stop, self._settings.stop_s + 10.0)

    def _progress(self, task: str, part: str, done: int, of: int) -> None:
        self._metrics.set("weir_trainer_progress", done / max(of, 1), task=task, part=part)

    def _wake(self) -> None:
        # A training's thread may end after the loop has.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._nudge.set)

    def _asked(self, _: RecordBatch) -> None:
        self._nudge.set()

    async def _run(self) -> None:
        await self._log.opened.wait()
        beaten = 0.0
        while True:
            try:
                await self._take_requests()
                beats = time.monotonic() - beaten >= self._settings.heartbeat_s
                beaten = time.monotonic() if beats else beaten
                for bench in self.benches.values():
                    await self._look_after(bench, beats)
                self._failures.over()
            except Exception as error:  # noqa: BLE001 - scoring does not end for it
                self._failures.failed(error)
            await set_within(self._nudge, min(_LOOK_S, self._settings.heartbeat_s))
            self._nudge.clear()

    async def _look_after(self, bench: TaskSupervisor, beats: bool) -> None:
        if not bench.state.at_work:
            for task, part in self._metrics.children("weir_trainer_progress"):
                if task == bench.name:  # it is of the job before
                    self._metrics.forget("weir_trainer_progress", task=task, part=part)
        if beats or (bench.state.busy and not bench.held):
            await asyncio.to_thread(bench.beat)
        end = (await self._log.spans(topics.EXAMPLES))[0].end
        if bench.held:
            await self._give_examples(bench, end)
        else:
            bench.trainer.offset = end  # what was labelled before is of no model that is judged from now on
        bench.start()

    async def _give_examples(self, bench: TaskSupervisor, end: int) -> None:
        while (at := bench.trainer.offset) < end:
            try:
                batches = await self._log.read(topics.EXAMPLES, 0, at)
            except NoLongerKept as gone:
                bench.trainer.offset = int(gone.facts["limit"])
                continue
            values = [record.value for _, record in within(batches, at)]
            rows = await asyncio.to_thread(decode_live, values, bench.name)
            await asyncio.to_thread(bench.give, rows, batches[-1].next_offset)
            if bench.trainer.offset <= at:  # the journal is away
                return

    async def _take_requests(self) -> None:
        """Note in the journal what came since the last time; what comes twice is known by its id."""
        span = (await self._log.spans(topics.RETRAIN_REQUESTS))[0]
        at = max(self._read_position(), span.first)
        while at < span.end:
            for batch in await self._log.read(topics.RETRAIN_REQUESTS, 0, at):
                for record in batch.records:
                    await self._ask(record.value)
                at = batch.next_offset
            # After the journal has them: a crash in between asks twice, which the id tells; the other way round, never.
            write_durably(self._position, lambda file: file.write(b"%d\n" % at))  # noqa: B023 - called at once

    def _read_position(self) -> int:
        return int(self._position.read_text()) if self._position.exists() else 0

    async def _ask(self, value: bytes) -> None:
        if (fault := explain(RetrainRequest, value)) is not None:
            log.warning("%s: not a request: %s", topics.RETRAIN_REQUESTS, fault)
            return
        request = RetrainRequest.model_validate_json(value)
        if (bench := self.benches.get(request.task)) is not None:
            await asyncio.to_thread(bench.trainer.ask, request, time.time())

    def _publish(self, update: ModelUpdate) -> None:
        """Called by threads; returns when the swap has its place in the log."""
        if self._loop is None:
            raise BrokerError("the service has not started")
        appending = self._log.append(topics.MODEL_UPDATES, [update_record(update, time.time())])
        try:
            asyncio.run_coroutine_threadsafe(appending, self._loop).result(_APPEND_S)
        except Problem as problem:
            raise BrokerError(f"model update: {problem}") from problem


class _EventTime:
    """The clock of cutoffs and schedules: wall time for a live stream, event time where a history is loaded.

    From the first events on it never goes back.
    """

    def __init__(self, service_log: EmbeddedServiceLog, stream: str) -> None:
        self._log, self._lane, self._newest = service_log, f"{stream}-0", 0.0

    def __call__(self) -> float:
        intake, now = self._log.engine.host.intake.get(self._lane), time.time()
        if intake is None or intake.watermark == float("-inf"):
            return now  # nothing has come: what will come may be a history
        live = now - intake.watermark <= intake.policy.allowed_lateness
        self._newest = max(self._newest, now if live else intake.watermark)
        return self._newest
