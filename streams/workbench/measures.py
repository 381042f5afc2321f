"""How good scores are, over arrays of rows with known labels: ranking, probabilities, the line, cost, and how sure.

All measures of the workbench come from here. Rank metrics are exact (``weir.online.metrics.ranking``). The bootstrap
draws whole groups of rows, such as all of one entity or of one week, for rows of one group are not independent; every
score is measured with the same draws, so that differences between scores are paired. It knows arrays, no task.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile intervals); Field and
Welsh, Bootstrapping clustered data (2007); Hanley and MacGibbon (2006) (Poisson weights in place of drawn rows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.metrics.metric import RELIABILITY_BINS
from weir.online.metrics.ranking import rank_rows

RESAMPLES: Final = 1_000
CONFIDENCE: Final = 0.95
MIN_UNITS: Final = 5
_UNITS: Final = 1_024
"""Groups that are drawn, at most: more are first put together at random, which keeps the interval's width to 5 %."""
_EDGES: Final = 1_024
"""Scores of positives told apart in a resample: up to so many the resampled rank metrics are exact."""
_TINY: Final = float(np.finfo(np.float64).eps)
MEASURES: Final = ("average_precision", "roc_auc", "log_loss", "brier")
"""Of scores alone; what `measure` and `bootstrap` give."""
LOWER_IS_BETTER: Final = frozenset({"log_loss", "brier", "cost"})


class Interval(NamedTuple):
    """A value with the ends of its interval, NaN where there are none."""

    value: float
    low: float
    high: float
    units: int = 0
    """Groups it was drawn from; from fewer than some thirty an interval is known to be too short."""


class Reliability(NamedTuple):
    """What scores promise and what came, by bins of equal width, ``(bins,)`` each; NaN in an empty bin."""

    rows: FloatVector
    score: FloatVector
    """Mean score of the bin."""
    positives: FloatVector
    """Share of positives in it."""

    @property
    def ece(self) -> float:
        """The mean distance of the two, weighted by rows (Naeini et al., 2015); NaN of no rows."""
        held = self.rows > 0
        gaps = np.abs(self.score - self.positives)[held]
        return float(np.average(gaps, weights=self.rows[held])) if held.any() else float("nan")


class Curve(NamedTuple):
    """Precision and recall as the line falls, ``(K,)`` each."""

    line: FloatVector
    precision: FloatVector
    recall: FloatVector


def average_precision(y: BoolVector, s: FloatVector) -> float:
    """Area under the precision-recall steps, ties as one step, as in scikit-learn; NaN without a positive.

    >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.5, 0.1])).__round__(4)
    0.8333
    """
    return rank_rows(s, y, np.ones(len(y))).get("average_precision", float("nan"))


def roc_auc(y: BoolVector, s: FloatVector) -> float:
    """Probability that a positive is above a negative, ties half; NaN without both classes."""
    return rank_rows(s, y, np.ones(len(y))).get("roc_auc", float("nan"))


def row_losses(y: BoolVector, s: FloatVector) -> dict[str, FloatVector]:
    """What each row loses, ``(n,)`` a measure: ``log_loss`` (scores clipped as in scikit-learn) and ``brier``."""
    # Clipped, as a score of 0 for a positive would make the mean infinite.
    right = np.clip(np.where(y, s, 1.0 - s), _TINY, 1.0)
    return {"log_loss": -np.log(right), "brier": (s - y) ** 2}


def measure(
    y: BoolVector, s: FloatVector, cost: FloatVector | None = None, weight: FloatVector | None = None
) -> dict[str, float]:
    """Every one of ``MEASURES``, and the mean ``cost (n,)`` a row where given; NaN where one is not defined.

    ``weight (n,)`` is how many rows each stands for; 1 where not given.
    """
    weight = np.ones(len(y)) if weight is None else weight
    ranked = rank_rows(s, y, weight)
    found = {name: ranked.get(name, float("nan")) for name in ("average_precision", "roc_auc")}
    losses = row_losses(y, s) | ({} if cost is None else {"cost": cost})
    return found | {
        name: float(np.average(loss, weights=weight)) if len(y) else float("nan") for name, loss in losses.items()
    }


