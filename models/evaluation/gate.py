"""Whether a candidate may take the champion's place: both on the same labelled rows, with a bootstrap interval.

The interval is of the *difference*, by a paired bootstrap: each resample weighs a row for both models alike, so what
makes rows hard or easy cancels out. Resamples are Poisson(1) weights of rows, or of whole groups of rows (events of one
entity are not independent), which costs one multiplication instead of an index. It knows arrays, not models or labels.

Choosing among candidates and gating on the same labels flatters the best one. Three things hold against it: candidates
are compared by the lower bound of their metric (``choose``), the interval of the chosen one is widened by the number it
was chosen from (Bonferroni), and what passes is only shadowed: the labels that promote it had not come then.

Groups have to be many: below some thirty the interval is known to be too short, and nothing here mends that.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile intervals);
Hanley and MacGibbon, Creating non-parametric bootstrap samples using Poisson frequencies (2006);
Field and Welsh, Bootstrapping clustered data (2007) (groups are drawn, each with all its rows);
Chamandy et al., Estimating Uncertainty for Massive Data Streams (2012) (weights of whole groups).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from weir.models.errors import ModelError
from weir.models.types import BoolVector, Float32Vector, FloatVector, IntVector

Metric = Literal["average_precision", "roc_auc"]
Outcome = Literal["better", "not worse", "worse", "undecided"]
Logits = FloatVector | Float32Vector
_Weights = NDArray[np.float64]
_Measure = Callable[[_Weights], FloatVector]

MIN_OF_EACH: Final = 10
"""Rows of either label below which an interval says nothing."""
_CELLS: Final = 1 << 19
"""Weights that are held at a time: 4 MB of them stay in the cache."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a candidate compares with the champion, or with a constant where there is none."""

    outcome: Outcome
    """``better``: the whole interval is above 0. ``worse``: all of it is below. ``not worse``: it holds 0 and the
    difference is not negative. ``undecided``: it holds 0 and the difference is negative, or there are too few rows."""
    difference: float
    """Metric of the candidate less that of the champion; of a constant where there is none."""
    low: float
    high: float
    n: int
    positives: int
    champion: float
    """Metric of the champion; that of a constant where there is none."""
    candidate: float
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the candidate may take the champion's place."""
        return self.outcome in ("better", "not worse")


def compare(
    y: BoolVector,
    weight: FloatVector,
    champion_logit: Logits | None,
    candidate_logit: Logits,
    *,
    metric: Metric = "average_precision",
    confidence: float = 0.9,
    seed: int = 1,
    resamples: int = 500,
    groups: IntVector | None = None,
) -> Verdict:
    """Judge a candidate on ``n`` labelled rows.

    Without a champion the candidate is held against a constant, whose average precision is the base rate and whose ROC
    AUC is 1/2; it must be better with confidence, as "not worse than nothing" is no reason to serve it.

    Parameters
    ----------
    y, weight : ``(n,)`` labels and the weight of each row, at least 0.
    champion_logit, candidate_logit : ``(n,)`` what each says of the rows; only their order counts.
    confidence : of the two-sided interval, in .5 to 1.
    resamples : how many; 500 give the ends of a 90 % interval to about a tenth of its width.
    groups : ``(n,)`` codes; rows of equal code are drawn together. Without it each row is drawn for itself.

    >>> rng = np.random.default_rng(1)
    >>> y = rng.random(2000) < 0.2
    >>> good, weak = y + rng.normal(0, 0.5, 2000), y + rng.normal(0, 2.0, 2000)
    >>> compare(y, np.ones(2000), weak, good).outcome, compare(y, np.ones(2000), good, weak).outcome
    ('better', 'worse')
    """
    measured = [candidate_logit] if champion_logit is None else [candidate_logit, champion_logit]
    _check(y, weight, measured, confidence, resamples)
    positives, n = int(np.count_nonzero(y)), len(y)
    if min(positives, n - positives) < MIN_OF_EACH:
        kind, few = ("positives", positives) if positives < MIN_OF_EACH else ("negatives", n - positives)
        reason = f"{few} {kind} among {n} labels; below {MIN_OF_EACH} no interval can be given"
        return Verdict("undecided", np.nan, np.nan, np.nan, n, positives, np.nan, np.nan, reason)
    of_candidate = measure(metric, y, candidate_logit)
    of_champion = _constant(metric, y) if champion_logit is None else measure(metric, y, champion_logit)
    whole = weight[None, :].astype(np.float64)
    champion, candidate = float(of_champion(whole)[0]), float(of_candidate(whole)[0])
    drawn = [of_candidate(w) - of_champion(w) for w in _resamples(weight, seed, resamples, groups)]
    tail = 50 * (1 - confidence)  # percent, on either side
    # NaN is a resample that drew no positive, or no negative.
    low, high = np.nanpercentile(np.concatenate(drawn), [tail, 100 - tail])
    outcome = _outcome(candidate - champion, low, high, champion_logit is not None)
    reason = _words(outcome, metric, champion, candidate, low, high, confidence, n, positives)
    return Verdict(outcome, candidate - champion, float(low), float(high), n, positives, champion, candidate, reason)


def choose(
    y: BoolVector,
    weight: FloatVector,
    logits: Mapping[str, Logits],
    *,
    metric: Metric = "average_precision",
    confidence: float = 0.9,
    seed: int = 1,
    resamples: int = 500,
    groups: IntVector | None = None,
) -> dict[str, tuple[float, float]]:
    """Metric of each candidate and its lower bound, the best (by the lower bound) first; ties by name.

    With too few rows for an interval the lower bound is the metric itself.
    """
    _check(y, weight, list(logits.values()), confidence, resamples)
    few = min(np.count_nonzero(y), len(y) - np.count_nonzero(y)) < MIN_OF_EACH
    found: dict[str, tuple[float, float]] = {}
    for name in sorted(logits):
        of = measure(metric, y, logits[name])
        value = float(of(weight[None, :].astype(np.float64))[0])
        drawn = [] if few else [of(w) for w in _resamples(weight, seed, resamples, groups)]
        # One tail only: nobody asks how good the candidate may be at best.
        low = float(np.nanpercentile(np.concatenate(drawn), 100 * (1 - confidence))) if drawn else value
        found[name] = value, low
    return dict(sorted(found.items(), key=lambda item: (-item[1][1], item[0])))


