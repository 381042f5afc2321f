"""The port by which a run has a full model: what it is served by, and told.

Who trains is beyond this package: ``weir.streams.workbench.full_training``.
"""

from __future__ import annotations

from typing import Any, Protocol

from weir.online.batch import EventBatch
from weir.online.codec.columns import ColumnRequest
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.full_spec import FullScorer


class FullTrainer(Protocol):
    """Trains the full model of a run's task on the way; called by the run alone, in the order of its steps."""

    columns: ColumnRequest
    """Of the events, what a training wants beside what the task reads."""

    def scorer(self) -> FullScorer | None:
        """The full model, as the pipeline uses it."""

    def begin(self, pipeline: TaskPipeline) -> None:
        """The run that follows is of this pipeline."""

    def observe(self, out: StepOutput, batch: EventBatch | None, now: float) -> None:
        """Take in what one step made of ``batch``, at event time ``now``."""

    def step(self, now: float) -> None:
        """Go on at event time ``now``, between two batches: what is trained, or swapped, counts from the next one."""

    def report(self) -> list[dict[str, Any]]:
        """What became of each training, oldest first, JSON-ready."""
