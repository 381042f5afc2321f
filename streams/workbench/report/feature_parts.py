"""What each feature does: how much it adds to scores, and what the ranking loses without it.

Both are of the model as it was at the end of the run, over samples of its rows. What is lost is found by permutation
(Breiman, "Random forests", Machine Learning 45, 2001): the values of one feature are shuffled among labelled rows, and
these are scored and ranked anew. The model has learned those rows, so the loss says what it relies on rather than what
would be lost on new ones; a feature whose twin stays loses little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, missing_of
from weir.online.learners.base import Learner
from weir.online.metrics.ranking import rank_rows
from weir.streams.workbench.report.run_sample import RunSample

_SHOWN, _SEED = 25, 1
_FEW: Final = 10
"""Rows of a class below which a ranking says nothing."""
_CELLS, _BLOCK = 50_000, 50
"""Values that are explained, and rows of them at once: some learners score each row once for every feature."""


@dataclass(frozen=True, slots=True)
class FeaturePart:
    """One feature of a task."""

    name: str
    added: float
    """Mean size of what it adds to the log-odds."""
    cost: float | None
    """Average precision that is lost without it; ``None`` where that was not measured."""
    middle: float
    """Median of what is there."""
    missing: float
    """Share of rows without it."""


@dataclass(frozen=True, slots=True)
class FeatureParts:
    """The features that count most, of how many, and what was measured on which rows."""

    parts: tuple[FeaturePart, ...] = ()
    features: int = 0
    rows: int = 0
    labelled: tuple[int, int] = (0, 0)
    """Rows of class 0 and 1 that were shuffled; none where there are too few."""
    average_precision: float = float("nan")
    """Of these, before."""


def feature_parts(names: Sequence[str], learner: Learner, sample: RunSample) -> FeatureParts:
    """What each of the features ``names (F,)`` does to the scores of ``learner``; nothing where nothing was scored."""
    rows = sample.scored.rows()
    if not len(rows) or not names:
        return FeatureParts()
    rows = rows[:: -(-rows.size // _CELLS)]
    added = [learner.contributions(rows[at : at + _BLOCK]) for at in range(0, len(rows), _BLOCK)]
    sizes = np.abs(np.nan_to_num(np.concatenate(added))).mean(axis=0)
    order = np.argsort(-sizes, kind="stable")[:_SHOWN].tolist()
    x, y, weight = _labelled(sample)
    labelled = (int(np.count_nonzero(~y)), int(np.count_nonzero(y)))
    measured = min(labelled) >= _FEW
    # On the same rows as each loss: the run's own metrics are of other rows, and of the models of then.
    before = _precision(learner, x, y, weight) if measured else float("nan")
    absent = missing_of(rows)
    parts = [
        FeaturePart(
            name=names[at], added=float(sizes[at]),
            cost=before - _without(learner, x, y, weight, at) if measured else None,
            middle=_median(rows[~absent[:, at], at]), missing=float(absent[:, at].mean()),
        )
        for at in order if sizes[at] > 0.0
    ]  # fmt: skip
    return FeatureParts(tuple(parts), len(names), len(rows), labelled if measured else (0, 0), before)


def _labelled(sample: RunSample) -> tuple[FloatMatrix, BoolVector, FloatVector]:
    """Rows of both classes, their labels, and how many rows each stands for."""
    held = [each.rows() for each in sample.learned]
    if not all(map(len, held)):
        return np.empty((0, 0)), np.empty(0, np.bool_), np.empty(0)
    counts = [len(rows) for rows in held]
    # Classes are thinned apart, so a row of the frequent one stands for more.
    stands_for = np.repeat([each.seen / n for each, n in zip(sample.learned, counts, strict=True)], counts)
    rows, y = np.concatenate(held), np.repeat([False, True], counts)
    return rows[:, :-1].copy(), y, rows[:, -1] * stands_for


def _precision(learner: Learner, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> float:
    return rank_rows(learner.predict_many(x), y, weight)["average_precision"]


def _without(learner: Learner, x: FloatMatrix, y: BoolVector, weight: FloatVector, at: int) -> float:
    """Average precision where a column says nothing any more; rows are drawn by weight, as they came."""
    shuffled = x.copy()
    shuffled[:, at] = np.random.default_rng(_SEED).choice(x[:, at], len(x), p=weight / weight.sum())
    return _precision(learner, shuffled, y, weight)


def _median(values: FloatVector) -> float:
    return float(np.median(values)) if len(values) else float("nan")
