"""Metrics in bounded memory over an endless stream: additive sums and score histograms, optionally fading.

Rank metrics come from weighted histograms over the log-odds of the score. A score is known to 0.8 % of its odds between
odds of e^-16 and e^16 (about 1e-7); what that may cost is computed from the histogram itself and given in ``get`` as
``roc_auc_bound`` and ``average_precision_bound``. On 100,000 fraud-like scores with 1 % positives the AUC is off by
less than .00001 and the average precision by about .001.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatMatrix, FloatVector
from weir.online.jit import njit, plain
from weir.online.metrics import metric as base
from weir.online.metrics.arrays import pack, unpack
from weir.online.metrics.ledger import Ledger
from weir.online.metrics.metric import Metrics, ScoredRows, ratios
from weir.online.metrics.ranking import rank_groups

SCORE_BINS = 4096
_LOGIT_LIMIT = 16.0
_TINY = float(np.finfo(np.float64).eps)  # the clip scikit-learn's log_loss uses
_GAIN_LIMIT = 1e9

# Newest rows of which the weight is known, so that a correction takes back what they were counted with: a sampled
# negative weighs more than the positive that replaces it.
_REMEMBERED = 65_536

# Slots of the clock vector.
_GAIN, _LAST_Y = range(2)


class _Held(NamedTuple):
    """What is summed over rows, changed in place."""

    clock: FloatVector
    """``(2,)``: gain and last label."""
    sums: FloatVector
    """``(SUMS,)``."""
    hist: FloatMatrix
    """``(2, SCORE_BINS)``: weight of the negatives and of the positives."""
    reliability: FloatMatrix
    """``(RELIABILITY_BINS, 3)``: weight, weight * score, weight * y."""


@njit(cache=True)
def _count(score: float, positive: bool, weight: float, threshold: float, held: _Held) -> None:
    """Add one unit of ``weight`` (negative to take it back) to every sum."""
    sums, reliability = held.sums, held.reliability
    inside = min(max(score, _TINY), 1.0 - _TINY)
    logit = math.log(inside / (1.0 - inside))
    place = int((logit + _LOGIT_LIMIT) * (SCORE_BINS / (2.0 * _LOGIT_LIMIT)))
    held.hist[1 if positive else 0, min(max(place, 0), SCORE_BINS - 1)] += weight
    share = min(int(score * base.RELIABILITY_BINS), base.RELIABILITY_BINS - 1)
    reliability[share, 0] += weight
    reliability[share, 1] += weight * score
    sums[base.W] += weight
    if positive:
        reliability[share, 2] += weight
        sums[base.LOG_LOSS] -= weight * math.log(inside)
        sums[base.SQUARED] += weight * (1.0 - score) ** 2
        sums[base.TP if score >= threshold else base.FN] += weight
    else:
        sums[base.LOG_LOSS] -= weight * math.log(1.0 - inside)
        sums[base.SQUARED] += weight * score**2
        sums[base.FP if score >= threshold else base.TN] += weight


@njit(cache=True)
def _fold(
    score: FloatVector,
    y: NDArray[np.bool_],
    weight: FloatVector,
    threshold: FloatVector,
    correction: NDArray[np.bool_],
    taken: FloatVector,
    age: NDArray[np.int64],
    factor: float,
    held: _Held,
) -> None:
    """Fold the rows in order.

    Instead of shrinking every sum by ``factor`` at each row, each new row weighs ``gain`` = factor^-rows and readers
    divide by the gain; the sums are scaled down when it grows large, at a row that no cut into calls can change.
    """
    clock, sums = held.clock, held.sums
    for i in range(len(score)):
        if correction[i]:
            gain = clock[_GAIN] * factor ** age[i]
            _count(score[i], not y[i], -taken[i] * gain, threshold[i], held)
            _count(score[i], y[i], weight[i] * gain, threshold[i], held)
            continue
        clock[_GAIN] /= factor
        if clock[_GAIN] > _GAIN_LIMIT:
            scale = 1.0 / clock[_GAIN]
            sums *= scale
            held.hist[:] *= scale
            held.reliability[:] *= scale
            clock[_GAIN] = 1.0
        added = weight[i] * clock[_GAIN]
        _count(score[i], y[i], added, threshold[i], held)
        label = 1.0 if y[i] else 0.0
        if clock[_LAST_Y] >= 0.0:
            sums[base.LAST_W] += added
            sums[base.LAST_SAME] += added if label == clock[_LAST_Y] else 0.0
        clock[_LAST_Y] = label


class _BinnedMetrics(Metrics):
    """The shared fold; a factor of 1 never forgets."""

    def __init__(self, kind: str, factor: float, memory: int) -> None:
        self.memory = memory
        self._kind = kind
        self._factor = factor
        self._n = 0
        bins, reliability = np.zeros((2, SCORE_BINS)), np.zeros((base.RELIABILITY_BINS, 3))
        self._held = _Held(np.array([1.0, -1.0]), np.zeros(base.SUMS), bins, reliability)
        self._ledger = Ledger(memory)

    def add(self, rows: ScoredRows) -> None:
        """Add checked rows in the order in which their labels became known."""
        taken, age = self._replaced(rows)
        labelled = (plain(rows.score), plain(rows.y), plain(rows.weight), plain(rows.threshold), plain(rows.correction))
        _fold(*labelled, taken, age, self._factor, self._held)

    def _replaced(self, rows: ScoredRows) -> tuple[FloatVector, NDArray[np.int64]]:
        """The weight each correction takes back and how many rows ago that was counted; counts and notes new rows."""
        taken, age = rows.weight.copy(), np.zeros(len(rows), dtype=np.int64)
        if not rows.correction.any():
            self._ledger.note_many(rows.event_id, self._n + 1, taken.tolist())
            self._n += len(rows)
            return taken, age
        corrected = rows.correction.tolist()
        for i, (name, weight) in enumerate(zip(rows.event_id, rows.weight.tolist(), strict=True)):
            if not corrected[i]:
                self._n += 1
                self._ledger.note(name, self._n, weight)
            elif (earlier := self._ledger.find(name)) is not None:
                age[i], taken[i] = self._n - earlier[0], earlier[1]
                self._ledger.reweigh(name, weight)
            elif self._n > self.memory:
                age[i] = self.memory  # older than what is remembered, so at least this old
        return taken, age

    def _faded(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums / float(self._held.clock[_GAIN])

    def get(self) -> dict[str, float]:
        """The metrics by name, undefined ones absent; see ``Metrics.get``."""
        out = ratios(self._n, self._faded(self._held.sums), self._faded(self._held.reliability))
        # Taking a unit back can leave -1e-17 where it should leave nothing.
        hist = np.maximum(self._faded(self._held.hist), 0.0)
        return out | rank_groups(hist[1], hist[0])

    def snapshot(self) -> bytes:
        """The whole state, about 70 KB plus the remembered names."""
        arrays, names = self._ledger.arrays()
        return pack(self._kind, arrays | {"n": np.array([self._n])} | self._held._asdict(), names)

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``ValueError`` when it is of another kind."""
        arrays, names = unpack(self._kind, state)
        self._ledger.load(arrays, names)
        self._n = int(arrays["n"][0])
        self._held = _Held(*(arrays[name] for name in _Held._fields))


