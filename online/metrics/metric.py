"""What every metric shares: the rows it is fed, what every metric offers, and how sums become numbers.

Rows come in the order in which their labels became known, never earlier: whoever calls ``update`` owns the label delay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatVector = NDArray[np.float64]
BoolVector = NDArray[np.bool_]

RELIABILITY_BINS = 15
"""Equal-width score bins of the calibration error, as in Guo et al. (2017)."""

# One slot per additive sum; kept in one vector so that a fading factor scales them all at once.
W, TP, FP, TN, FN, LOG_LOSS, SQUARED, LAST_W, LAST_SAME = range(9)
SUMS = 9


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Checked columns of one update, each ``(n,)``."""

    ts: FloatVector
    score: FloatVector
    y: BoolVector
    weight: FloatVector
    threshold: FloatVector
    correction: BoolVector

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: slice) -> ScoredRows:
        return ScoredRows(
            self.ts[rows],
            self.score[rows],
            self.y[rows],
            self.weight[rows],
            self.threshold[rows],
            self.correction[rows],
        )

    @classmethod
    def checked(
        cls,
        ts: ArrayLike,
        score: ArrayLike,
        y: ArrayLike,
        weight: ArrayLike,
        threshold: ArrayLike,
        correction: ArrayLike,
    ) -> ScoredRows:
        """Bring the columns to one length (scalars are repeated) and refuse values no metric is defined on.

        Raises
        ------
        ValueError
            If a length differs, a score is outside [0, 1], a label is not 0 or 1, a weight is not positive, or anything
            is not finite.
        """
        scores = np.ascontiguousarray(score, dtype=np.float64)
        shape = scores.shape
        labels = _column("y", y, shape)
        _refuse("y", labels, (labels != 0.0) & (labels != 1.0), "give 0 or 1")
        rows = cls(
            _column("ts", ts, shape),
            scores,
            labels == 1.0,
            _column("weight", weight, shape),
            _column("threshold", threshold, shape),
            _column("correction", correction, shape).astype(np.bool_),
        )
        _refuse("score", scores, ~((scores >= 0.0) & (scores <= 1.0)), "give a probability in [0, 1]")
        _refuse("weight", rows.weight, ~(rows.weight > 0.0) | np.isinf(rows.weight), "give a weight > 0")
        _refuse("ts", rows.ts, ~np.isfinite(rows.ts), "give epoch seconds")
        _refuse("threshold", rows.threshold, ~np.isfinite(rows.threshold), "give the one the decision used")
        return rows


def _column(name: str, values: ArrayLike, shape: tuple[int, ...]) -> FloatVector:
    array = np.asarray(values, dtype=np.float64)
    if array.shape == shape:
        return np.ascontiguousarray(array)
    if array.ndim == 0:
        return np.ascontiguousarray(np.broadcast_to(array, shape))
    raise ValueError(f"{name} has shape {array.shape}, score has {shape}; pass one value a row or a scalar")


def _refuse(name: str, values: FloatVector, bad: BoolVector, fix: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{name} of row {row} is {values[row]!r}; {fix}")


@dataclass(frozen=True, slots=True)
class Reliability:
    """The reliability diagram: what was predicted and what happened, per score bin that holds rows."""

    predicted: FloatVector
    """Mean score, ``(b,)``."""
    observed: FloatVector
    """Share of positives, ``(b,)``."""
    weight: FloatVector
    """Total weight, ``(b,)``."""

    @classmethod
    def of(cls, bins: NDArray[np.float64]) -> Reliability:
        """From ``bins (RELIABILITY_BINS, 3)``: sums of weight, weight * score and weight * y."""
        held = bins[bins[:, 0] > 0.0]
        return cls(held[:, 1] / held[:, 0], held[:, 2] / held[:, 0], held[:, 0])

    def error(self) -> float:
        """Expected calibration error: the weighted mean of |predicted - observed| (Naeini et al., 2015)."""
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.weight))


class RowSink(ABC):
    """Takes scores with late labels; the result does not depend on how rows are cut into calls."""

    def update(
        self,
        ts: ArrayLike,
        score: ArrayLike,
        y: ArrayLike,
        weight: ArrayLike = 1.0,
        threshold: ArrayLike = 0.5,
        correction: ArrayLike = False,
        event_id: Sequence[str] | None = None,
    ) -> None:
        """Add rows in the order in which their labels became known.

        Parameters
        ----------
        ts : (n,) event time of the prediction, epoch seconds.
        score : (n,) in [0, 1], as given at the time.
        y : (n,) 0/1 or bool.
        weight : (n,) > 0, 1 / sampling rate; or a scalar.
        threshold : (n,) the alert threshold that was in force when the row was scored; alert = score >= threshold.
        correction : (n,) True where the row's label replaces the other value reported earlier for this score: the
            weight of the earlier row is taken from the other class and the row's own weight is given to this one.
        event_id : n names, optional. With them a correction finds the weight and the age of the row it replaces;
            without them it is taken to have the correction's own weight, and no age.
        """
        self.add(ScoredRows.checked(ts, score, y, weight, threshold, correction), event_id)

    @abstractmethod
    def add(self, rows: ScoredRows, event_id: Sequence[str] | None = None) -> None:
        """Add checked rows; what ``update`` does, for a caller that feeds several metrics and checks once."""


class Metrics(RowSink):
    """Metrics over a stream of scores and late labels."""

    @abstractmethod
    def get(self) -> dict[str, float]:
        """The metrics by name; one that is undefined yet (no positives, one class only, ...) is absent, never NaN."""

    @abstractmethod
    def snapshot(self) -> bytes:
        """The whole state; ``restore`` of it on an object built alike continues bit-identically."""

    @abstractmethod
    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``ValueError`` when it is of another kind."""


def ratios(n: int, sums: FloatVector, bins: NDArray[np.float64]) -> dict[str, float]:
    """Every metric that is a function of additive sums; undefined ones are left out.

    Kappa is Cohen's (1960); kappa_temporal compares with the classifier that repeats the last label (Zliobaite et
    al., 2015, "Evaluation methods and decision theory for classification of streaming data with temporal dependence").
    """
    out: dict[str, float] = {"n": float(n)}
    total = float(sums[W])
    if total <= 0.0:
        return out
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
    out["ece"] = Reliability.of(bins).error()
    return out


def _ratio(out: dict[str, float], name: str, part: float, whole: float) -> None:
    # Differences such as 1 - chance are 0 up to rounding when only one class has been seen.
    if whole > 1e-12:
        out[name] = part / whole
