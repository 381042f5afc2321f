"""What a learner says of rows just before it learns them."""

from __future__ import annotations

from weir.online.batch import BoolVector, FloatMatrix, FloatVector
from weir.online.learners.base import Learner
from weir.online.learners.interleaved import NO_ROWS, score_and_judge


def predict_learn(learner: Learner, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> FloatVector:
    """Learn ``x (m, F)`` in order; what ``learner`` said of each row just before it was learned, ``(m,)``."""
    return score_and_judge(learner, x[:0], NO_ROWS, x, y, weight)[1]