def reliability(y: BoolVector, s: FloatVector, bins: int = RELIABILITY_BINS) -> Reliability:
    """The reliability diagram of scores in [0, 1].

    >>> found = reliability(np.array([True, False]), np.array([0.75, 0.75]), 2)
    >>> found.rows.tolist(), found.score[1].item(), found.positives[1].item(), found.ece
    ([0.0, 2.0], 0.75, 0.5, 0.25)
    """
    # A score of 1 belongs to the last bin.
    at = np.minimum((s * bins).astype(np.int64), bins - 1)
    rows, total, positive = (np.bincount(at, of, bins).astype(np.float64) for of in (np.ones(len(s)), s, y))
    with np.errstate(invalid="ignore"):
        return Reliability(rows, total / rows, positive / rows)


def precision_recall(y: BoolVector, s: FloatVector, points: int = 200) -> Curve:
    """The precision-recall curve, thinned to ``points`` steps of about equal recall; empty without a positive."""
    # Stable: rows of one score stay in the order of scoring, and a curve is the same each time.
    order = np.argsort(-s, kind="stable")
    line, hits = s[order], np.cumsum(y[order])
    ends = np.flatnonzero(np.append(line[1:] != line[:-1], True)) if len(s) else np.empty(0, np.int64)
    if not len(ends) or not hits[-1]:
        return Curve(np.empty(0), np.empty(0), np.empty(0))
    recall = hits[ends] / hits[-1]
    # By recall: evenly by rank nearly all points would lie where recall does not move.
    kept = np.unique(np.minimum(np.searchsorted(recall, np.linspace(0.0, 1.0, points)), len(ends) - 1))
    return Curve(line[ends[kept]], (hits[ends] / (ends + 1.0))[kept], recall[kept])


def at_line(y: BoolVector, s: FloatVector, alerted: BoolVector) -> dict[str, float]:
    """What the line that was in force did: rows, alerts (rows alerted on), hits among them, precision, recall, lowest.

    ``lowest`` is the lowest score that alerted. What is not defined is NaN.
    """
    alerts, hits, positives = (int(np.count_nonzero(each)) for each in (alerted, alerted & y, y))
    return {
        "rows": float(len(y)), "alerts": float(alerts), "hits": float(hits),
        "precision": hits / alerts if alerts else float("nan"),
        "recall": hits / positives if positives else float("nan"),
        "lowest": float(s[alerted].min()) if alerts else float("nan"),
    }  # fmt: skip


def row_costs(y: BoolVector, alerted: BoolVector, costs: Mapping[str, float], stake: FloatVector | None) -> FloatVector:
    """What each row cost ``(n,)``: its review and false alarm where alerted, else what was missed.

    Parameters
    ----------
    costs : ``false_positive``, ``false_negative`` and ``review``, as a cost threshold has them; absent ones are 0.
    stake : ``(n,)`` what a missed positive is multiplied by, such as its amount; 1 where ``None``.
    """
    missed = costs.get("false_negative", 0.0) * (1.0 if stake is None else np.maximum(stake, 0.0))
    told = costs.get("review", 0.0) + np.where(y, 0.0, costs.get("false_positive", 0.0))
    return np.where(alerted, told, np.where(y, missed, 0.0))


def bootstrap(
    y: BoolVector,
    scores: Sequence[FloatVector],
    groups: IntVector | NDArray[Any],
    *,
    costs: Sequence[FloatVector] = (),
    weight: FloatVector | None = None,
    resamples: int = RESAMPLES,
    seed: int = 1,
) -> dict[str, FloatMatrix]:
    """Every measure of each score over resamples: ``(M, resamples)`` a measure, the same draws for all M scores.

    Parameters
    ----------
    y : ``(n,)`` labels.
    scores : M times ``(n,)``, in [0, 1].
    groups : ``(n,)`` anything that can be sorted; rows of equal value are drawn together.
    costs : as many ``(n,)`` as scores, or none: what each row cost.
    weight : ``(n,)`` how many rows each stands for; 1 where not given.

    >>> rng = np.random.default_rng(1)
    >>> y = rng.random(2000) < 0.2
    >>> good, weak = (1 / (1 + np.exp(-(y + rng.normal(0, noise, 2000)))) for noise in (0.5, 2.0))
    >>> drawn = bootstrap(y, [weak, good], np.arange(2000) // 4)["average_precision"]
    >>> bool((drawn[1] > drawn[0]).all())
    True
    """
    rng = np.random.default_rng(seed)
    unit, count = units_of(groups, rng)
    own = np.ones(len(y)) if weight is None else weight
    draws = rng.poisson(1.0, (count, resamples)).astype(np.float64)
    ranked = [_ranks(y, s, own, unit, draws) for s in scores]
    made = {name: np.stack([each[k] for each in ranked]) for k, name in enumerate(MEASURES[:2])}
    rows = np.bincount(unit, own, count) @ draws
    for name, per_unit in _sums(y, scores, costs, own, unit, count).items():
        made[name] = _divided(per_unit @ draws, rows)
    return made


