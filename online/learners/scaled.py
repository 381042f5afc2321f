"""What the linear learners share: arrays of state, standardised inputs, a compiled fold, safe snapshots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.learners.interleaved import NO_ROWS, Between, contiguous
from weir.online.learners.state import copy_into, pack_arrays, seal, unpack_arrays, unseal

MOST_DEVIATIONS = 10.0
"""Standardised inputs are clipped to +- this."""


class ScaledFold(ABC):
    """A learner whose state is a dict of arrays, among them ``mean (F,)`` and ``var (F,)`` of its inputs."""

    kind: ClassVar[str]
    features: tuple[str, ...]
    _state: dict[str, NDArray[Any]]

    @abstractmethod
    def _fold(self, between: Between, before: FloatVector, scores: FloatVector) -> None:
        """Learn rows in order; fill ``before (m,)`` with what each was given just before, ``scores (n,)`` of others."""

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        self._fold(contiguous(x[:0], NO_ROWS, x, y, weight), np.empty(len(x)), np.empty(0))

    def score_and_judge(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """Scores of rows between those that it learns, and of these from before each; see `JudgesBetween`."""
        scores, before = np.empty(len(rows)), np.empty(len(x))
        self._fold(contiguous(rows, learned, x, y, weight), before, scores)
        return scores, before

    def _scaled(self, x: FloatMatrix) -> FloatMatrix:
        """Standardised inputs; a feature that never varied is 0."""
        s = self._state
        std = np.sqrt(s["var"])
        z = np.divide(x - s["mean"], std, out=np.zeros(x.shape), where=std > 0)
        return np.asarray(np.clip(z, -MOST_DEVIATIONS, MOST_DEVIATIONS))

    def snapshot(self) -> bytes:
        """Learned state; deterministic bytes."""
        return seal(self.kind, self.features, pack_arrays(self._state))

    def restore(self, state: bytes) -> None:
        """Replace the learned state; ``ValueError`` when of another kind, other features or another shape."""
        copy_into(self._state, unpack_arrays(unseal(state, self.kind, self.features)))
