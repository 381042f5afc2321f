"""Bayesian logistic regression by an extended Kalman filter, with forgetting: second-order online learning.

A Gaussian over the coefficients is updated by each row (Penny & Roberts, "Dynamic logistic regression", IJCNN 1999;
McCormick, Raftery, Madigan & Burd, Biometrics 68, 2012). Where plain SGD needs thousands of rows to untangle correlated
features, this is close to the batch optimum after a few hundred, at O(F^2) a row. Features are standardised by the same
running scaler as ``ScaledLogistic``. Memory: (F + 1)^2 + 3 F numbers, forever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.jit import njit
from weir.online.learners.interleaved import Between
from weir.online.learners.logistic import dot, scale_learn, scale_row, sigmoid
from weir.online.learners.scaled import ScaledFold


@njit(cache=True)
def _scaled(row: FloatVector, mean: FloatVector, var: FloatVector, bound: float, out: FloatVector) -> None:
    """Standardised row within +-``bound``, then a 1 for the intercept."""
    scale_row(row, mean, var, out)
    for j in range(row.size):
        out[j] = min(max(out[j], -bound), bound)
    out[row.size] = 1.0


@njit(cache=True)
def _scores(
    x: FloatMatrix,
    w: FloatVector,
    mean: FloatVector,
    var: FloatVector,
    bound: float,
    prior: FloatVector,
    out: FloatVector,
) -> None:
    row = np.empty(w.size)
    for i in range(x.shape[0]):
        _scaled(x[i], mean, var, bound, row)
        out[i] = sigmoid(dot(dot(0.0, x[i], prior), w, row))


@njit(cache=True)
def _fold(
    rows: FloatMatrix,
    learned: IntVector,
    x: FloatMatrix,
    y: BoolVector,
    weight: FloatVector,
    w: FloatVector,
    cov: FloatMatrix,
    mean: FloatVector,
    var: FloatVector,
    count: FloatVector,
    params: FloatVector,
    prior: FloatVector,
    before: FloatVector,
    scores: FloatVector,
) -> None:
    """Score then learn each row of ``x``, and score row i of ``rows`` after the first ``learned[i]`` of them.

    ``params`` = (decay, prior variance, bound, least curvature).
    """
    n_w, at = w.size, 0
    row, gain = np.empty(n_w), np.empty(n_w)
    for i in range(x.shape[0] + 1):
        while at < learned.size and learned[at] <= i:
            _scaled(rows[at], mean, var, params[2], row)
            scores[at] = sigmoid(dot(dot(0.0, rows[at], prior), w, row))
            at += 1
        if i == x.shape[0]:
            break
        _scaled(x[i], mean, var, params[2], row)
        before[i] = sigmoid(dot(dot(0.0, x[i], prior), w, row))
        count[0] += 1.0
        scale_learn(x[i], count[0], mean, var)
        # Scaled again: the scale has just learned this row.
        _scaled(x[i], mean, var, params[2], row)
        p = sigmoid(dot(dot(0.0, x[i], prior), w, row))
        curvature = max(p * (1.0 - p), params[3]) * weight[i]
        spread = 0.0
        for j in range(n_w):
            total = 0.0
            for k in range(n_w):
                total += cov[j, k] * row[k]
            gain[j] = total
            spread += total * row[j]
        # The rank-one form of the Kalman update (Sherman-Morrison): no matrix is inverted.
        step = weight[i] * ((1.0 if y[i] else 0.0) - p) / (1.0 + curvature * spread)
        shrink = curvature / (1.0 + curvature * spread)
        for j in range(n_w):
            w[j] += gain[j] * step
            for k in range(j + 1):
                # Kept symmetric by writing both halves from one number.
                cov[j, k] -= shrink * gain[j] * gain[k]
                cov[k, j] = cov[j, k]
        # A row of weight w forgets as w rows do; of a huge one not all, for it is divided by.
        _forget(cov, max(params[0] ** weight[i], 1e-12), params[1])


@njit(cache=True)
def _forget(cov: FloatMatrix, keep: float, prior: float) -> None:
    """Widen ``cov`` by ``1 / keep``, but no coefficient beyond its prior: unused ones would grow without bound."""
    if keep >= 1.0:
        return
    n_w = cov.shape[0]
    grow = np.empty(n_w)
    for j in range(n_w):
        grow[j] = math.sqrt(max(min(1.0 / keep, prior / max(cov[j, j], 1e-300)), 1.0))
    for j in range(n_w):
        for k in range(n_w):
            cov[j, k] *= grow[j] * grow[k]


@dataclass(eq=False, repr=False)
class BayesianLogistic(ScaledFold):
    """Logistic regression with a running Gaussian posterior.

    Parameters
    ----------
    features : names of the F columns.
    prior_std : standard deviation of a coefficient (per standardised feature) before any row; small = more shrinkage.
    half_life : rows after which old evidence counts half; 0 never forgets.
    scale_bound : standardised values are clipped to +- this, so that one wild value cannot throw the coefficients.
    min_curvature : floor of p (1 - p), which keeps steps bounded where the model is sure and wrong.
    intercept : log-odds before any row, such as the known base rate.
    prior : believed coefficients by feature name, log-odds per unit of the raw feature; what the rows teach is added to
        them. It lets a model rank sensibly before its first label ("silent for long = likely to churn").
    seed : accepted for uniformity; nothing here is random.

    Examples
    --------
    >>> model = BayesianLogistic(("a", "b"))
    >>> x = np.array([[0.0, 1.0], [1.0, 1.0]] * 20)
    >>> model.learn_many(x, x[:, 0] > 0, np.ones(40))
    >>> low, high = model.predict_many(x[:2])
    >>> bool(low < 0.2 and high > 0.8)
    True
    """

    features: tuple[str, ...]
    _: KW_ONLY
    prior_std: float = 1.0
    half_life: float = 0.0
    scale_bound: float = 6.0
    min_curvature: float = 0.01
    intercept: float = 0.0
    prior: Mapping[str, float] | None = None
    seed: int = 0
    kind: ClassVar[str] = "bayesian_logistic"

    def __post_init__(self) -> None:
        if self.prior_std <= 0 or self.half_life < 0:
            told = f"prior_std {self.prior_std} must be > 0 and half_life {self.half_life} >= 0"
            raise ValueError(f"{told} (0 never forgets)")
        if not isinstance(self.prior or {}, Mapping):
            raise ValueError(f"prior is {self.prior!r}; give a table of log-odds by feature, such as {{ a = 0.5 }}")
        prior = dict(self.prior or {})
        unknown = sorted(set(prior) - set(self.features))
        if unknown:
            raise ValueError(f"prior names {unknown}, which are not among the {len(self.features)} features")
        for name, value in prior.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"prior of {name!r} is {value!r}; give log-odds per unit of it, a number such as 0.5")
        self._prior = np.array([float(prior.get(name, 0.0)) for name in self.features])
        decay = 0.5 ** (1.0 / self.half_life) if self.half_life else 1.0
        self._params = np.array([decay, self.prior_std**2, self.scale_bound, self.min_curvature])
        n = len(self.features)
        self._state: dict[str, NDArray[Any]] = {
            "w": np.append(np.zeros(n), self.intercept),
            "cov": np.eye(n + 1) * self.prior_std**2,
            "mean": np.zeros(n),
            "var": np.zeros(n),
            "count": np.zeros(1),
        }

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class at the mean coefficients, ``(n, F)`` to ``(n,)``."""
        s = self._state
        rows, out = np.ascontiguousarray(x, np.float64), np.empty(len(x))
        _scores(rows, s["w"], s["mean"], s["var"], self.scale_bound, self._prior, out)
        return out

    def _fold(self, between: Between, before: FloatVector, scores: FloatVector) -> None:
        s, params = self._state, self._params
        state = s["w"], s["cov"], s["mean"], s["var"], s["count"]
        _fold(*between, *state, params, self._prior, before, scores)

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """``coefficient * scaled value`` plus the prior's part, ``(n, F)``: log-odds above those of the mean row."""
        s = self._state
        scaled = self._scaled(x)
        learned = np.clip(scaled, -self.scale_bound, self.scale_bound) * s["w"][:-1]
        return np.asarray(learned + (x - s["mean"]) * self._prior)
