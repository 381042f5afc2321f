"""ALMA on scaled features, made a probability by an online sigmoid calibration.

River's ``StandardScaler | ALMAClassifier`` (Gentile, "A new approximate maximal margin classification
algorithm", JMLR 2, 2001; p = 2) as a Numba fold, held to River's own objects by tests. ALMA's own sigmoid of the
margin is no probability, so a Platt map ``sigmoid(a * margin + b)`` (Platt 1999) is fitted by SGD on the margin each
row had before it was learned. Memory: 3 F + 4 numbers, forever.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from online.learners.base import BoolVector, FloatMatrix, FloatVector
from online.learners.logistic import log_gradient, scale_learn, scale_row, sigmoid, sigmoid_many
from online.learners.scaled import ScaledFold


@njit(cache=True)
def _margins(x: FloatMatrix, w: FloatVector, mean: FloatVector, var: FloatVector) -> FloatVector:
    out = np.empty(x.shape[0])
    row = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        scale_row(x[i], mean, var, row)
        z = 0.0
        for j in range(row.size):
            z += row[j] * w[j]
        out[i] = z
    return out


@njit(cache=True)
def _fold(
    x: FloatMatrix,
    y: BoolVector,
    weight: FloatVector,
    w: FloatVector,
    mean: FloatVector,
    var: FloatVector,
    head: FloatVector,
    rates: FloatVector,
    before: FloatVector,
) -> None:
    """Score then learn each row; ``head`` = (rows, k, a, b), ``rates`` = (alpha, B, C, calibration lr)."""
    row = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        sign = 1.0 if y[i] else -1.0
        scale_row(x[i], mean, var, row)
        z = 0.0
        for j in range(row.size):
            z += row[j] * w[j]
        z_calibrated = head[2] * z + head[3]
        before[i] = sigmoid(z_calibrated)
        g = log_gradient(sign, z_calibrated) * weight[i]
        # The slope stays positive: a calibration must not turn the ranking round.
        head[2] = max(head[2] - rates[3] * g * z, 0.05)
        head[3] -= rates[3] * g
        head[0] += 1.0
        scale_learn(x[i], head[0], mean, var)
        scale_row(x[i], mean, var, row)
        z = 0.0
        for j in range(row.size):
            z += row[j] * w[j]
        root = math.sqrt(head[1])
        if sign * z < (1.0 - rates[0]) * (rates[1] / root):
            eta = rates[2] / root * weight[i]
            norm = 0.0
            for j in range(row.size):
                w[j] += eta * sign * row[j]
                norm += w[j] * w[j]
            norm = max(1.0, math.sqrt(norm))
            for j in range(row.size):
                w[j] /= norm
            head[1] += 1.0


class CalibratedAlma(ScaledFold):
    """Approximate large margin classifier with calibrated probabilities.

    Parameters
    ----------
    features : names of the F columns.
    alpha, B, C : River's ``ALMAClassifier`` parameters (degree of approximation, margin and step constants).
    calibration_lr : SGD step of the sigmoid map.
    seed : accepted for uniformity; nothing here is random.

    Notes
    -----
    A row's weight multiplies its step (River's has no weights; at weight 1 both are the same).

    Examples
    --------
    >>> model = CalibratedAlma(("a",))
    >>> x = np.array([[0.0], [1.0]] * 100)
    >>> model.learn_many(x, x[:, 0] > 0, np.ones(200))
    >>> low, high = model.predict_many(x[:2])
    >>> bool(low < 0.3 and high > 0.7)
    True
    """

    kind = "alma"

    def __init__(
        self,
        features: tuple[str, ...],
        *,
        alpha: float = 0.9,
        B: float = 1 / 0.9,  # noqa: N803 - the paper's and River's name
        C: float = 2**0.5,  # noqa: N803 - likewise
        calibration_lr: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.features = tuple(features)
        self.alpha = alpha
        self.B = B
        self.C = C
        self.calibration_lr = calibration_lr
        self.seed = seed
        self._rates = np.array([alpha, B, C, calibration_lr])
        n = len(self.features)
        self._state: dict[str, NDArray[Any]] = {
            "w": np.zeros(n),
            "mean": np.zeros(n),
            "var": np.zeros(n),
            "head": np.array([0.0, 1.0, 1.0, 0.0]),
        }

    @property
    def intercept(self) -> float:
        """The calibrated log-odds at the mean of every feature, the reference point of ``contributions``."""
        return float(self._state["head"][3])

    def margin_many(self, x: FloatMatrix) -> FloatVector:
        """ALMA's raw margin, ``(n, F)`` to ``(n,)``; its sign is the published classifier's answer."""
        s = self._state
        return np.asarray(_margins(np.ascontiguousarray(x, np.float64), s["w"], s["mean"], s["var"]))

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Calibrated probability, ``(n, F)`` to ``(n,)``; .5 before anything is learned."""
        slope, bias = self._state["head"][2:]
        return np.asarray(sigmoid_many(slope * self.margin_many(x) + bias))

    def _fold_rows(self, x: FloatMatrix, y: BoolVector, weight: FloatVector, before: FloatVector) -> None:
        s = self._state
        _fold(x, y, weight, s["w"], s["mean"], s["var"], s["head"], self._rates, before)

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """``slope * coefficient * scaled value``, ``(n, F)``; exact: sum plus ``intercept`` is the log-odds."""
        s = self._state
        scaled = self._scaled(x)
        return np.asarray(scaled * (s["w"] * s["head"][2]))
