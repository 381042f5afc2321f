"""Shows a learner values within ten standard deviations of their columns' means.

It is for trees that cut a column's range into equal parts, in which one wild value leaves no part for the others. A row
that is further out also teaches less, by as much as it is further.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.jit import njit
from weir.online.learners.base import Learner
from weir.online.learners.interleaved import NO_ROWS, Between, contiguous, score_and_judge, score_between
from weir.online.learners.logistic import WARM_ROWS, scale_learn
from weir.online.learners.scaled import MOST_DEVIATIONS
from weir.online.learners.state import copy_into, seal_with, unseal_with


@njit(cache=True)
def _clip(row: FloatVector, count: float, mean: FloatVector, var: FloatVector, out: FloatVector) -> float:
    """Write the clipped row; returns how many times ten deviations the furthest value is from its mean, 1 at least."""
    furthest = 1.0
    for j in range(row.size):
        out[j] = row[j]
        if count > WARM_ROWS and var[j] > 0.0:
            most = MOST_DEVIATIONS * math.sqrt(var[j])
            out[j] = min(max(row[j], mean[j] - most), mean[j] + most)
            furthest = max(furthest, abs(row[j] - mean[j]) / most)
    return furthest


@njit(cache=True)
def _clip_rows(x: FloatMatrix, s: FloatVector, mean: FloatVector, var: FloatVector, out: FloatMatrix) -> None:
    for i in range(x.shape[0]):
        _clip(x[i], s[0], mean, var, out[i])


@njit(cache=True)
def _clip_between(
    rows: FloatMatrix,
    learned: IntVector,
    x: FloatMatrix,
    weight: FloatVector,
    count: FloatVector,
    mean: FloatVector,
    var: FloatVector,
    clipped: FloatMatrix,
    out: FloatMatrix,
    used: FloatVector,
) -> None:
    at = 0
    for i in range(x.shape[0] + 1):
        while at < learned.size and learned[at] <= i:
            _clip(rows[at], count[0], mean, var, clipped[at])
            at += 1
        if i < x.shape[0]:
            # Clipped by what was known before the row, then counted: a row cannot widen the range that it is held to.
            used[i] = weight[i] / _clip(x[i], count[0], mean, var, out[i])
            count[0] += 1.0
            scale_learn(x[i], count[0], mean, var)


class ClippingLearner:
    """A ``Learner`` that clips what the one inside sees.

    Examples
    --------
    >>> from weir.online.learners.logistic import ScaledLogistic
    >>> model = ClippingLearner(ScaledLogistic(("a",), lr=0.1))
    >>> x = np.array([[0.0], [1.0]] * 200)
    >>> model.learn_many(x, x[:, 0] > 0, np.ones(400))
    >>> bool(model.predict_many(np.array([[1e9]]))[0] == model.predict_many(np.array([[6.0]]))[0])
    True
    """

    kind = "clipped"

    def __init__(self, learner: Learner) -> None:
        self.learner, self.features = learner, learner.features
        width = len(self.features)
        self._state: dict[str, NDArray[Any]] = {"count": np.zeros(1), "mean": np.zeros(width), "var": np.zeros(width)}

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``."""
        return self.learner.predict_many(self._clipped(x))

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        self.learner.learn_many(*self._clipped_between(contiguous(x[:0], NO_ROWS, x, y, weight))[2:])

    def score_and_judge(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """Scores of rows between those that it learns, and of these from before each; see `JudgesBetween`."""
        return score_and_judge(self.learner, *self._clipped_between(contiguous(rows, learned, x, y, weight)))

    def score_between(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> FloatVector:
        """Scores of rows between those that it learns; see `ScoresBetween`."""
        return score_between(self.learner, *self._clipped_between(contiguous(rows, learned, x, y, weight)))

    def _clipped_between(self, between: Between) -> Between:
        """What the learner inside is to see."""
        s, (rows, learned, x, y, weight) = self._state, between
        clipped, out, used = np.empty(rows.shape), np.empty(x.shape), np.empty(len(x))
        _clip_between(rows, learned, x, weight, s["count"], s["mean"], s["var"], clipped, out, used)
        return clipped, learned, out, y, used

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """Those of the learner inside, ``(n, F)``."""
        return self.learner.contributions(self._clipped(x))

    def snapshot(self) -> bytes:
        """Means and variances, and the state of the learner inside."""
        return seal_with([self.learner.snapshot()], self.kind, self.features, self._state)

    def restore(self, state: bytes) -> None:
        """Replace the state; ``ValueError`` when of another kind, other features or another learner."""
        arrays, (inner,) = unseal_with(1, state, self.kind, self.features)
        fresh = {name: np.empty_like(held) for name, held in self._state.items()}
        copy_into(fresh, arrays)
        self.learner.restore(inner)
        self._state = fresh

    def _clipped(self, x: FloatMatrix) -> FloatMatrix:
        s, rows = self._state, np.empty(x.shape)
        _clip_rows(np.ascontiguousarray(x), s["count"], s["mean"], s["var"], rows)
        return rows
