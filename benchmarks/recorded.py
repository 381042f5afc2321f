"""What one backtest showed its model, kept so that any learner can be shown the same again in seconds.

A recording is what Kafka would hold: predictions (features, and how many examples the model had learned by then) and
the examples in the order in which they were learned. Learners are folds of which the cuts into calls change nothing, so
a replay gives the scores of a backtest with that learner, as long as no feature follows from a score.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, ExampleBatch, FloatMatrix, FloatVector, IntVector
from weir.online.learners.factory import LearnerSpec, build_learner
from weir.online.learners.interleaved import score_between
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.notes import RunWatch
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.runner import run_backtest

_PIECE: Final = 16_384
"""Rows that are scored in one call: what `auto` puts together of its members is no larger than that."""


@dataclass(frozen=True, slots=True)
class Recording:
    """N predictions in the order of scoring, and the M examples that were learned between them."""

    names: NDArray[Any]
    """``(F,)`` of the features."""
    event_id: NDArray[Any]
    entity_id: NDArray[Any]
    ts: FloatVector
    rows: FloatMatrix
    """``(N, F)`` as scored and logged."""
    learned: IntVector
    """``(N,)`` examples learned before each, ascending."""
    score: FloatVector
    """``(N,)`` of the backtest itself."""
    label: FloatVector
    """``(N,)`` 0 or 1, as the last label said, however late; NaN where none is known at the end of the data."""
    matures_at: FloatVector
    """``(N,)`` from when on both outcomes would be known, event time."""
    x: FloatMatrix
    """``(M, F)``"""
    y: BoolVector
    weight: FloatVector

    def save(self, path: Path) -> None:
        """Write it as one file of arrays."""
        np.savez(path, **{name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what `save` wrote."""
        with np.load(path) as held:
            return cls(**{name: held[name] for name in cls.__slots__})

    def replay(self, spec: LearnerSpec) -> FloatVector:
        """What a learner says of every row ``(N,)``, scored and learned in the order of the backtest."""
        learner = build_learner(spec, tuple(self.names.tolist()))
        scores, done = np.empty(len(self.rows)), 0
        for start in range(0, len(self.rows), _PIECE):
            at = slice(start, start + _PIECE)
            known = slice(done, int(self.learned[at][-1]))
            example = self.x[known], self.y[known], self.weight[known]
            scores[at] = score_between(learner, self.rows[at], self.learned[at] - done, *example)
            done = known.stop
        return scores


class _Recorder:
    """A `Watcher` that keeps what the model was shown."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.rows: list[FloatMatrix] = []
        self.examples: list[ExampleBatch] = []

    def begin(self, pipeline: TaskPipeline, watch: RunWatch) -> None:
        """The run begins."""
        del watch
        self.names = pipeline.features

    def add(self, out: StepOutput) -> None:
        """Keep what a step scored and learned."""
        if out.predictions is not None:
            self.rows.append(out.predictions.features)
        self.examples += out.examples


def record(task: TaskSpec, data: Path) -> Recording:
    """Run a task over a file and keep what its model was shown."""
    seen = _Recorder()
    told = run_backtest(task, [data], keep=Keep(outcomes=True, late_labels=True), watcher=seen).judged
    assert told is not None
    x, y, weight = (np.concatenate([getattr(e, name) for e in seen.examples]) for name in ("x", "y", "weight"))
    return Recording(
        names=np.array(seen.names), event_id=np.array(told.event_id), entity_id=np.array(told.entity_id), ts=told.ts,
        rows=np.concatenate(seen.rows), learned=told.version, score=told.score, label=told.label,
        matures_at=told.matures_at, x=x, y=y, weight=weight,
    )  # fmt: skip
