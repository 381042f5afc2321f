"""Scaled logistic regression: River's ``StandardScaler | LogisticRegression(SGD)`` as a Numba fold.

Learning sits on the hot path, so this is our own fold with the same formulas in the same order as River 0.26.1
(``preprocessing.StandardScaler``, ``linear_model.LogisticRegression``, ``optim.losses.Log``); tests hold it to River's
own objects within 1e-9. As in River's pipeline the scaler sees a row before the weights do and ignores its weight.
Rows are summed in column order, so a probability does not depend on how many rows are scored at once.
Memory: 3 F + 2 numbers, forever.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.jit import njit
from weir.online.learners.interleaved import Between
from weir.online.learners.scaled import MOST_DEVIATIONS, ScaledFold

SCALER_ROWS = 65_536.0
"""A scaler remembers about so many rows."""
WARM_ROWS = 100.0


@njit(cache=True)
def sigmoid(z: float) -> float:
    """River's ``utils.math.sigmoid``: exactly 0 or 1 beyond 30."""
    if z < -30.0:
        return 0.0
    if z > 30.0:
        return 1.0
    return float(1.0 / (1.0 + math.exp(-z)))


@njit(cache=True)
def log_gradient(y: float, z: float) -> float:
    """Gradient of River's ``optim.losses.Log`` by the logit; ``y`` is -1 or 1."""
    margin = z * y
    if margin > 18.0:
        return -y * math.exp(-margin)
    if margin < -18.0:
        return -y
    return -y / (math.exp(margin) + 1.0)


@njit(cache=True)
def scale_learn(row: FloatVector, count: float, mean: FloatVector, var: FloatVector) -> None:
    """Welford update of ``mean`` and ``var`` in place; ``count`` includes this row.

    Rows are forgotten: each counts half after 45,000 others. A value further than ``MOST_DEVIATIONS`` from the mean
    counts as if it were there, once enough rows were seen to say how far that is.
    """
    # A count that stops growing keeps the pace above 0: the scale follows a slow change for ever.
    count = min(count, SCALER_ROWS)
    for j in range(row.size):
        away = row[j] - mean[j]
        if count > WARM_ROWS and var[j] > 0.0:
            most = MOST_DEVIATIONS * math.sqrt(var[j])
            away = min(max(away, -most), most)
        mean[j] += away / count
        var[j] += (away * away * (1.0 - 1.0 / count) - var[j]) / count


@njit(cache=True)
def scale_row(row: FloatVector, mean: FloatVector, var: FloatVector, out: FloatVector) -> None:
    """``out = (row - mean) / std`` within +-``MOST_DEVIATIONS``, 0 where the variance is 0."""
    for j in range(row.size):
        z = (row[j] - mean[j]) / math.sqrt(var[j]) if var[j] > 0.0 else 0.0
        out[j] = min(max(z, -MOST_DEVIATIONS), MOST_DEVIATIONS)


@njit(cache=True)
def dot(start: float, a: FloatVector, b: FloatVector) -> float:
    """``start`` and the products of two vectors, summed from left to right: the bits do not depend on a library."""
    for j in range(a.size):
        start += a[j] * b[j]
    return start


@njit(cache=True)
def _scores(x: FloatMatrix, w: FloatVector, mean: FloatVector, var: FloatVector, bias: float, out: FloatVector) -> None:
    """Probabilities of rows in one call: of few rows each call, and each array it returns, costs more than a row."""
    row = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        scale_row(x[i], mean, var, row)
        out[i] = sigmoid(dot(0.0, w, row) + bias)


