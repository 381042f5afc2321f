"""The trainer of an embedded host: requests and examples as the host makes them, training beside it, updates back.

    trainer = EmbeddedTrainer(tasks, registry, log, work)
    host = EmbeddedHost(tasks, log, observe=trainer.observe, full=...)
    ... after each step or block:
    for update in trainer.poll(event_time):
        log.append(topics.MODEL_UPDATES, [update_record(update, event_time)])

Training runs in a thread, and there in a process of its own, so events go on meanwhile; where a result must not depend
on the machine's speed, ``background=False`` does it within ``poll``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weir.models.registry.registry import Registry
from weir.models.types import TrainingSet
from weir.online.batch import ExampleBatch
from weir.online.codec.wire import ModelUpdate, RetrainRequest
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.outputs import retrain_request
from weir.streams.trainer.history.log_sources import EmbeddedSource, LogSource
from weir.streams.trainer.history.read_history import read_history
from weir.streams.trainer.job.job_files import JobWorkshop
from weir.streams.trainer.job.job_runner import Runner, SubprocessRunner
from weir.streams.trainer.job.live_examples import LiveRows
from weir.streams.trainer.job.real_steps import blended, cut, encoder_builder, score, trees_builder
from weir.streams.trainer.leased_state import ALONE_S
from weir.streams.trainer.registry_port import RegistryShelf
from weir.streams.trainer.state_journal import Journal, MemoryJournal
from weir.streams.trainer.task_state import Effect, TaskState
from weir.streams.trainer.task_supervisor import TaskSupervisor

_HISTORY: Final = (topics.PREDICTIONS, topics.EXAMPLES, topics.USER_EVENTS, topics.DEVICE_EVENTS)


@dataclass
class SourceData:
    """Data sets from a log that its owner puts here before each job: the embedded host's, as it was then."""

    source: LogSource | None = None

    def __call__(self, task: TaskSpec, cutoff: float) -> TrainingSet:
        """See ``weir.streams.trainer.job.job_steps.Data``."""
        return cut(asyncio.run(read_history(task, source=self.source)), task, cutoff)


class EmbeddedTrainer:
    """See the module. All methods are for the host's thread.

    Parameters
    ----------
    tasks : the host's; those without ``[full]`` are passed over.
    shelf : where versions are kept; a ``Registry``, or a fake.
    log : what the host writes, from which data sets are read.
    work : a directory for data sets and checkpoints.
    shop : instead of real builders, for tests.
    journal : where jobs are noted; in memory when not given.
    background : whether training runs beside the host.
    runner : where the training itself happens; a process of its own.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        shelf: Registry | RegistryShelf,
        log: EmbeddedLog,
        work: Path,
        *,
        shop: JobWorkshop | None = None,
        journal: Journal | None = None,
        background: bool = True,
        runner: Runner | None = None,
    ) -> None:
        self._log, self._data, self._background = log, SourceData(), background
        self._event_ts = 0.0
        self._updates: list[ModelUpdate] = []
        self._lock = threading.Lock()
        shop = shop or JobWorkshop(
            self._data,
            {"encoder": encoder_builder, "trees": trees_builder},
            blended,
            score,
            runner or SubprocessRunner(),
            work,
        )
        self._shelf: RegistryShelf = RegistryShelf(shelf) if isinstance(shelf, Registry) else shelf
        self._benches = {
            task.name: TaskSupervisor(
                task, journal or MemoryJournal(), self._shelf, shop, self._publish,
                owner="embedded", lease_s=ALONE_S, clock=time.time, time=lambda: self._event_ts,
            )
            for task in tasks
            if task.full is not None
        }  # fmt: skip

    def observe(self, pipeline: TaskPipeline, out: StepOutput) -> None:
        """For ``EmbeddedHost(observe=...)``: take in what one step made."""
        name = pipeline.task.name
        if name not in self._benches:
            return
        for r in out.requests:
            self.request(retrain_request(name, r))
        for examples in out.examples:
            self.examples(name, examples, pipeline.features)

    def request(self, request: RetrainRequest) -> None:
        """Take in one request, a person's too; of a task without a full model it is passed over."""
        bench = self._benches.get(request.task)
        if bench is not None:
            bench.trainer.ask(request)

    def examples(self, task: str, batch: ExampleBatch, features: Sequence[str]) -> None:
        """Take in labelled examples in log order, with the names of the columns of ``x``."""
        self._benches[task].trainer.take(LiveRows.of(batch, features))

    def poll(self, event_ts: float) -> list[ModelUpdate]:
        """Go on at ``event_ts`` (epoch seconds): begin what there is to begin; updates to apply, in order."""
        self._event_ts = max(event_ts, self._event_ts)
        for bench in self._benches.values():
            bench.beat()
            if bench.has_work and not bench.working:
                # The host's thread appends to the log, so what a job may read of it is taken down here.
                self._data.source = EmbeddedSource(self._log.read(_HISTORY, 0))
                if self._background:
                    bench.start()
                else:
                    bench.work()
        return self._drained()

    def wait(self, timeout_s: float | None = None) -> list[ModelUpdate]:
        """Wait until no training is at work; updates to apply."""
        for bench in self._benches.values():
            bench.join(timeout_s)
        return self._drained()

    def catch_up(self, served: Mapping[str, tuple[int, int]]) -> list[ModelUpdate]:
        """Updates for a host that resumed from before the newest ones, and has cut them off its log.

        Parameters
        ----------
        served : champion and shadow of each task as the host has them now (``FullModels.versions``).
        """
        made = []
        for name, (champion, shadow) in served.items():
            bench = self._benches.get(name)
            if bench is None:
                continue
            wanted, phase = self._shelf.champion(name), bench.state.phase
            effects = [Effect("promote", wanted, self._event_ts)] if wanted not in (0, champion) else []
            if phase is not None and phase.kind == "shadow" and phase.other != shadow:
                effects.append(Effect("shadow", phase.other, self._event_ts))
            told = (self._shelf.tell(name, effect, "the host resumed") for effect in effects)
            made += [update for update in told if update is not None]
        return made

    def states(self) -> dict[str, TaskState]:
        """What each task's trainer is at, for a screen."""
        return {name: bench.state for name, bench in self._benches.items()}

    def close(self, timeout_s: float | None = 30.0) -> None:
        """Stop trainings after a checkpoint."""
        for bench in self._benches.values():
            bench.stop(timeout_s)

    def _publish(self, update: ModelUpdate) -> None:
        with self._lock:
            self._updates.append(update)

    def _drained(self) -> list[ModelUpdate]:
        with self._lock:
            drained, self._updates = self._updates, []
        return drained
