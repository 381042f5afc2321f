"""A Hoeffding adaptive tree: River's ``HoeffdingAdaptiveTreeClassifier`` in compiled code.

Memory is bounded by ``max_depth`` (at most 2^max_depth leaves, each with a Gaussian pair per feature, plus one
alternate leaf a branch), and by what a snapshot may hold: a tree that has come so far splits no more.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from weir.online.batch import FloatMatrix, FloatVector
from weir.online.jit import njit
from weir.online.learners.hoeffding.folds import clip_row
from weir.online.learners.hoeffding.grove import (
    CUT,
    FACTOR,
    FEATURE,
    LEFT,
    LOG_NORM,
    MEAN,
    NO,
    RIGHT,
    WATCH,
    YES,
    Grove,
    Growth,
    inner,
)
from weir.online.learners.hoeffding.hoeffding_learner import HoeffdingLearner
from weir.online.learners.hoeffding.leaves import uses_bayes

_NB_BOUND = 12.0
_DELTA = 0.002
"""Of the windows over mistakes: River's."""


@inner
def _log_odds(values: FloatVector) -> float:
    """Smoothed log-odds of a node's class weights."""
    return math.log((values[YES] + 0.5) / (values[NO] + 0.5))


@njit(cache=True, nogil=True, error_model="numpy")
def _follow(grove: Grove, x: FloatMatrix, growth: Growth) -> FloatMatrix:
    """What each feature adds along the paths of rows, ``(n, F)``."""
    out, row = np.zeros(x.shape), np.empty(x.shape[1])
    for i in range(x.shape[0]):
        at = grove.roots[0, 0]
        if at < 0:
            continue
        clip_row(x[i], row)
        while grove.links[at, FEATURE] >= 0:
            feature = grove.links[at, FEATURE]
            below = grove.links[at, LEFT] if row[feature] <= grove.values[at, CUT] else grove.links[at, RIGHT]
            out[i, feature] += _log_odds(grove.values[below]) - _log_odds(grove.values[at])
            at = below
        if not uses_bayes(grove, at, growth):
            continue
        watch = grove.links[at, WATCH]
        for j in range(grove.columns.shape[1]):
            of_no, of_yes = grove.gaussians[watch, j, 0], grove.gaussians[watch, j, 1]
            if of_no[FACTOR] < 0.0 and of_yes[FACTOR] < 0.0:
                value = row[grove.columns[watch, j]]
                ratio = (value - of_yes[MEAN]) ** 2 * of_yes[FACTOR] + of_yes[LOG_NORM]
                ratio -= (value - of_no[MEAN]) ** 2 * of_no[FACTOR] + of_no[LOG_NORM]
                if math.isfinite(ratio):
                    out[i, grove.columns[watch, j]] += min(max(ratio, -_NB_BOUND), _NB_BOUND)
    return out


@dataclass(eq=False, repr=False)
class AdaptiveTree(HoeffdingLearner):
    """Hoeffding tree that grows alternate branches where its error drifts (Bifet & Gavalda, IDA 2009).

    Parameters
    ----------
    features : names of the F columns.
    grace_period : weight a leaf sees between split attempts. Large row weights use it up faster.
    delta, tau : split confidence and tie threshold.
    leaf_prediction : "mc", "nb" or "nba" (majority class, naive Bayes, the better of both).
    max_depth : splits on a path at most: bounds memory.
    bootstrap_sampling : Poisson(1) resampling in the leaves, drawn from ``seed``.
    seed : of the tree's own random numbers.

    Raises
    ------
    ValueError
        On a parameter that no tree can have.

    Examples
    --------
    >>> model = AdaptiveTree(("a", "b"), seed=1)
    >>> x = np.random.default_rng(0).random((500, 2))
    >>> model.learn_many(x, x[:, 0] > 0.5, np.ones(500))
    >>> [bool(p > 0.5) for p in model.predict_many(np.array([[0.9, 0.5], [0.1, 0.5]]))]
    [True, False]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    grace_period: int = 200
    delta: float = 1e-7
    tau: float = 0.05
    leaf_prediction: str = "nba"
    max_depth: int = 10
    bootstrap_sampling: bool = True
    seed: int = 0
    kind: ClassVar[str] = "adaptive_tree"

    def __post_init__(self) -> None:
        self._begin(1, len(self.features), None, 1.0 if self.bootstrap_sampling else 0.0, (_DELTA, _DELTA))

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """Path contributions, ``(n, F)``: each split's feature gets the change in log-odds from the node to its child.

        In a leaf that answers by naive Bayes each feature also gets its own log-likelihood ratio.
        """
        return _follow(self._grove, np.array(x, np.float64, order="C"), self._growth)
