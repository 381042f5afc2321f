"""Bayesian logistic regression on what bends a column: its signed logarithm beside the value, and whether it is 0.

Counts, durations and amounts act by their size's order, which a straight line cannot say and trees take many rows to
find. It knows columns, not what they mean.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.jit import njit
from weir.online.learners.bayesian import BayesianLogistic
from weir.online.learners.state import seal, unseal

_MOST_COLUMNS = 120
"""Of the regression, whose cost a row goes with their square: more and the logarithm alone stands for a column."""


@njit(cache=True)
def _curve(x: FloatMatrix, parts: int) -> FloatMatrix:
    """``(n, parts * F)``: signed logarithms; then values, and 1 where a value is 0."""
    n, width = x.shape
    out = np.empty((n, parts * width))
    for i in range(n):
        for j in range(width):
            out[i, j] = np.copysign(np.log1p(abs(x[i, j])), x[i, j])
            if parts == 3:
                out[i, width + j] = x[i, j]
                out[i, 2 * width + j] = 1.0 if x[i, j] == 0.0 else 0.0
    return out


@dataclass(eq=False, repr=False)
class CurvedLogistic:
    """``BayesianLogistic`` over bent columns; O(F^2) a row, some 10 us for 24 columns.

    Parameters
    ----------
    features : names of the F columns; beyond 40 of them a column is its signed logarithm alone.
    prior_std, half_life : as of ``BayesianLogistic``.
    seed : accepted for uniformity; nothing here is random.

    Examples
    --------
    >>> model = CurvedLogistic(("a",))
    >>> x = np.array([[1.0], [10.0], [100.0], [1000.0]] * 50)
    >>> model.learn_many(x, x[:, 0] > 50, np.ones(200))
    >>> model.predict_many(x[:4]).round(1).tolist()
    [0.0, 0.1, 0.8, 1.0]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    prior_std: float = 1.0
    half_life: float = 0.0
    seed: int = 0
    kind: ClassVar[str] = "curved_logistic"

    def __post_init__(self) -> None:
        self._parts = 3 if 3 * len(self.features) <= _MOST_COLUMNS else 1
        names = [f"{part} {name}" for part in ("log", "raw", "zero")[: self._parts] for name in self.features]
        self._inner = BayesianLogistic(tuple(names), prior_std=self.prior_std, half_life=self.half_life)

    def _curved(self, x: FloatMatrix) -> FloatMatrix:
        return _curve(np.ascontiguousarray(x, np.float64), self._parts)

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``."""
        return self._inner.predict_many(self._curved(x))

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        self._inner.learn_many(self._curved(x), y, weight)

    def score_and_judge(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """Scores of rows between those that it learns, and of these from before each; see `JudgesBetween`."""
        return self._inner.score_and_judge(self._curved(rows), learned, self._curved(x), y, weight)

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """Those of a column's parts together, ``(n, F)``: log-odds above those of the mean row."""
        parts = self._inner.contributions(self._curved(x)).reshape(len(x), self._parts, len(self.features))
        return np.asarray(parts.sum(axis=1))

    def snapshot(self) -> bytes:
        """Learned state."""
        return seal(self.kind, self.features, self._inner.snapshot())

    def restore(self, state: bytes) -> None:
        """Replace the learned state; ``ValueError`` when of another kind, other features or another shape."""
        self._inner.restore(unseal(state, self.kind, self.features))