def quality(y: BoolVector, logit: Logits, weight: FloatVector) -> dict[str, float]:
    """Compute both metrics of one ranking of ``(n,)`` rows; they are NaN without both classes."""
    if not y.any() or y.all():
        return {"average_precision": np.nan, "roc_auc": np.nan}
    whole = weight[None, :].astype(np.float64)
    return {metric: float(measure(metric, y, logit)(whole)[0]) for metric in get_args(Metric)}


def measure(metric: Metric, y: BoolVector, logit: Logits) -> _Measure:
    """The metric of one model as a function of weights ``(R, n)``, to ``(R,)``; the rows are sorted once.

    ``average_precision`` is the area under the precision-recall steps, where tied rows count as one step, as in
    scikit-learn. ``roc_auc`` is the probability that a positive is above a negative, ties half. Both are NaN where
    a class that they need has no weight.

    >>> y, logit = np.array([True, False, True]), np.array([3.0, 2.0, 1.0])
    >>> [measure(metric, y, logit)(np.ones((1, 3))).round(4).tolist() for metric in ("average_precision", "roc_auc")]
    [[0.8333], [0.5]]
    """
    order = np.argsort(-logit.astype(np.float64), kind="stable")
    sorted_logit, truth = logit[order], y[order]
    ends = np.flatnonzero(np.append(sorted_logit[1:] != sorted_logit[:-1], True))  # last row of each tie
    if metric == "average_precision":
        return lambda weights: _precision(weights[:, order], truth, ends)
    return lambda weights: _auc(weights[:, order], truth, ends)


def _precision(w: _Weights, truth: BoolVector, ends: IntVector) -> FloatVector:
    hit = np.cumsum(w * truth, axis=1)[:, ends]  # (R, K): weight of positives down to each threshold
    total = np.cumsum(w, axis=1)[:, ends]
    step = np.diff(hit, axis=1, prepend=0.0)
    precision = np.divide(hit, total, out=np.zeros_like(hit), where=total > 0)
    return _divided(np.einsum("rk,rk->r", step, precision), hit[:, -1])


def _auc(w: _Weights, truth: BoolVector, ends: IntVector) -> FloatVector:
    hit = np.cumsum(w * truth, axis=1)[:, ends]
    miss = np.cumsum(w * ~truth, axis=1)[:, ends]
    middle = hit - np.diff(hit, axis=1, prepend=0.0) / 2  # positives above a tie, and half of those in it
    ordered = np.einsum("rk,rk->r", np.diff(miss, axis=1, prepend=0.0), middle)
    return _divided(ordered, hit[:, -1] * miss[:, -1])


def _divided(value: FloatVector, by: FloatVector) -> FloatVector:
    return np.divide(value, by, out=np.full_like(value, np.nan), where=by > 0)


def _constant(metric: Metric, y: BoolVector) -> _Measure:
    if metric == "average_precision":
        return lambda weights: _divided((weights * y).sum(axis=1), weights.sum(axis=1))
    return lambda weights: np.full(len(weights), 0.5)


def _resamples(weight: FloatVector, seed: int, resamples: int, groups: IntVector | None) -> Iterator[_Weights]:
    """Weightings of the rows, some at a time; the same for a seed, whatever is measured with them."""
    rng = np.random.default_rng(seed)
    codes = None if groups is None else np.unique(groups, return_inverse=True)[1]
    units = len(weight) if codes is None else int(codes.max()) + 1
    # How many are drawn at a time changes nothing: the generator gives the same numbers in the same order.
    some = max(1, _CELLS // max(len(weight), 1))
    for start in range(0, resamples, some):
        drawn = rng.poisson(1.0, (min(some, resamples - start), units)).astype(np.float64)
        # Rows of one group share a weight: they come or stay away together.
        yield (drawn if codes is None else drawn[:, codes]) * weight


def _outcome(difference: float, low: float, high: float, champion: bool) -> Outcome:
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "not worse" if champion and difference >= 0 else "undecided"


def _words(
    outcome: Outcome, metric: Metric, champion: float, candidate: float, low: float, high: float, confidence: float,
    n: int, positives: int,
) -> str:  # fmt: skip
    name = metric.replace("_", " ")
    return (
        f"{outcome}: {name} {candidate:.4f} against {champion:.4f}, difference {candidate - champion:+.4f} "
        f"[{low:+.4f}, {high:+.4f}] at {confidence:.1%} on {n} labels, {positives} positive"
    )


def _check(y: BoolVector, weight: FloatVector, logits: list[Logits], confidence: float, resamples: int) -> None:
    if not (0.5 < confidence < 1 and resamples >= 50):
        raise ModelError(f"confidence {confidence} and {resamples} resamples; give .5 to 1, and at least 50 resamples")
    for what in (weight, *logits):
        if what.shape != y.shape:
            raise ModelError(f"{what.shape} values for {y.shape} labels; give one of each for every row")
        if not np.isfinite(what).all():
            raise ModelError(f"{np.count_nonzero(~np.isfinite(what))} of {len(what)} logits or weights are not finite")
    if (weight < 0).any():
        raise ModelError(f"a weight is {weight.min()}; weights are at least 0")
