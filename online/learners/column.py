"""Not a model: passes one input through as the score, for tasks whose feature is a detector's score already."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np

from weir.online.learners.base import BoolVector, FloatMatrix, FloatVector

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
        return np.clip(x[:, self._at], 0.0, 1.0)

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Nothing to learn."""

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """The column's own log-odds in its place, zero elsewhere."""
        out = np.zeros_like(x)
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
