"""What every metric shares: the rows it is fed, what every metric offers, and how sums become numbers.

Rows come in the order in which their labels became known, never earlier: whoever calls ``add`` owns the label delay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np

from weir.online.batch import Batch, BoolVector, FloatMatrix, FloatVector
from weir.online.frozen import dataclass

RELIABILITY_BINS = 15
"""Equal-width score bins of the calibration error, as in Guo et al. (2017)."""

# One slot per additive sum; kept in one vector so that a fading factor scales them all at once.
W, TP, FP, TN, FN, LOG_LOSS, SQUARED, LAST_W, LAST_SAME = range(9)
SUMS = 9


@dataclass(frozen=True, slots=True)
class ScoredRows(Batch):
    """Scores with their labels, in the order in which the labels became known."""

    event_id: list[str]
    """By which a correction finds the weight and the age of the row that it replaces."""
    ts: FloatVector
    """``(n,)`` event time of the prediction, epoch seconds."""
    score: FloatVector
    """``(n,)`` in [0, 1], as given at the time."""
    y: BoolVector
    weight: FloatVector
    """``(n,)`` > 0, 1 / sampling rate."""
    threshold: FloatVector
    """``(n,)``, in force when the row was scored; alert = score >= threshold."""
    correction: BoolVector
    """Where the row's label replaces the other value told earlier of this event: the weight of the earlier row is taken
    from the other class, and the row's own weight is given to this one."""

    def checked(self) -> Self:
        """Itself; raises ``ValueError`` where a score is outside [0, 1], a weight not positive or anything infinite."""
        _refuse("score", self.score, ~((self.score >= 0.0) & (self.score <= 1.0)), "give a probability in [0, 1]")
        _refuse("weight", self.weight, ~(self.weight > 0.0) | np.isinf(self.weight), "give a weight > 0")
        _refuse("ts", self.ts, ~np.isfinite(self.ts), "give epoch seconds")
        _refuse("threshold", self.threshold, ~np.isfinite(self.threshold), "give the one the decision used")
        return self


def _refuse(name: str, values: FloatVector, bad: BoolVector, fix: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{name} of row {row} is {values[row]!r}; {fix}")


def calibration_error(bins: FloatMatrix) -> float:
    """Expected calibration error: the weighted mean of |mean score - share of positives| (Naeini et al., 2015).

    ``bins (RELIABILITY_BINS, 3)`` are sums of weight, weight * score and weight * y.
    """
    weight, score, positive = bins[bins[:, 0] > 0.0].T
    return float(np.average(np.abs(score / weight - positive / weight), weights=weight))


class Metrics(ABC):
    """Metrics over a stream of scores and late labels; they do not depend on how rows are cut into calls."""

    @abstractmethod
    def add(self, rows: ScoredRows) -> None:
        """Add checked rows in the order in which their labels became known."""

    @abstractmethod
    def get(self) -> dict[str, float]:
        """The metrics by name; one that is undefined yet (no positives, one class only, ...) is absent, never NaN."""

    @abstractmethod
    def snapshot(self) -> bytes:
        """The whole state; ``restore`` of it on an object built alike continues bit-identically."""

    @abstractmethod
    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``ValueError`` when it is of another kind."""


def ratios(n: int, sums: FloatVector, bins: FloatMatrix) -> dict[str, float]:
    """Every metric that is a function of additive sums; undefined ones are left out.

    Kappa is Cohen's (1960); kappa_temporal compares with the classifier that repeats the last label (Zliobaite et
    al., 2015, "Evaluation methods and decision theory for classification of streaming data with temporal dependence").
    """
    out: dict[str, float] = {"n": float(n)}
    total = float(sums[W])
    if total <= 0.0:
        return out
    # Corrections take back by subtraction, which may leave a little less than nothing.
    tp, fp, tn, fn = (max(float(sums[i]), 0.0) for i in (TP, FP, TN, FN))
    accuracy = (tp + tn) / total
    chance = ((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp)) / total**2
    last_w = float(sums[LAST_W])
    last = float(sums[LAST_SAME]) / last_w if last_w > 0.0 else 1.0
    out["weight"] = total
    out["positive_rate"] = (tp + fn) / total
    out["accuracy"] = accuracy
    _ratio(out, "precision", tp, tp + fp)
    _ratio(out, "recall", tp, tp + fn)
    _ratio(out, "f1", 2.0 * tp, 2.0 * tp + fp + fn)
    _ratio(out, "kappa", accuracy - chance, 1.0 - chance)
    _ratio(out, "kappa_temporal", accuracy - last, 1.0 - last)
    out["log_loss"] = max(float(sums[LOG_LOSS]) / total, 0.0)
    out["brier"] = max(float(sums[SQUARED]) / total, 0.0)
    out["ece"] = calibration_error(bins)
    return out


def _ratio(out: dict[str, float], name: str, part: float, whole: float) -> None:
    # Differences such as 1 - chance are 0 up to rounding when only one class has been seen.
    if whole > 1e-12:
        out[name] = part / whole
