"""The trainer process: requests and examples in, full models out.

Up: the producer, the position in ``examples``, then the group of ``retrain-requests``. Three loops run in the event
loop: requests to the journal, examples to what is judged, and the heartbeat, which takes tasks, looks at schedules and
starts jobs. A job runs in a thread and trains in a process, so neither a crash nor a long training stops the loops.
Down: jobs write a checkpoint, leases are given back, then the links close.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from weir.models.registry.registry import Registry, open_files
from weir.online.codec.wire import ModelUpdate, RetrainRequest
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import BrokerError, UsageError
from weir.streams.kafka.kafka_errors import DeliveryError
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import link_security, transport_settings
from weir.streams.offline_models.model_updates import update_record
from weir.streams.ops.metrics import Metrics
from weir.streams.ops.repeated_trouble import RepeatedTrouble
from weir.streams.ops.signals import stop_signals, until_one_ends
from weir.streams.ops.web import WebServer
from weir.streams.records import Record
from weir.streams.trainer.inputs import ExamplesFollower, RequestReader
from weir.streams.trainer.job.job_runner import SubprocessRunner
from weir.streams.trainer.job.real_steps import kafka_workshop
from weir.streams.trainer.registry_port import RegistryShelf
from weir.streams.trainer.state_journal import FilesJournal
from weir.streams.trainer.task_state import TaskState
from weir.streams.trainer.task_supervisor import TaskSupervisor
from weir.streams.trainer.trainer_errors import PASSING

log = logging.getLogger(__name__)

JobProgress = Callable[[str, str, int, int], None]


class TrainerStatus:
    """Answers the web endpoints.

    Parameters
    ----------
    benches : the tasks.
    requests : why requests are not read now; empty when they are.
    silence_s : the longest time between two beats that is no trouble.
    clock : monotonic seconds.

    A trainer that waits while another holds the tasks is ready: it would take over at once.
    """

    def __init__(
        self,
        benches: Sequence[TaskSupervisor],
        requests: Callable[[], str],
        silence_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._benches, self._requests, self._silence_s, self._clock = benches, requests, silence_s, clock
        self._beat_at: float | None = None

    def beaten(self) -> None:
        """Every task was looked at."""
        self._beat_at = self._clock()

    def ready(self) -> list[str]:
        """Why the trainer does not do its work, a sentence each."""
        if self._beat_at is None:
            return ["no task was looked at yet: the trainer is starting"]
        reasons = [f"task {bench.name}: {bench.trouble}" for bench in self._benches if bench.trouble]
        if trouble := self._requests():
            reasons.append(f"requests are not read: {trouble}")
        if (silent := self._clock() - self._beat_at) > self._silence_s:
            reasons.append(f"no task was looked at for {silent:.0f} s: does the storage of the registry hang?")
        return reasons

    def describe(self) -> Mapping[str, object]:
        """What each task is at."""
        return {"tasks": {bench.name: _told(bench.state, bench.held) for bench in self._benches}}


def _told(state: TaskState, held: bool) -> Mapping[str, object]:
    job, phase = state.job, state.phase
    return {
        "held": held,
        "owner": state.owner or None,
        "waits": None if state.pending is None else state.pending.request_id,
        "job": None if job is None else {"id": job.job_id, "stage": job.stage, "tries": job.tries, "why": job.reason},
        "judged": None
        if phase is None
        else {"kind": phase.kind, "serving": phase.serving, "other": phase.other, "labels": len(phase.y)},
    }


_SEND_S: Final = 60.0
_STOP_S: Final = 3.0
"""So long a producer that lost records may take to disconnect."""
_CHAMPION_S: Final = 30.0
"""Between two questions to the registry that are for the metrics only."""


class Trainer:
    """One trainer process, not started.

    Parameters
    ----------
    settings : where everything is.
    tasks : those with ``[full]`` are trained.
    progress : told how far a job's parts are: task, part, how much is done, of how much.
    """

    def __init__(self, settings: Settings, tasks: Sequence[TaskSpec], progress: JobProgress) -> None:
        t, options = settings.trainer, settings.kafka.client_options("trainer")
        trained = [task for task in tasks if task.full is not None]
        if not trained:
            raise UsageError(f"none of {[task.name for task in tasks]} has a full model; add a [full] table to a task")
        self._settings, self.name = settings, t.name()
        shop = replace(kafka_workshop(settings, SubprocessRunner(t.stop_s)), progress=progress)
        shelf = RegistryShelf(Registry(settings.models.registry))
        journal = FilesJournal(open_files(settings.models.registry))
        self.metrics = Metrics(settings.topics.own)
        self.benches = [
            TaskSupervisor(
                task, journal, shelf, shop, self._publish, owner=self.name, lease_s=t.lease_s, clock=time.time,
                metrics=self.metrics,
            )
            for task in trained
        ]  # fmt: skip
        self._of_task = {bench.name: bench for bench in self.benches}
        self._requests = RequestReader(options, settings.topics.name(topics.RETRAIN_REQUESTS), t.group)
        self._examples = ExamplesFollower(options, self.benches, settings.topics.name(topics.EXAMPLES))
        self._producer = BatchProducer(transport_settings(settings, t.group), link_security(settings.kafka))
        self._connecting = asyncio.Lock()
        self.status = TrainerStatus(self.benches, lambda: self._requests.trouble, t.lease_s + t.heartbeat_s)
        self.web: WebServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nudge, self._stop = asyncio.Event(), asyncio.Event()
        self._once = False

    async def run(self, once: bool = False) -> None:
        """Run until ``stop``; with ``once`` until all requests are answered and no training is at work."""
        self._loop = asyncio.get_running_loop()
        for bench in self.benches:
            bench.on_idle = self._wake
        async with contextlib.AsyncExitStack() as stack:
            if not once:  # it ends by itself, and may run beside one that stays
                await self._serve(stack)
            await self._producer.start()
            stack.push_async_callback(self._producer.stop)
            await self._examples.start()
            stack.push_async_callback(self._examples.stop)
            await self._requests.start()
            stack.push_async_callback(self._requests.stop)
            # Pushed last, so done first: what jobs still tell needs the links.
            stack.push_async_callback(self._end_jobs)
            log.info("trainer %s: tasks %s", self.name, ", ".join(self._of_task))
            self._once = once
            # An error in one ends them all.
            await until_one_ends(self._read_requests(), self._read_examples(), self._beat(), self._stop.wait())

    def stop(self) -> None:
        """Ask for a clean stop."""
        self._stop.set()
        self._nudge.set()

    async def _serve(self, stack: contextlib.AsyncExitStack) -> None:
        """Answer those who look after this trainer, from before the first link is up until the last is closed."""
        t = self._settings.trainer
        if t.web_port == 0:
            return
        port, about = 0 if t.web_port == "auto" else t.web_port, {"role": "trainer", "worker": self.name}
        self.web = await stack.enter_async_context(
            WebServer(t.web_host, port, self.status, self.metrics, about, "trainer")
        )
        log.info("health, readiness and metrics at %s", self.web.url)

    async def _read_requests(self) -> None:
        while not self._stop.is_set():
            # With `once` also when nothing came: that all is done is seen by a beat, which would wait for heartbeat_s.
            if await self._requests.read(self._take) or self._once:
                self._nudge.set()

    async def _take(self, request: RetrainRequest) -> None:
        bench = self._of_task.get(request.task)
        if bench is None:
            log.warning("request %s is for task %s, which is not trained here", request.request_id, request.task)
            return
        failures = RepeatedTrouble(log, f"request {request.request_id} is not noted", PASSING)
        while True:
            try:
                await asyncio.to_thread(bench.trainer.ask, request, time.time())
            except PASSING as error:
                failures.failed(error)
                await asyncio.sleep(self._settings.trainer.heartbeat_s)
            else:
                failures.over()
                return

    async def _read_examples(self) -> None:
        while not self._stop.is_set():
            if await self._examples.step():
                self._nudge.set()

    async def _beat(self) -> None:
        """Beat every ``heartbeat_s``, and start jobs as soon as something came."""
        every, due, look = self._settings.trainer.heartbeat_s, 0.0, 0.0
        while not self._stop.is_set():
            if time.monotonic() >= look:
                look = time.monotonic() + _CHAMPION_S
                for bench in self.benches:
                    await asyncio.to_thread(bench.ask_champion)
            # What another trainer holds is looked at every heartbeat_s: else each nudge, and examples nudge all the
            # time, would read every journal and write the checkpoints of ours.
            if time.monotonic() >= due or any(bench.awaited for bench in self.benches):
                due = time.monotonic() + every
                for bench in self.benches:
                    # In a thread, as all that touches the journal: where its storage hangs, requests are still read and
                    # the web answers.
                    await asyncio.to_thread(bench.beat)
                self.status.beaten()
            for bench in self.benches:
                bench.start()
            if self._once and await self._answered():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):  # wait_for may swallow a cancellation (Python 3.11)
                    await self._nudge.wait()
            # No await since the wait, so no nudge is lost here; one that came during the beats ended the wait at once.
            self._nudge.clear()

    async def _answered(self) -> bool:
        """Whether there is nothing left but to wait for labels."""
        if await self._requests.behind():  # first: a request that is taken while we look is work that we then see
            return False
        ours = [bench for bench in self.benches if bench.state.owner in ("", self.name)]
        return not any(bench.working or bench.has_work for bench in ours)

    async def _end_jobs(self) -> None:
        for bench in self.benches:
            bench.ask_to_stop()  # all at once: each may take stop_s for its checkpoint
        for bench in self.benches:
            await asyncio.to_thread(bench.stop, self._settings.trainer.stop_s + 10.0)

    def _wake(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._nudge.set)

    def _publish(self, update: ModelUpdate) -> None:
        """Called by threads; returns when the brokers have it."""
        if self._loop is None:
            raise UsageError("the trainer was not started")
        # Never called in the event loop, which would wait for itself.
        sending = asyncio.run_coroutine_threadsafe(self._send(update_record(update, time.time())), self._loop)
        try:
            sending.result(_SEND_S)
        except TimeoutError:
            # It may arrive yet: an update that comes again is known by its content.
            raise BrokerError(f"the brokers did not acknowledge the update within {_SEND_S:g} s") from None

    async def _send(self, record: Record) -> None:
        async with self._connecting:
            await self._producer.start()  # unless it is connected
        try:
            await self._producer.send_and_wait(self._settings.topics.name(topics.MODEL_UPDATES), [record])
        except DeliveryError:
            # It refuses everything from now on, as the order of a worker depends on it. Ours does not: whatever was
            # lost is told again, by another one.
            async with self._connecting:
                await self._producer.stop(_STOP_S)
            raise


async def run_trainer(settings: Settings, tasks: Sequence[TaskSpec], progress: JobProgress, once: bool = False) -> int:
    """Run a trainer until it is told to stop; the exit status. Raises ``WeirError`` for what a person can mend."""
    trainer = Trainer(settings, tasks, progress)
    with stop_signals(asyncio.get_running_loop(), trainer.stop) as caught:
        await trainer.run(once)
    return caught.status
