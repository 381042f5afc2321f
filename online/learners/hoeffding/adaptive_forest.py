"""Adaptive random forest: River's ``ARFClassifier`` in compiled code, with row weights, which River's ignores.

Memory is bounded by ``n_models`` (twice, with background trees) and ``max_depth``: at most 2^max_depth leaves a tree;
and by what a snapshot may hold: trees that have come so far split no more.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from weir.online.batch import FloatMatrix
from weir.online.learners.hoeffding.hoeffding_learner import HoeffdingLearner
from weir.online.learners.logistic import logit_of


@dataclass(eq=False, repr=False)
class AdaptiveForest(HoeffdingLearner):
    """Adaptive random forest (Gomes et al., Machine Learning 106, 2017).

    Parameters
    ----------
    features : names of the F columns.
    n_models : trees. Learning costs some 2 us a tree and row.
    lambda_value : mean of the Poisson resampling count.
    grace_period : weight a leaf sees between split attempts. Large row weights use it up faster.
    delta, tau : split confidence and tie threshold.
    leaf_prediction : "mc", "nb" or "nba" (majority class, naive Bayes, the better of both).
    max_features : features a leaf monitors: a count, a share below 1, "sqrt" or "log2".
    max_depth : splits on a path at most: bounds memory.
    drift_delta, warning_delta : ADWIN confidences of a tree's replacement and of its background tree's start.
    seed : of resampling and feature choice.

    Raises
    ------
    ValueError
        On a parameter that no forest can have.

    Examples
    --------
    >>> model = AdaptiveForest(("a", "b"), n_models=3, seed=1)
    >>> x = np.random.default_rng(0).random((300, 2))
    >>> model.learn_many(x, x[:, 0] > 0.5, np.ones(300))
    >>> [bool(p > 0.5) for p in model.predict_many(np.array([[0.9, 0.5], [0.1, 0.5]]))]
    [True, False]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    n_models: int = 10
    lambda_value: int = 6
    grace_period: int = 50
    delta: float = 0.01
    tau: float = 0.05
    leaf_prediction: str = "nba"
    max_features: int | str = "sqrt"
    max_depth: int = 10
    drift_delta: float = 0.001
    warning_delta: float = 0.01
    seed: int = 0
    kind: ClassVar[str] = "adaptive_forest"

    def __post_init__(self) -> None:
        # Leaves draw from the columns in the order of their names, as River's do.
        by_name = np.array(sorted(range(len(self.features)), key=self.features.__getitem__), np.int64)
        deltas = float(self.drift_delta), float(self.warning_delta)
        self._begin(self.n_models, self._watched_columns(), by_name, self.lambda_value, deltas)

    def _watched_columns(self) -> int:
        """How many columns a leaf watches."""
        width, given = len(self.features), self.max_features
        if given == "sqrt":
            return max(round(math.sqrt(width)), 1)
        if given == "log2":
            return max(round(math.log2(width)), 1)
        if isinstance(given, str):
            raise ValueError(f'max_features {given!r}: want a count, a share below 1, "sqrt" or "log2"')
        return min(max(int(given if isinstance(given, int) else given * width), 1), width)

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """Log-odds lost when a feature is set to its running mean, one at a time, ``(n, F)``."""
        ablated, each = np.empty(x.shape), np.arange(x.shape[1])
        for i, row in enumerate(x):  # not all rows at once: of some hundred columns that takes gigabytes
            without = np.repeat(row[None], len(row), axis=0)  # (F, F): row j with feature j replaced
            without[each, each] = self._grove.centre[:-1]
            ablated[i] = logit_of(self.predict_many(without))
        return np.asarray(logit_of(self.predict_many(x))[:, None] - ablated)
