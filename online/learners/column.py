"""Learners that see some columns: one passes a single one through as the score, the other shows the first to a learner.

The first is no model: it is for tasks whose feature is a detector's score already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.learners.base import Learner
from weir.online.learners.interleaved import score_between

_EDGE = 1e-6


@dataclass(eq=False, repr=False)
class Column:
    """The score is a column, clipped to [0, 1]; nothing is learned.

    Parameters
    ----------
    features : the F input columns.
    column : the one to pass through.
    seed : accepted for symmetry; nothing is random.

    Examples
    --------
    >>> Column(("a", "b"), column="b").predict_many(np.array([[9.0, 0.25], [9.0, 1.5]])).tolist()
    [0.25, 1.0]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    column: str
    seed: int = 0

    def __post_init__(self) -> None:
        if self.column not in self.features:
            raise ValueError(f"column is {self.column!r}, which is not among the inputs {', '.join(self.features)}")
        self._at = self.features.index(self.column)

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """The column, ``(n,)`` in [0, 1]."""
        return np.clip(x[:, self._at], 0.0, 1.0) + 0.0  # no -0.0, which stands for a missing value

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Nothing to learn."""

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """The column's own log-odds in its place, zero elsewhere."""
        out = np.zeros_like(x)
        # A detector says exactly 0 and 1, which have no log-odds.
        p = np.clip(x[:, self._at], _EDGE, 1.0 - _EDGE)
        out[:, self._at] = np.log(p / (1.0 - p))
        return out

    def snapshot(self) -> bytes:
        """There is no state, but a name to check."""
        return self.column.encode()

    def restore(self, state: bytes) -> None:
        """Check that the snapshot is of the same column."""
        if state != self.column.encode():
            raise ValueError(f"the snapshot passes {state.decode(errors='replace')!r} through, this {self.column!r}")


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

    def score_between(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> FloatVector:
        """Scores of rows between those that it learns; see `ScoresBetween`."""
        return score_between(self.learner, self._leading(rows), learned, self._leading(x), y, weight)

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