def units_of(groups: NDArray[Any], rng: np.random.Generator) -> tuple[IntVector, int]:
    """The number of each row's group, ``(n,)``, and how many there are; many are put together at random."""
    unit = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    count = int(unit.max()) + 1 if len(unit) else 1
    if count <= _UNITS:
        return unit, count
    # The table of draws has a row for each unit: a million entities by a thousand resamples would be 8 GB.
    return rng.integers(_UNITS, size=count)[unit], _UNITS


def interval(value: float, drawn: FloatVector, units: int, confidence: float = CONFIDENCE) -> Interval:
    """The percentile interval of resampled values; those that are not defined are left out.

    There is none of fewer than ``MIN_UNITS`` groups: all draws of one group alone would be alike.
    """
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn) or units < MIN_UNITS:
        return Interval(value, float("nan"), float("nan"), units)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(drawn, [tail, 100.0 - tail])
    return Interval(value, float(low), float(high), units)


def _binned(y: BoolVector, s: FloatVector) -> tuple[IntVector, int]:
    """The bin of each row, and how many: one for each score of a positive, one for all rows between two of them.

    Negatives between the same two positives are alike for both rank metrics, so nothing is lost.
    """
    edges = np.unique(s[y])
    if len(edges) > _EDGES:
        # Thinned by rank, so that where positives are dense there are many edges.
        edges = edges[np.linspace(0, len(edges) - 1, _EDGES).astype(np.int64)]
    # Odd where a score is an edge, even between two.
    at = np.searchsorted(edges, s, "left") + np.searchsorted(edges, s, "right")
    return at, 2 * len(edges) + 1


def _ranks(
    y: BoolVector, s: FloatVector, own: FloatVector, unit: IntVector, draws: FloatMatrix
) -> tuple[FloatVector, FloatVector]:
    """Average precision and ROC AUC under each column of ``draws (U, R)``, ``(R,)`` each."""
    at, bins = _binned(y, s)
    cell = at * len(draws) + unit
    # Rows are counted by bin and group once; a resample is then a product of matrices, however many rows there are.
    counts = [np.bincount(cell[of], own[of], bins * len(draws)).reshape(bins, -1) for of in (y, ~y)]
    pos, neg = (count[::-1] @ draws for count in counts)  # highest score first, as precision is read
    tp, fp = np.cumsum(pos, axis=0), np.cumsum(neg, axis=0)
    # Above the first positive there is no precision, and no positive that it would count for.
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp > 0)
    # Half of the positives of the same bin: ties count half.
    area = np.einsum("kr,kr->r", neg, tp - pos / 2)
    return _divided(np.einsum("kr,kr->r", pos, precision), tp[-1]), _divided(area, tp[-1] * fp[-1])


def _sums(
    y: BoolVector, scores: Sequence[FloatVector], costs: Sequence[FloatVector], own: FloatVector, unit: IntVector,
    count: int,
) -> dict[str, FloatMatrix]:  # fmt: skip
    """What all rows of a group lost, ``(M, U)`` a measure."""
    losses = [row_losses(y, s) for s in scores]
    by_name = {name: [loss[name] for loss in losses] for name in MEASURES[2:]} | ({"cost": [*costs]} if costs else {})
    return {n: np.stack([np.bincount(unit, each * own, count) for each in rows]) for n, rows in by_name.items()}


def _divided(value: FloatMatrix, by: FloatVector) -> FloatMatrix:
    return np.divide(value, by, out=np.full_like(value, np.nan), where=by > 0)
