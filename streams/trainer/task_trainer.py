"""One task's trainer: requests, the job under way, and what is judged live. Any host calls it, with its own clock.

Three threads may use one: a host's for requests and examples, a worker's for the job, a third that gives signs of life.
What has to survive is in the desk's document; everything else can be made again from it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final

import msgspec

from weir.models.errors import ModelError
from weir.online.codec.wire import ModelUpdate, RetrainRequest
from weir.online.durations import format_duration
from weir.online.task.full_spec import FullSpec, TrainingSpec
from weir.online.task.spec import TaskSpec
from weir.streams.ops.metric_registry import Registry
from weir.streams.trainer.job.live_examples import LiveRows
from weir.streams.trainer.job.promotion import PhaseState, PromotionPhase, PromotionRules
from weir.streams.trainer.leased_state import Clock, LeasedTaskState
from weir.streams.trainer.registry_port import RegistryShelf
from weir.streams.trainer.task_state import Effect, Job, RetrainAsk, Stage, TaskState
from weir.streams.trainer.triggers import (
    Answer,
    RequestOutcome,
    check_schedule,
    conclude,
    consider,
    overtaken,
    scheduled,
)

log = logging.getLogger(__name__)

AHEAD_S: Final = 3600.0
"""How far the time of events may be ahead of the clock: as ``max_ahead`` has it unless told otherwise."""
# What a trainer measures of one task. The document says most of it; what is counted is what this trainer did.

_WORK: Final[Mapping[Stage, str]] = {
    "accepted": "gather", "data": "train", "trained": "judge", "gated": "register", "registered": "shadow"
}  # fmt: skip
"""What is done at a stage: stages are named for what is there already."""
_FIGURES: Final = {"candidate": "gate_metric", "champion": "gate_champion", "low": "gate_low"}


class TaskMeasures:
    """See the module; any thread may call.

    Parameters
    ----------
    task : its name.
    metrics : of the process; a throw-away one when not given.
    clock : monotonic seconds.

    >>> measures = TaskMeasures("fraud", clock=iter([0.0, 90.0]).__next__)
    >>> with measures.timed("data"): pass
    >>> measures.metrics.histogram("weir_trainer_stage_seconds", task="fraud", stage="train").sum
    90.0
    """

    def __init__(self, task: str, metrics: Registry | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.task, self.metrics, self._clock = task, metrics or Registry(), clock

    def follow(self, state: Callable[[], TaskState], held: Callable[[], bool]) -> None:
        """Show what can be asked for at any time, and the gate's figures of the newest job as it is now."""
        self.metrics.gauge("weir_trainer_queue_jobs", task=self.task).follow(lambda: queue(state()))
        self.metrics.gauge("weir_trainer_held", task=self.task).follow(held)
        self._gate(state().job)

    def asked(self, answer: Answer) -> None:
        """A request was taken in."""
        self.metrics.inc("weir_trainer_requests_total", task=self.task, answer=answer)

    def changed(self, before: TaskState, after: TaskState) -> None:
        """The document was changed by this trainer."""
        # By stage, too: a job that was promoted and is rolled back counts for both.
        known = {(job.job_id, job.stage) for job in before.ended}
        for job in after.ended:
            if (job.job_id, job.stage) not in known:
                self.metrics.inc("weir_trainer_jobs_total", task=self.task, outcome=job.stage)
        if after.job is not None and (before.job is None or after.job.metrics != before.job.metrics):
            self._gate(after.job)

    def champion(self, version: int) -> None:
        """What serves; 0 for none."""
        self.metrics.set("weir_trainer_champion_version", version, task=self.task)

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Around the work of a stage, however it ends."""
        began = self._clock()
        try:
            yield
        finally:
            took = self._clock() - began
            self.metrics.observe("weir_trainer_stage_seconds", took, task=self.task, stage=_WORK.get(stage, stage))

    def _gate(self, job: Job | None) -> None:
        """The figures of a job that was judged; those of the one before stay until then."""
        for figure, name in _FIGURES.items():
            if job is not None and name in job.metrics:
                self.metrics.set("weir_trainer_gate", job.metrics[name], task=self.task, figure=figure)


def queue(state: TaskState) -> int:
    """Trainings at work or waiting.

    >>> queue(TaskState("fraud"))
    0
    """
    return int(state.at_work) + int(state.pending is not None)


Publish = Callable[[ModelUpdate], None]
"""Tells the workers; returns when it is certain that they will hear of it."""


class TaskTrainer:
    """See the module.

    Parameters
    ----------
    spec : a task with ``[full]``.
    desk : its document.
    shelf : the registry.
    publish : how workers are told.
    clock : epoch seconds; of an embedded host, event time.
    measures : for the trainer's metrics; thrown away when not given.
    """

    def __init__(
        self, spec: TaskSpec, desk: LeasedTaskState, shelf: RegistryShelf, publish: Publish, clock: Clock,
        measures: TaskMeasures | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.desk, self.shelf = spec, desk, shelf
        self.measures = measures or TaskMeasures(spec.name)
        self.training = training_of(spec)
        if self.training.schedule is not None:
            check_schedule(self.training.schedule)
        self._publish, self._clock = publish, clock
        t = self.training
        self._rules = PromotionRules(t.shadow_examples, t.metric, t.confidence, t.seed)
        self._phase: PromotionPhase | None = None
        # Whoever needs both takes `_telling` first.
        self._telling, self._taking = threading.Lock(), threading.Lock()
        self.offset = 0
        """Of the next example; set by the host where it begins to read, and kept from then on."""
        self.newest_ts = 0.0
        """Newest event time among the examples taken in."""

    @property
    def state(self) -> TaskState:
        """The document, as far as this trainer knows it."""
        return self.desk.state

    def ask(self, request: RetrainRequest, now: float = math.inf) -> RequestOutcome:
        """Take in a request; noted in the journal when this returns. The lease is not needed.

        ``now`` is when it came, epoch seconds: one that is dated further ahead than the time of events may be counts as
        of then, as the cooldown behind it would else hold off all others until its time has come.
        """
        asked, found = RetrainAsk.of(request), list[RequestOutcome]()
        if asked.at > now + AHEAD_S:
            ahead = format_duration(round(asked.at - now))
            log.warning("request %s is dated %s ahead: it counts as of now", asked.request_id, ahead)
            asked = msgspec.structs.replace(asked, at=now)

        def change(state: TaskState) -> TaskState:
            found.append(consider(state, asked, self.spec.retrain.cooldown))
            return found[-1].state

        self.desk.change(change, free=True)
        return self._answered(found[-1])

    def _answered(self, found: RequestOutcome) -> RequestOutcome:
        self.measures.asked(found.answer)
        log.info("task %s: %s: %s", self.spec.name, found.answer, found.words)
        return found

    def tick(self) -> RequestOutcome | None:
        """Look at the schedule."""
        found: list[RequestOutcome] = []

        def change(state: TaskState) -> TaskState:
            after, asked = scheduled(state, self.training.schedule, self._clock())
            # In one change: a crash between two would pass over the turn and never ask for it.
            found[:] = [] if asked is None else [consider(after, RetrainAsk.of(asked), self.spec.retrain.cooldown)]
            return found[0].state if found else after

        if self.training.schedule is None:
            return None
        self.desk.change(change, free=True)
        return self._answered(found[0]) if found else None

    def begin(self) -> None:
        """Go on from the document, after the lease was taken."""
        with self._taking:
            self._phase = None
            if self.state.phase is not None:
                self.offset = self.state.offset

    def take(self, rows: LiveRows, next_offset: int | None = None) -> None:
        """Take in examples in log order; decide where they suffice.

        ``next_offset`` is the one behind them; without a log to read them from again they are counted.

        Raises ``LeaseLostError``.
        """
        with self._taking:
            behind = self.offset + len(rows) if next_offset is None else next_offset
            if len(rows):
                self.newest_ts = max(self.newest_ts, float(rows.ts.max()))
            while (phase := self._current()) is not None:
                decided = phase.update(rows)
                if decided is None:
                    break
                log.info("task %s: %s: %s", self.spec.name, decided.decision, decided.reason)
                rows, now = rows.slice(decided.rows, len(rows)), self._clock()
                self.desk.change(partial(conclude, decided=decided, now=now))
            self.offset = behind
        # Not under the lock: it waits for the registry and the brokers, and a checkpoint must not wait with it, or the
        # lease runs out.
        self.tell()

    def _current(self) -> PromotionPhase | None:
        """What is judged now: another thread may have begun a new phase."""
        wanted, held = self.state.phase, self._phase
        if wanted is None:
            self._phase = None
        # By what it is of, not by equality: the document holds an older snapshot of the same phase.
        elif held is None or _key(held.head) != _key(wanted):
            self._phase = PromotionPhase(self._rules, wanted)
        return self._phase

    def checkpoint(self) -> None:
        """Note how far the live labels were taken in, and give a sign of life; raises ``LeaseLostError``."""
        with self._taking:
            phase = self._current()
            if phase is None:
                self.desk.beat()
                return
            held, offset = phase.snapshot(), self.offset

            def change(state: TaskState) -> TaskState:
                # The phase was concluded, or another begun, since the snapshot.
                if state.phase is None or _key(state.phase) != _key(held):
                    return state
                return msgspec.structs.replace(state, phase=held, offset=offset)

            self.desk.beat(change)  # in one entry: with thousands of labels each has hundreds of kilobytes

    def look(self) -> None:
        """See whether somebody made another version serve by hand; raises ``LeaseLostError``, ``ModelError``."""
        with self._telling, self._taking:
            # As long as a decision of ours is not told, the registry names the champion of before it, and that would
            # look like somebody's.
            if self.state.phase is None or self.state.effects:
                return
            champion, now = self.shelf.champion(self.spec.name), self._clock()
            before = self.state.phase
            after = self.desk.change(lambda state: overtaken(state, champion, now))
            if after.phase is not before:
                log.warning("task %s: version %d was made to serve by hand", self.spec.name, champion)
                self._phase = None

    def tell(self) -> None:
        """Do what was decided: note it in the registry, tell the workers, then strike it off."""
        with self._telling:
            while self.state.effects:
                effect = self.state.effects[0]
                update = self.shelf.tell(self.spec.name, effect, _why(self.state, effect))
                # The registry first: a worker loads only what its log of stages has moved.
                if update is not None:
                    self._publish(update)
                    log.info("task %s: %s version %d", self.spec.name, effect.action, effect.version)
                else:
                    log.warning("task %s: no %s to version %d: it was retired by hand", self.spec.name, effect.action,
                                effect.version)  # fmt: skip
                self.desk.change(partial(_struck, effect=effect))


def _why(state: TaskState, effect: Effect) -> str:
    """What the registry notes: the reason of the job by whose end the effect was decided, "" for a shadow."""
    # Not of the newest job that ended: one that was rejected meanwhile has nothing to do with it.
    ends = {"promote": ("promoted",), "rollback": ("rolled back",), "retire": ("retired", "promoted"), "shadow": ()}
    for job in reversed(state.ended):
        if job.stage in ends[effect.action] and (job.stage != "retired" or job.version == effect.version):
            return job.reason
    return ""


def _struck(state: TaskState, effect: Effect) -> TaskState:
    return msgspec.structs.replace(state, effects=tuple(e for e in state.effects if e != effect))


def _key(phase: PhaseState) -> tuple[object, ...]:
    return phase.kind, phase.serving, phase.other, phase.since


def training_of(spec: TaskSpec) -> TrainingSpec:
    """How a task's full model is trained; raises ``ModelError`` where it has none."""
    return full_of(spec).training


def full_of(spec: TaskSpec) -> FullSpec:
    """The full model of a task; raises ``ModelError`` where it has none."""
    if spec.full is None:
        raise ModelError(f"task {spec.name} has no full model to train; add a [full] table to its file")
    return spec.full
