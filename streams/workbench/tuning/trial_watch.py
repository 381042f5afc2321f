"""Looks at a trial while it runs: reports its metric after some blocks, and stops it where it is worse than others."""

from __future__ import annotations

import multiprocessing
import time
from typing import Final

import numpy as np
import optuna

from weir.online.batch import FloatVector
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.streams.backtest.notes import RunWatch
from weir.streams.errors import UsageError
from weir.streams.workbench.measures import LOWER_IS_BETTER
from weir.streams.workbench.tuning.reference import BLOCKS, Reference

RUNGS: Final = (1, 2, BLOCKS)


def sign(metric: str) -> int:
    """What makes more be better."""
    return -1 if metric in LOWER_IS_BETTER else 1


def left_alone() -> bool:
    """Whether the process that started this one is gone: killed, it could not end its own."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


class TrialWatch:
    """Looks at a trial while it runs."""

    def __init__(self, metric: str, trial: optuna.Trial, reference: Reference, until: float) -> None:
        self._metric, self._trial, self._reference, self._until = metric, trial, reference, until
        self._held: list[tuple[FloatVector, FloatVector]] = []
        self._rows, self._blocks = 0, RUNGS[0]
        self._first = "fixed_params" in trial.storage.get_trial_system_attrs(trial._trial_id)
        self._pruned = self.late = False
        self.value: float | None = None
        """Once all rows that count are scored."""
        self.began = time.monotonic()

    def scores(self) -> FloatVector:
        """Those so far; raises ``UsageError`` where they are not of the rows of the task as it is."""
        ts, score = (np.concatenate(each) for each in zip(*self._held, strict=True))
        n = min(len(ts), len(self._reference))
        if not np.array_equal(ts[:n], self._reference.ts[:n]):
            raise UsageError(
                "a trial scored other rows than the task as it is: change what is scored by hand, not here"
            )
        return np.asarray(score)

    def begin(self, pipeline: TaskPipeline, watch: RunWatch) -> None:
        """A run begins; there is nothing to know of it."""

    def add(self, out: StepOutput) -> None:
        """Take in what a step scored; at the end of some blocks tell the pruner."""
        if out.predictions is None or self.stop():
            return
        self._held.append((out.predictions.ts, out.predictions.score))
        self._rows += len(out.predictions)
        while self._blocks <= BLOCKS and self._rows >= self._reference.edge(self._blocks):
            value = self._reference.value(self.scores(), self._blocks, self._metric)
            if not np.isnan(value):
                value *= sign(self._metric)
                self._trial.report(value, self._blocks)
                worse = self._trial.should_prune()
                self._pruned = worse and self._blocks < BLOCKS and not self._first
            if self._blocks == BLOCKS:
                self.value = value
            self._blocks *= 2

    def stop(self) -> bool:
        """Whether nothing more is to be learned of it."""
        over = time.monotonic() > self._until or left_alone()
        self.late = self.value is None and not self._pruned and over
        return self._pruned or self.late or self.value is not None
