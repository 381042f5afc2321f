"""A task's full model in the demo: trained beside the events, taking effect at fixed places in event time.

What a run does must not depend on the machine's speed, so a training that begins at event time ``t`` sees what was
known at ``t`` and its outcome counts from ``t + TRAINS_FOR``: if it is not done by then, the stream waits for it. In
between, whatever the trainer would be told is put aside. A checkpoint holds the trainer as it was before the training
began; a run that goes on from there begins it again, from the same data under the same seed.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from weir.models.registry.registry import STAGES, Registry, open_files
from weir.models.types import Builder, TrainingSet
from weir.online.codec.wire import ModelUpdate, RetrainRequest
from weir.online.stages.pipeline import StepOutput
from weir.online.task.full_spec import FullSpec
from weir.online.task.spec import TaskSpec
from weir.streams.demo.training_memory import ExampleMemory, Examples, LiveMetric
from weir.streams.trainer.job.job_files import JobWorkshop
from weir.streams.trainer.job.job_runner import InlineRunner, Runner
from weir.streams.trainer.job.live_examples import LiveRows
from weir.streams.trainer.job.real_steps import cut, score
from weir.streams.trainer.leased_state import ALONE_S
from weir.streams.trainer.registry_port import RegistryShelf
from weir.streams.trainer.state_journal import FOLDER, FilesJournal, MemoryJournal
from weir.streams.trainer.task_state import Cause, Job, TaskState, decode
from weir.streams.trainer.task_supervisor import TaskSupervisor

DAY_S: Final = 86_400.0
TRAINS_FOR: Final = 2 * DAY_S
"""Event time from the beginning of a training to its effect: at the demo's pace two seconds."""
HOLDS_FOR: Final = 4 * DAY_S
"""How long a request that a drift led to waits: trained at once, a model would learn the world before the drift, as
labels of the new one come days later."""
_LOOK_S: Final = 0.05
_STOP_S: Final = 30.0
_OWNER: Final = "embedded"
"""Who holds the lease, as checkpoints of before have it."""


def demo_trees(spec: FullSpec) -> Builder:
    """Trees that are grown in less than a second."""
    del spec
    from weir.models.trees.tree_builder import TreeParams, TreesBuilder

    return TreesBuilder(TreeParams(rounds=150, patience=25, learning_rate=0.08, min_rows=30, bins=255))


class ScheduledRequest(msgspec.Struct, frozen=True):
    """A request, and when the trainer is given it."""

    request_id: str
    cause: Cause
    text: str
    begins: float


class _RetrainingState(msgspec.Struct):
    document: bytes
    """The trainer's, from before the training under way."""
    mark: Marker
    began: float | None
    asked: ScheduledRequest | None
    first: bool
    newest: list[Examples]
    waiting: list[Examples]