class CumulativeMetrics(_BinnedMetrics):
    """Metrics over everything seen since the start.

    Examples
    --------
    >>> metrics = CumulativeMetrics()
    >>> one, no = np.ones(3), np.zeros(3, np.bool_)
    >>> y = np.array([True, False, False])
    >>> metrics.add(ScoredRows(["a", "b", "c"], one, np.array([0.9, 0.2, 0.6]), y, one, 0.5 * one, no))
    >>> {name: round(value, 3) for name, value in metrics.get().items() if name in ("precision", "roc_auc")}
    {'precision': 0.5, 'roc_auc': 1.0}
    """

    def __init__(self) -> None:
        super().__init__(f"CumulativeMetrics v1 memory={_REMEMBERED}", 1.0, _REMEMBERED)


class FadingMetrics(_BinnedMetrics):
    """Metrics in which a row counts half as much after ``half_life`` further rows.

    Fading factors after Gama, Sebastiao and Rodrigues (2013), "On evaluating stream learning algorithms", with
    factor = 2 ** (-1 / half_life). Rows fade by arrival, as in the paper; corrections keep the age of the row they
    replace when it is known by its ``event_id`` (the newest ``10 * half_life`` rows; what is older has faded to less
    than 1/1000).

    Examples
    --------
    >>> metrics = FadingMetrics(half_life=1)
    >>> one, no = np.ones(2), np.zeros(2, np.bool_)
    >>> metrics.add(ScoredRows(["a", "b"], one, np.array([0.9, 0.1]), no, one, 0.5 * one, no))
    >>> round(metrics.get()["accuracy"], 3)
    0.667
    """

    def __init__(self, half_life: int = 1_000) -> None:
        if half_life < 1:
            raise ValueError(f"half_life is {half_life}; give a number of rows, 1 or more")
        self.half_life = half_life
        super().__init__(f"FadingMetrics v1 half_life={half_life}", 2.0 ** (-1.0 / half_life), 10 * half_life)
