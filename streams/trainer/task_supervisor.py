"""One task's trainer with the thread that does its jobs: what a host starts, beats and stops."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from weir.models.errors import ModelError
from weir.models.types import TrainingStoppedError
from weir.online.task.spec import TaskSpec
from weir.streams.errors import in_words
from weir.streams.ops.metric_registry import Registry
from weir.streams.ops.repeated_trouble import RepeatedTrouble
from weir.streams.trainer.job.job_files import JobWorkshop
from weir.streams.trainer.job.job_stages import JobRunner
from weir.streams.trainer.job.live_examples import LiveRows
from weir.streams.trainer.leased_state import Clock, LeasedTaskState
from weir.streams.trainer.registry_port import RegistryShelf
from weir.streams.trainer.state_journal import Journal
from weir.streams.trainer.task_state import TaskState
from weir.streams.trainer.task_trainer import Publish, TaskMeasures, TaskTrainer
from weir.streams.trainer.trainer_errors import PASSING, LeaseLostError

log = logging.getLogger(__name__)
_LONGEST_REST: Final = 128
"""Beats between two tries, some ten minutes."""


class TaskSupervisor:
    """A task at work; its methods may block for a while, and are called by one thread at a time.

    Parameters
    ----------
    spec, journal, shelf, shop, publish : see ``TaskTrainer`` and ``JobRunner``.
    owner, lease_s : see ``LeasedTaskState``.
    clock : of the lease: wall time.
    time : of cutoffs and phases; event time where the host is embedded, else the same.
    metrics : of the process; a throw-away one when not given.
    """

    def __init__(
        self,
        spec: TaskSpec,
        journal: Journal,
        shelf: RegistryShelf,
        shop: JobWorkshop,
        publish: Publish,
        *,
        owner: str,
        lease_s: float,
        clock: Clock,
        time: Clock | None = None,
        metrics: Registry | None = None,
    ) -> None:
        self.name, self._stopping = spec.name, threading.Event()
        measures = TaskMeasures(spec.name, metrics)
        desk = LeasedTaskState(spec.name, journal, owner, lease_s, clock, measures.changed)
        self.trainer = TaskTrainer(spec, desk, shelf, publish, time or clock, measures)
        measures.follow(lambda: self.state, lambda: self.held)
        self._jobs = JobRunner(self.trainer, shop, time or clock, self._stopping.is_set)
        self._thread: threading.Thread | None = None
        self._resting = False
        """Whether the job waits: a link was missing, or it ended in an error nobody expected."""
        self._failures = self._beats_left = 0
        """How often it did so in a row, and how many beats it still waits for that."""
        self.held = False
        """Whether this trainer holds the task, as of the last beat."""
        self.on_idle: Callable[[], None] = lambda: None
        """Called by the job's thread when it ends."""
        self._no_beat = RepeatedTrouble(log, f"task {self.name} is not looked after", PASSING)
        self._no_examples = RepeatedTrouble(log, f"task {self.name}: examples are not taken in", PASSING)
        self._no_champion = RepeatedTrouble(log, f"task {self.name}: what serves is not known", (ModelError, *PASSING))
        self.trouble = ""
        """Why the last beat had no effect: storage that is away. Empty when it had."""

    @property
    def state(self) -> TaskState:
        """The task's document."""
        return self.trainer.state

    @property
    def working(self) -> bool:
        """Whether a job's thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_work(self) -> bool:
        """Whether there is a job to begin or to go on with, or something to tell."""
        s = self.state
        waits = s.job is not None and s.job.stage == "shadowing"
        return bool(s.effects or s.at_work or (s.pending is not None and not waits))

    @property
    def awaited(self) -> bool:
        """Whether there is something to do or to watch, and nobody does it, as of the last beat."""
        s = self.state
        return s.busy and not self.held and s.owner in ("", self.trainer.desk.owner)

    def beat(self) -> None:
        """Take the lease where there is something to do, or say that we are alive; see to the schedule."""
        self._beats_left -= 1
        self._resting = self._resting and self._beats_left > 0
        try:
            self.trainer.tick()
            if not self.held:
                self.trainer.desk.reload()
                if self.state.busy and self.trainer.desk.claim():
                    self.held = True
                    self.trainer.begin()
            elif self.state.busy:
                self.trainer.checkpoint()
                self.trainer.look()
            else:
                self.trainer.desk.release()
                self.held = False
            self.trouble = ""
            self._no_beat.over()
        except LeaseLostError as lost:
            self._lost(lost)
        except PASSING as error:
            self.trouble = in_words(error)
            self._no_beat.failed(error)

    def ask_champion(self) -> None:
        """Ask the registry what serves, for the metrics; where it is away the answer before stays."""
        try:
            self.trainer.measures.champion(self.trainer.shelf.champion(self.name))
            self._no_champion.over()
        except (ModelError, *PASSING) as error:
            self._no_champion.failed(error)

    def give(self, rows: LiveRows, next_offset: int) -> None:
        """Take in examples; where the journal is away they are to be read again, from ``trainer.offset``."""
        try:
            self.trainer.take(rows, next_offset)
            self._no_examples.over()
        except LeaseLostError as lost:
            self._lost(lost)
        except PASSING as error:
            self._no_examples.failed(error)
            self.trainer.begin()

    def start(self) -> None:
        """Begin to work in a thread, where there is something to do and nobody at it.

        After a stage that failed for want of a link or of room nothing begins before the next beat, and ever more of
        them where it fails again: each try may train for long before it fails.
        """
        if self.held and self.has_work and not self.working and not self._resting and not self._stopping.is_set():
            # A daemon: a training that does not stop in time must not keep the process from ending.
            self._thread = threading.Thread(target=self.work, name=f"job-{self.name}", daemon=True)
            self._thread.start()

    def work(self) -> None:
        """Do what there is to do, in this thread."""
        self._resting = True
        try:
            # The end of this thread wakes the host, which would begin again at once: three tries would be over while a
            # broker restarts.
            self._resting = self._jobs.work()
        except LeaseLostError as lost:
            self._resting = False
            self._lost(lost)
        except TrainingStoppedError as stopped:
            self._resting = False
            log.info("task %s: %s", self.name, stopped)
        finally:
            self._failures = self._failures + 1 if self._resting else 0
            # What is only to be told costs nothing to try, and workers wait for it.
            trains = self._resting and not self.state.effects
            self._beats_left = min(2 ** min(self._failures - 1, 30), _LONGEST_REST) if trains else 1
            self.on_idle()

    def _lost(self, lost: LeaseLostError) -> None:
        log.warning("%s", lost)
        self.held = False

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the job's thread, if there is one."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def ask_to_stop(self) -> None:
        """Have the job stop after a checkpoint, and begin none any more."""
        self._stopping.set()

    def stop(self, timeout_s: float | None = None) -> None:
        """Ask the job to stop after a checkpoint, wait for it, and let others have the task.

        Where the journal is away they have to wait for the end of the lease.
        """
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join(timeout_s)
        # A job that did not stop keeps the lease until it runs out: nobody else may begin beside it.
        if self.held and not self.working:
            try:
                self.trainer.checkpoint()
                self.trainer.desk.release()
            except LeaseLostError as lost:
                self._lost(lost)
            except PASSING as error:  # or the jobs of other tasks would not be stopped
                log.warning("task %s: not given back: %s", self.name, in_words(error))
