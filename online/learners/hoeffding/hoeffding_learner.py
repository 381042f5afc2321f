"""What a Hoeffding tree and a forest of them have in common behind the ``Learner`` port."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.learners.hoeffding.folds import fold, score_rows
from weir.online.learners.hoeffding.grove import Grove, Growth, fresh_grove, most_nodes, with_room
from weir.online.learners.hoeffding.leaves import LEAF_PREDICTIONS
from weir.online.learners.hoeffding.stored import packed, unpacked
from weir.online.learners.interleaved import NO_ROWS
from weir.online.learners.state import seal, unseal

_DEEPEST: Final = 120
"""Splits on a path where ``max_depth`` allows more, which no stream reaches."""
_NOTHING: Final = np.empty(0)


class HoeffdingLearner:
    """Trees as arrays: scoring, learning and storing them; what they explain is up to the class below.

    A class below is a dataclass of its parameters, of which these are read here.
    """

    features: tuple[str, ...]
    grace_period: int
    delta: float
    tau: float
    leaf_prediction: str
    max_depth: int
    seed: int
    kind: ClassVar[str]

    def _begin(
        self, trees: int, watched: int, pool: IntVector | None, rate: float, deltas: tuple[float, float]
    ) -> None:
        """Plant ``trees`` whose leaves watch so many columns drawn from ``pool``, or all where that is None."""
        if self.leaf_prediction not in LEAF_PREDICTIONS:
            raise ValueError(f"leaf_prediction {self.leaf_prediction!r}: want 'mc', 'nb' or 'nba'")
        for name, least in (("delta", 1e-300), ("tau", 0.0)):
            if getattr(self, name) < least:
                raise ValueError(f"{self.kind}: {name} = {getattr(self, name)} is below {least:g}")
        if trees < 1:
            raise ValueError(f"{self.kind}: {trees} trees; give at least one")
        depth, alone = min(self.max_depth, _DEEPEST), pool is None
        self._pool, self._trees, self._watched = pool, trees, watched
        self._grove = self._plant(alone)
        self._growth = Growth(
            float(self.grace_period), float(self.delta), float(self.tau), depth,
            LEAF_PREDICTIONS.index(self.leaf_prediction), float(rate), *deltas, most_nodes(self._grove), alone,
        )  # fmt: skip
        # Of one row: a root and a split of each tree and its background; of an adaptive tree also a leaf that begins,
        # or splits, beside each branch of the path.
        self._need = 3 * (depth + 2) if alone else 6 * trees
        self._replaced = np.empty(depth + 1, np.int64) if alone else None
        self._make_room()

    def _plant(self, alone: bool) -> Grove:
        """Trees that have learned nothing."""
        return fresh_grove(self._trees, self._watched, len(self.features), self.seed, windows=alone)

    def _make_room(self) -> None:
        self._grove = with_room(self._grove, self._need, windows=self._growth.own_windows)

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``; .5 before anything is learned."""
        return score_rows(self._grove, _matrix(x), self._growth)

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        self._fold(x[:0], NO_ROWS, x, y, weight, _NOTHING)

    def score_and_judge(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """Scores of rows between those that it learns, and of these from before each; see `JudgesBetween`."""
        before = np.empty(len(x))
        return self._fold(rows, learned, x, y, weight, before), before

    def _fold(
        self,
        rows: FloatMatrix,
        learned: IntVector,
        x: FloatMatrix,
        y: BoolVector,
        weight: FloatVector,
        before: FloatVector,
    ) -> FloatVector:
        # Copies: for arrays that must not be written to, numba would compile everything once more.
        between = _matrix(rows), learned.copy(), _matrix(x), y.copy(), np.array(weight, np.float64)
        scores, done = np.empty(len(rows)), 0
        while True:
            done = fold(
                self._grove, self._growth, self._pool, self._replaced, self._need, *between, scores, before, done
            )
            if done == len(x):
                return scores
            self._make_room()

    def snapshot(self) -> bytes:
        """The whole learned state, as arrays."""
        return seal(self.kind, self.features, packed(self._grove, self._growth))

    def restore(self, state: bytes) -> None:
        """Replace the learned state; ``StateError`` when of another kind, other features or no such trees."""
        self._grove = unpacked(
            unseal(state, self.kind, self.features), self._plant(self._growth.own_windows), self._growth
        )
        self._make_room()


def _matrix(x: FloatMatrix) -> FloatMatrix:
    return np.array(x, np.float64, order="C")