@njit(cache=True)
def _fold(
    rows: FloatMatrix,
    learned: IntVector,
    x: FloatMatrix,
    y: BoolVector,
    weight: FloatVector,
    w: FloatVector,
    mean: FloatVector,
    var: FloatVector,
    head: FloatVector,
    rates: FloatVector,
    before: FloatVector,
    scores: FloatVector,
) -> None:
    """Score then learn each row of ``x``, and score row i of ``rows`` after the first ``learned[i]`` of them.

    ``head`` = (count, intercept), ``rates`` = (lr, intercept_lr, l2, clip).
    """
    z_row = np.empty(x.shape[1])
    at = 0
    for i in range(x.shape[0] + 1):
        while at < learned.size and learned[at] <= i:
            scale_row(rows[at], mean, var, z_row)
            scores[at] = sigmoid(dot(0.0, w, z_row) + head[1])
            at += 1
        if i == x.shape[0]:
            break
        scale_row(x[i], mean, var, z_row)
        before[i] = sigmoid(dot(0.0, w, z_row) + head[1])
        # As in River's pipeline, the scaler learns a row before the weights do.
        head[0] += 1.0
        scale_learn(x[i], head[0], mean, var)
        scale_row(x[i], mean, var, z_row)
        g = log_gradient(1.0 if y[i] else -1.0, dot(0.0, w, z_row) + head[1]) * weight[i]
        g = min(max(g, -rates[3]), rates[3])
        head[1] -= rates[1] * g
        for j in range(z_row.size):
            w[j] -= rates[0] * (z_row[j] * g + rates[2] * w[j])


@dataclass(eq=False, repr=False)
class ScaledLogistic(ScaledFold):
    """Logistic regression on standardised features, plain SGD.

    Parameters
    ----------
    features : names of the F columns.
    lr, intercept_lr : SGD step of the weights and of the intercept (River's defaults .01).
    l2 : penalty on the weights.
    clip_gradient : bound on one row's |gradient by logit| after weighting; keeps a heavy row from throwing the model.
    seed : accepted for uniformity; nothing here is random.

    Examples
    --------
    >>> model = ScaledLogistic(("a", "b"), lr=0.1)
    >>> x = np.array([[0.0, 1.0], [1.0, 1.0]] * 50)
    >>> model.learn_many(x, x[:, 0] > 0, np.ones(100))
    >>> [round(float(p), 2) for p in model.predict_many(x[:2])]
    [0.1, 0.9]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    lr: float = 0.01
    intercept_lr: float = 0.01
    l2: float = 0.0
    clip_gradient: float = 1e12
    seed: int = 0
    kind: ClassVar[str] = "logistic"

    def __post_init__(self) -> None:
        self._rates = np.array([self.lr, self.intercept_lr, self.l2, self.clip_gradient])
        n = len(self.features)
        self._state: dict[str, NDArray[Any]] = {
            "w": np.zeros(n),
            "mean": np.zeros(n),
            "var": np.zeros(n),
            "head": np.zeros(2),
        }

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``; .5 before anything is learned."""
        s = self._state
        out = np.empty(x.shape[0])
        _scores(np.ascontiguousarray(x, np.float64), s["w"], s["mean"], s["var"], s["head"][1], out)
        return out

    def _fold(self, between: Between, before: FloatVector, scores: FloatVector) -> None:
        s = self._state
        _fold(*between, s["w"], s["mean"], s["var"], s["head"], self._rates, before, scores)

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """``coefficient * scaled value``, ``(n, F)``; exact: a row's sum is its log-odds above the intercept."""
        s = self._state
        scaled = self._scaled(x)
        return np.asarray(scaled * s["w"])


@njit(cache=True)
def sigmoid_many(z: FloatVector) -> FloatVector:
    """``sigmoid`` of every entry of ``z (n,)``."""
    out = np.empty(z.size)
    for i in range(z.size):
        out[i] = sigmoid(z[i])
    return out


@njit(cache=True)
def logit_of(p: FloatVector, bound: float = 12.0) -> FloatVector:
    """Log-odds of probabilities ``p (n,)``, clipped to +-``bound`` so that a certain member stays finite.

    >>> logit_of(np.array([0.5, 1.0])).tolist()
    [0.0, 12.0]
    """
    out = np.empty(p.size)
    for i in range(p.size):
        if p[i] <= 0.0:
            out[i] = -bound
        elif p[i] >= 1.0:
            out[i] = bound
        else:
            out[i] = min(max(math.log(p[i]) - math.log1p(-p[i]), -bound), bound)
    return out