class Retraining:
    """The trainer of one task.

    Parameters
    ----------
    task : with ``[full]``.
    features : names of what its predictions log.
    directory : of the demo; ``models`` and ``work`` in it are this object's.
    first_at : event time at which a first model is asked for, epoch seconds.
    runner : where training happens; in a thread of this process, as a few thousand rows take less than a second.
    """

    def __init__(
        self, task: TaskSpec, features: Sequence[str], directory: Path, *, first_at: float, runner: Runner | None = None
    ) -> None:
        self.task, self.first_at = task, first_at
        self._models, self._work = directory / "models", directory / "work"
        # Of a training that was broken off, which begins again from what the checkpoint holds.
        shutil.rmtree(self._work, ignore_errors=True)
        self.memory, self.live = ExampleMemory(features), LiveMetric(features)
        self._registry, self._runner = Registry(str(self._models)), runner
        self._open(b"")
        self._waiting: list[Examples] = []
        self.asked: ScheduledRequest | None = None
        """A request that waits."""
        self._first = True
        self.training_since: float | None = None
        """Event time at which the training under way began."""
        self._before: tuple[bytes, Marker] = b"", Marker()
        self._event_ts = 0.0
        self.waited_s = 0.0
        """Wall-clock time for which the stream stood still for a training, in this run."""

    @property
    def state(self) -> TaskState:
        """What the trainer is at, as far as it counts in event time: of a training under way its beginning."""
        if self.training_since is None:
            return self._trainer.state
        return (
            decode(self._before[0], "the state before the training") if self._before[0] else TaskState(self.task.name)
        )

    @property
    def versions(self) -> tuple[int, int]:
        """Which serves, and which is scored beside it; 0 for none."""
        phase, ended = self.state.phase, self.state.ended
        if phase is not None:
            return phase.serving, phase.other
        return next((_serving(job) for job in reversed(ended) if job.stage in ("promoted", "rolled back")), 0), 0

    def observe(self, out: StepOutput) -> None:
        """Take in what one step of the task's pipeline made."""
        for r in out.requests:
            if self.asked is None:
                wait = HOLDS_FOR if r.cause == "drift" else 0.0
                self.asked = ScheduledRequest(r.request_id, r.cause, r.detail, r.ts + wait)
        for batch in out.examples:
            if len(batch):
                # The block in work is later than the last step: nothing is known before its event.
                self._waiting.append(Examples.of(batch, max(self._event_ts, float(batch.ts.max()))))
                self.live.add(self._waiting[-1])
        if self.training_since is None:
            self._take()

    def ask(self, request: RetrainRequest) -> None:
        """Take a person's request at the next step, unless another one waits."""
        self.asked = self.asked or ScheduledRequest(request.request_id, request.cause, request.text or "", 0.0)

    def step(self, event_ts: float, stop: threading.Event) -> list[ModelUpdate]:
        """Go on at ``event_ts``, between two blocks; the updates that count from here on.

        Waits for a training whose time is up; where ``stop`` is set meanwhile nothing happens, and the next run's step
        at the same time goes on.
        """
        self._event_ts = event_ts
        updates: list[ModelUpdate] = []
        if self.training_since is not None:
            if event_ts < self.training_since + TRAINS_FOR or not self._finished(self.training_since, updates, stop):
                return []
            self.training_since = None
            self._take()
        updates += self._poll(event_ts)
        if self._ask(event_ts):
            self._before, self.training_since = (self._document(), self._mark()), event_ts
            updates += self._poll(event_ts)
        return updates

    def _finished(self, since: float, updates: list[ModelUpdate], stop: threading.Event) -> bool:
        """Wait for the end of the training, and note for how long; whether it came."""
        began = time.perf_counter()
        while not (done := _through(self._trainer.state)) and not stop.is_set():
            self._trainer.join(_LOOK_S)
            updates += self._poll(since)  # one that ended for want of a disk is begun again
        if done:
            self._trainer.join()
            updates += self._drained()
        self.waited_s += time.perf_counter() - began
        return done

    def _take(self) -> None:
        """Give the trainer, and the memory, what was put aside."""
        for examples in self._waiting:
            self.memory.add(examples)
            self._trainer.trainer.take(LiveRows.of(examples.batch(), self.memory.features))
        self._waiting.clear()

    def _ask(self, event_ts: float) -> bool:
        """Give the trainer the request that waits, when its time has come; whether that begins a training."""
        if self._first and event_ts >= self.first_at:
            self._first = False
            self.asked = self.asked or ScheduledRequest("first", "manual", "the first model", event_ts)
        job = self.state.job
        if self.asked is None or event_ts < self.asked.begins or (job is not None and job.active):
            return False
        asked, self.asked = self.asked, None
        self._trainer.trainer.ask(
            RetrainRequest(
                request_id=asked.request_id, task=self.task.name, cause=asked.cause, requested_at=event_ts,
                text=asked.text,
            )
        )  # fmt: skip
        return self.state.pending is not None

    def _data(self, task: TaskSpec, cutoff: float) -> TrainingSet:
        """What is known; the memory stands still while a training is under way."""
        del cutoff
        return cut(self.memory.logged(), task, self._event_ts if self.training_since is None else self.training_since)

    def _document(self) -> bytes:
        found = self._journal.newest(self.task.name)
        return b"" if found is None else found[1]

    def _mark(self) -> Marker:
        return Marker.of(self._registry, self.task.name)

    def show(self) -> None:
        """Let the console see how far it is."""
        self._journal.show()

    def snapshot(self) -> bytes:
        """The whole state, at the end of a block."""
        self.show()
        document, mark = (self._document(), self._mark()) if self.training_since is None else self._before
        saved = _RetrainingState(
            document, mark, self.training_since, self.asked, self._first, self.memory.snapshot(), list(self._waiting)
        )
        return msgspec.msgpack.encode(saved)

    def restore(self, data: bytes) -> None:
        """Go on from a ``snapshot``; without one (``b""``) from nothing. What came after it is removed."""
        held = (
            msgspec.msgpack.decode(data, type=_RetrainingState)
            if data
            else _RetrainingState(b"", Marker(), None, None, True, [], [])
        )
        keep_until(self._models, self.task.name, held.mark)
        self.memory.restore(held.newest)
        self._waiting, self.asked, self._first = held.waiting, held.asked, held.first
        # The metric on the screen is no part of a snapshot; it is made again from what is held.
        for examples in (*held.newest, *held.waiting):
            self.live.add(examples)
        self._open(held.document)
        if held.began is not None:
            self._before, self.training_since, self._event_ts = (held.document, held.mark), held.began, held.began
            self._poll(held.began)

    def _open(self, document: bytes) -> None:
        """A trainer that goes on from its ``document``."""
        self._journal = ShownJournal(self._models, self.task.name)
        if document:
            self._journal.append(self.task.name, 1, document)
        runner = self._runner or InlineRunner()
        shop = JobWorkshop(
            data=self._data, builders={"trees": demo_trees}, blend=None, score=score, runner=runner, work=self._work
        )
        self._told: deque[ModelUpdate] = deque()
        self._trained_ts = 0.0
        self._trainer = TaskSupervisor(
            self.task, self._journal, RegistryShelf(self._registry), shop, self._told.append,
            owner=_OWNER, lease_s=ALONE_S, clock=time.time, time=lambda: self._trained_ts,
        )  # fmt: skip

    def _poll(self, event_ts: float) -> list[ModelUpdate]:
        """Begin what the trainer has to begin at ``event_ts``; the updates that it has made."""
        # A training sees the time at which it began, so this clock stands still while the stream goes on beside it.
        self._trained_ts = max(event_ts, self._trained_ts)
        self._trainer.beat()
        self._trainer.start()
        return self._drained()

    def _drained(self) -> list[ModelUpdate]:
        return [self._told.popleft() for _ in range(len(self._told))]

    def close(self) -> None:
        """Stop the training under way; the next run begins it again."""
        self._trainer.stop(_STOP_S)
        shutil.rmtree(self._work, ignore_errors=True)


