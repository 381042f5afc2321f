"""A learner that sees only the leading columns of what is logged; the rest is kept for the full model and for people.

It knows how many columns, not what they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weir.online.learners.base import BoolVector, FloatMatrix, FloatVector, Learner


class ColumnPrefix:
    """A ``Learner`` over F columns, of which ``learner`` sees the first W.

    Its snapshot is that of the learner inside: what is only logged may change without a model being lost.

    Parameters
    ----------
    learner : over W columns.
    features : names of all F columns, the first W those of ``learner``.

    Examples
    --------
    >>> from weir.online.learners.column import Column
    >>> model = ColumnPrefix(Column(("a", "b"), column="b"), ("a", "b", "logged"))
    >>> model.predict_many(np.array([[9.0, 0.25, 7.0]])).tolist(), model.contributions(np.ones((1, 3))).shape
    ([0.25], (1, 3))
    """

    def __init__(self, learner: Learner, features: Sequence[str]) -> None:
        self.learner, self.features = learner, tuple(features)
        self._width = len(learner.features)
        if self.features[: self._width] != learner.features:
            raise ValueError(f"the learner's columns {learner.features} are not the first of {self.features}")

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``x (n, F)`` to ``(n,)``."""
        return self.learner.predict_many(self._leading(x))

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        self.learner.learn_many(self._leading(x), y, weight)

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """What each column adds to the log-odds, ``(n, F)``; 0 for what is not seen."""
        out = np.zeros((len(x), len(self.features)))
        out[:, : self._width] = self.learner.contributions(self._leading(x))
        return out

    def snapshot(self) -> bytes:
        """That of the learner inside."""
        return self.learner.snapshot()

    def restore(self, state: bytes) -> None:
        """Restore the learner inside; raises ``ValueError`` where the snapshot does not fit it."""
        self.learner.restore(state)

    def _leading(self, x: FloatMatrix) -> FloatMatrix:
        return np.ascontiguousarray(x[:, : self._width])  # compiled learners want their rows without gaps
