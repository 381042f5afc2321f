"""Average precision and area under the ROC curve of weighted scores, ties shared. Knows no models."""

from __future__ import annotations

import numpy as np

from models.types import BoolVector, FloatVector


def _cumulated(y: BoolVector, score: FloatVector, weight: FloatVector) -> tuple[FloatVector, FloatVector]:
    """Weight of positives and of negatives at or above each distinct score, from the highest down."""
    order = np.argsort(-score, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(score[order])), len(score) - 1]
    hits = np.cumsum(np.where(y, weight, 0.0)[order])[ends]
    misses = np.cumsum(np.where(y, 0.0, weight)[order])[ends]
    return hits, misses


def average_precision(y: BoolVector, score: FloatVector, weight: FloatVector) -> float:
    """Precision at each distinct score, weighed by the recall it adds; NaN without both classes.

    >>> average_precision(np.array([True, False, True]), np.array([3.0, 2.0, 1.0]), np.ones(3))
    0.8333333333333333
    """
    if not y.any() or y.all():
        return float("nan")
    hits, misses = _cumulated(y, score, weight)
    return float((np.diff(hits, prepend=0.0) * hits / np.maximum(hits + misses, 1e-300)).sum() / hits[-1])


def roc_auc(y: BoolVector, score: FloatVector, weight: FloatVector) -> float:
    """Chance that a positive scores above a negative, equal scores counting half; NaN without both classes.

    >>> roc_auc(np.array([True, False, True]), np.array([3.0, 2.0, 2.0]), np.ones(3))
    0.75
    """
    if not y.any() or y.all():
        return float("nan")
    hits, misses = _cumulated(y, score, weight)
    lost, won = np.diff(misses, prepend=0.0), np.r_[0.0, hits[:-1]]
    return float((lost * (won + hits) / 2).sum() / (hits[-1] * misses[-1]))