def _serving(job: Job) -> int:
    return job.version if job.stage == "promoted" else job.champion


def _through(state: TaskState) -> bool:
    """Whether nothing is left to do but to wait for labels."""
    return not (state.at_work or state.pending is not None or state.effects)


class Marker(msgspec.Struct, frozen=True):
    """How far a task's registry had come."""

    version: int = 0
    """The newest."""
    entry: int = 0
    """The newest of the log of stages."""

    @classmethod
    def of(cls, registry: Registry, task: str) -> Marker:
        """How far it has come now."""
        return cls(max(registry.versions(task), default=0), registry.stages(task).seq)


def keep_until(directory: Path, task: str, marker: Marker) -> None:
    """Remove the versions and the moves behind ``marker`` from the registry in ``directory``, unfinished ones too."""
    # A registry never uses a number again; here the same version is made once more, and has to get its number.
    for path in (directory / task).glob("*"):
        if path.name.isdecimal() and int(path.name) > marker.version:
            shutil.rmtree(path)
    for path in (directory / task / STAGES).glob("*.json"):
        if path.stem.isdecimal() and int(path.stem) > marker.entry:
            path.unlink()


class ShownJournal(MemoryJournal):
    """A journal that can be written beside the models, for the console to show; a run never reads it from there.

    Parameters
    ----------
    models, task : where; what an earlier run wrote is removed, as this one may go on from before it.
    """

    def __init__(self, models: Path, task: str) -> None:
        super().__init__()
        shutil.rmtree(models / task / FOLDER, ignore_errors=True)
        self._files, self._task, self._shown = FilesJournal(open_files(str(models))), task, 0

    def show(self) -> None:
        """Write the newest document: not each of them, as every labelled event makes one while a model is judged."""
        found = self.newest(self._task)
        if found is not None and found[0] != self._shown:
            self._shown = found[0]
            self._files.append(self._task, *found)
