"""The port every online model implements. It knows matrices of features, not events, time or labels' delays."""

from __future__ import annotations

from typing import Protocol

from weir.online.batch import BoolVector, FloatMatrix, FloatVector


class Learner(Protocol):
    """An online binary classifier: a fold over examples.

    Built as ``Learner(features, **params)`` where ``features`` names the F columns of every matrix. Rows are finite:
    the feature plan has already replaced what is missing by 0 and added indicator columns. Two learners built with
    the same parameters and fed the same rows in the same order hold bit-identical state, however the rows were cut
    into calls.
    """

    features: tuple[str, ...]

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``x (n, F) float64`` to ``(n,) float64`` in [0, 1]; changes nothing."""

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order; ``y (n,) bool``, ``weight (n,) float64`` > 0 (1 / rate for sampled negatives)."""

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """What each feature adds to the log-odds against the learner's reference point, ``(n, F)``."""

    def snapshot(self) -> bytes:
        """The whole learned state; ``restore`` of it on a learner built alike continues bit-identically."""

    def restore(self, state: bytes) -> None:
        """Replace the learned state by a ``snapshot``; raises ``ValueError`` when it is of another kind or shape."""
