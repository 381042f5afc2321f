"""What a trainer measures of one task. The document says most of it; what is counted is what this trainer did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from weir.streams.ops.metric_registry import Registry
from weir.streams.trainer.task_state import Job, Stage, TaskState
from weir.streams.trainer.triggers import Answer

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
