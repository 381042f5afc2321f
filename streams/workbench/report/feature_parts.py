"""What each feature does: how much it adds to scores, and what the ranking loses without it.

Both are of the model as it was at the end of the run, over samples of its rows. What is lost is found by permutation
(Breiman, "Random forests", Machine Learning 45, 2001): the values of one feature are shuffled among labelled rows, and
these are scored and ranked anew. The model has learned those rows, so the loss says what it relies on rather than what
would be lost on new ones; a feature whose twin stays loses little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, missing_of
from weir.online.decisions.alert_state import SEVERITIES, AlertState
from weir.online.learners.base import Learner
from weir.online.metrics.ranking import rank_rows
from weir.online.stages.pipeline import StepOutput

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


ROWS, OF_A_CLASS, TOP_ALERTS = 2_000, 1_000, 12
_DAY_S: Final = 86_400.0


class EveryNth:
    """Rows evenly spread over a stream of unknown length: all of them, then every second one, every fourth, ...

    Parameters
    ----------
    most : rows that are held; half as many at least once there were more.

    Examples
    --------
    >>> some = EveryNth(4)
    >>> some.add(np.arange(3.0)[:, None]); some.add(np.arange(3.0, 9.0)[:, None])
    >>> some.rows().ravel().tolist(), some.seen, some.step
    ([0.0, 4.0, 8.0], 9, 4)
    """

    def __init__(self, most: int) -> None:
        self.most, self.seen, self.step = most, 0, 1
        self._kept = 0
        self._held: list[FloatMatrix] = []

    def add(self, rows: FloatMatrix) -> None:
        """Take in rows ``(n, F)`` in order."""
        if not len(rows):
            return
        # From the first row of this call whose number in the stream is a multiple of the step: where calls are cut
        # plays no part. Copied, as a view would keep the whole batch.
        self._held.append(rows[-self.seen % self.step :: self.step].copy())
        self.seen, self._kept = self.seen + len(rows), self._kept + len(self._held[-1])
        while self._kept > self.most:
            self.step *= 2
            self._held = [np.concatenate(self._held)[::2].copy()]
            self._kept = len(self._held[0])

    def rows(self) -> FloatMatrix:
        """What is held, ``(m, F)``; ``(0, 0)`` before the first row."""
        return np.concatenate(self._held) if self._held else np.empty((0, 0))


class RunSample:
    """Watches the steps of a run: some rows with their features, and the alerts that matter most.

    Memory is bounded, and nothing depends on how rows were cut into calls.
    """

    def __init__(self) -> None:
        self.scored = EveryNth(ROWS)
        """Features of scored rows."""
        self.learned = EveryNth(OF_A_CLASS), EveryNth(OF_A_CLASS)
        """Features of rows that were learned as 0 and as 1, and behind them what each row weighs."""
        self.opened: Counter[int] = Counter()
        """Alerts by the day on which they opened, days since the epoch."""
        self.ended: Counter[str] = Counter()
        """Alerts that were resolved, by why."""
        self._top: dict[str, AlertState] = {}

    def add(self, out: StepOutput) -> None:
        """Take in what a step made."""
        if out.predictions is not None:
            self.scored.add(out.predictions.features)
        for examples in out.examples:
            for y, held in enumerate(self.learned):
                of = examples.y == bool(y)
                held.add(np.column_stack([examples.x[of], examples.weight[of]]))
        for alert in out.alerts:
            if alert.status == "resolved":
                self.ended[alert.verdict or "quiet"] += 1
            elif alert.events == 1:  # the one record that tells of the opening
                self.opened[int(alert.opened_at // _DAY_S)] += 1
            self._top[alert.alert_id] = alert
            # Sorted seldom, and four times what is shown is kept: an alert may still rise.
            if len(self._top) > 8 * TOP_ALERTS:
                self._top = {each.alert_id: each for each in self.top(4 * TOP_ALERTS)}

    def top(self, count: int = TOP_ALERTS) -> list[AlertState]:
        """The gravest alerts, as they were last told; the highest score first among equals."""
        order = lambda a: (-SEVERITIES.index(a.severity), -a.score, a.opened_at, a.alert_id)  # noqa: E731
        return sorted(self._top.values(), key=order)[:count]
