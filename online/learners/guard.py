"""Keeps hostile rows from a learner: values that no row of late came near, weights that would drown all others.

A value is *plausible* up to 65,536, or up to 256 times what one in twenty of its column's recent values reached and 128
did (zeros aside), whichever is more; of a column that is nearly always zero nothing is known, and its values may be
2^36. A row with a value beyond is not learned, and scored with the value cut to that bound. A level that stays is
plausible after some 150 rows. A weight counts for eight times the recent
(geometric) mean of its class at most.

The first rows cannot be judged by what came before. They are kept, judged again after 256, 512, 1,024 and 2,048 rows,
and where one looks odd now the learner begins anew: with the plausible ones, and of these those last that are far from
the others, so that scales are known by then. All of it is a fold over
the rows: replicas agree, bit for bit, however the rows were cut into calls. It knows matrices, not what they mean.

Memory: 35 F numbers, and F + 2 numbers for each of the first 2,048 rows until then.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.codec.wire import FEATURE_MAX
from weir.online.jit import njit
from weir.online.learners.base import Learner
from weir.online.learners.interleaved import pieces, score_between
from weir.online.learners.state import copy_into, seal_with, unseal_with

JUDGED_AGAIN: Final = (256, 512, 1_024, 2_048)
_BUCKETS, _EVERY = 32, 64
_ENOUGH, _UNKNOWN = 128.0, 2.0**36
"""Values of a column that say how large they are, and how large they may be until then."""
# Of the mass of a new value over the one before: a value counts half after 2,048 others of its column.
_GROWTH = 2.0 ** (1.0 / 2_048)
_SLACK, _TOP_SHARE, _WEIGHT_FACTOR, _WEIGHT_MEMORY = 256.0, 0.05, 8.0, 1_000.0
_MUCH_HEAVIER = 4.0

_Held = tuple[FloatMatrix, BoolVector, FloatVector, FloatVector]
_YOUNG: Final = ("young_x", "young_y", "young_weight", "young_used")
"""Of rows that are judged again: as given, and the weight each was learned with; their names in a snapshot."""


@njit(cache=True)
def _bucket(value: float) -> int:
    """0 below 2^8, else one bucket for each factor of four."""
    return min(max((math.frexp(value)[1] - 7) // 2, 0), _BUCKETS - 1)


@njit(cache=True)
def _set_bounds(mass: FloatMatrix, unit: FloatVector, bound: FloatVector) -> None:
    """The upper edge of the highest bucket that one in twenty reach, and enough do, times 2^8."""
    for j in range(bound.size):
        above, k = 0.0, _BUCKETS - 1
        total, enough = mass[j].sum(), _ENOUGH * unit[j]
        while k > 0 and above + mass[j, k] <= max(_TOP_SHARE * total, enough):
            above += mass[j, k]
            k -= 1
        bound[j] = min(2.0 ** (2 * k + 16), FEATURE_MAX) if total > enough else _UNKNOWN


@njit(cache=True)
def _fold(
    x: FloatMatrix,
    y: BoolVector,
    weight: FloatVector,
    mass: FloatMatrix,
    unit: FloatVector,
    bound: FloatVector,
    classes: FloatMatrix,
    counts: NDArray[np.int64],
    used: FloatVector,
) -> int:
    """Judge rows in order; ``used (n,)`` is the weight to learn each with, 0 for not at all. How many are learned.

    ``classes (2, 2)``: mean logarithm of the weight, and rows, of each class. ``counts`` = (rows given, not learned).
    """
    refused = counts[1]
    for i in range(x.shape[0]):
        counts[0] += 1
        plausible = 0.0 < weight[i] < np.inf
        for j in range(x.shape[1]):
            size = abs(x[i, j])
            plausible &= size <= bound[j]  # never true of NaN
            if 0.0 < size < np.inf:
                mass[j, _bucket(size)] += unit[j]
                # New values weigh more in place of old ones less: no pass over the buckets at every row.
                unit[j] *= _GROWTH
                if unit[j] > 1e100:
                    mass[j] /= unit[j]
                    unit[j] = 1.0
        # By the number of rows since the start, so that cuts into calls move no bound.
        if counts[0] % _EVERY == 0:
            _set_bounds(mass, unit, bound)
        used[i] = 0.0
        if not plausible:
            counts[1] += 1
            continue
        known = classes[1 if y[i] else 0]
        used[i] = min(weight[i], _WEIGHT_FACTOR * math.exp(known[0])) if known[1] > 0.0 else weight[i]
        known[1] = min(known[1] + 1.0, _WEIGHT_MEMORY)
        known[0] += (math.log(used[i]) - known[0]) / known[1]
    return int(x.shape[0] - (counts[1] - refused))


@njit(cache=True)
def _cut(x: FloatMatrix, bound: FloatVector) -> FloatMatrix:
    """``x (n, F)`` within +-``bound (F,)``; compiled, for ``np.clip`` costs more than one row's score."""
    out = np.empty(x.shape)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            value = x[i, j]
            # What is NaN stays so.
            out[i, j] = bound[j] if value > bound[j] else (-bound[j] if value < -bound[j] else value)
    return out


class GuardedLearner:
    """A ``Learner`` that shows plausible rows only to the one inside.

    Parameters
    ----------
    learner : has learned nothing yet.

    Examples
    --------
    >>> from weir.online.learners.logistic import ScaledLogistic
    >>> model = GuardedLearner(ScaledLogistic(("a",), lr=0.1))
    >>> x = np.array([[0.0], [1.0]] * 200)
    >>> model.learn_many(x, x[:, 0] > 0, np.ones(400))
    >>> model.learn_many(np.array([[-1e12]]), np.array([True]), np.ones(1))
    >>> model.refused, model.predict_many(x[:2]).round(1).tolist()
    (1, [0.0, 1.0])
    """

    kind = "guarded"

    def __init__(self, learner: Learner) -> None:
        self.learner, self.features = learner, learner.features
        # To begin anew with, when the first rows are judged again.
        self._empty = learner.snapshot()
        width = len(self.features)
        self._state: dict[str, NDArray[Any]] = {
            "mass": np.zeros((width, _BUCKETS)),
            "unit": np.ones(width),
            "bound": np.full(width, _UNKNOWN),
            "classes": np.zeros((2, 2)),
            "counts": np.zeros(2, np.int64),
        }
        self._young: list[_Held] = []  # pieces of the first rows, until they were judged for the last time

    @property
    def refused(self) -> int:
        """Rows that were not learned."""
        return int(self._state["counts"][1])

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``."""
        return self.learner.predict_many(self._bounded(x))

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """Those of the learner inside, ``(n, F)``."""
        return self.learner.contributions(self._bounded(x))

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn the plausible ones of the rows in order."""
        at, n, given = 0, len(x), int(self._state["counts"][0])
        while given < JUDGED_AGAIN[-1] and at < n:
            due = next(count for count in JUDGED_AGAIN if count > given)
            end = min(n, at + due - given)
            # Copies: callers use their arrays again, and these rows may be learned a second time.
            self._young.append(self._learn(x[at:end].copy(), y[at:end].copy(), weight[at:end].copy()))
            given += end - at
            if due == given:
                self._judge_again(last=due == JUDGED_AGAIN[-1])
            at = end
        if at < n:
            self._learn(x[at:], y[at:], weight[at:])

    def score_between(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> FloatVector:
        """Scores of rows between those that it learns; see `ScoresBetween`."""
        scores, given = np.empty(len(rows)), int(self._state["counts"][0])
        # Bounds move, and the first rows are judged again, where so many rows have come.
        ends = [*range(_EVERY - given % _EVERY, len(x), _EVERY), len(x)] if len(x) else []
        for piece, between in pieces(learned, ends):
            held = x[piece].copy(), y[piece].copy(), weight[piece].copy()
            scores[between], used = self._between(rows[between], learned[between] - piece.start, *held)
            if given < JUDGED_AGAIN[-1] and len(used):
                self._young.append((*held, used))
            given += len(used)
            if given in JUDGED_AGAIN and len(used):
                self._judge_again(last=given == JUDGED_AGAIN[-1])
        return scores

    def _between(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """Scores between examples that end where bounds move at the latest; and the weight each was learned with."""
        s, used, seen = self._state, np.empty(len(x)), self._bounded(rows)
        _fold(x, y, weight, s["mass"], s["unit"], s["bound"], s["classes"], s["counts"], used)
        if (used > 0.0).all():
            return score_between(self.learner, seen, learned, x, y, used), used
        good = np.flatnonzero(used > 0.0)
        learned = np.searchsorted(good, learned)
        return score_between(self.learner, seen, learned, x[good], y[good], used[good]), used

    def _learn(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> _Held:
        s, used = self._state, np.empty(len(x))
        rows, labels, weights = np.ascontiguousarray(x), np.ascontiguousarray(y), np.ascontiguousarray(weight)
        learned = _fold(rows, labels, weights, s["mass"], s["unit"], s["bound"], s["classes"], s["counts"], used)
        self._show(rows, labels, used, learned)
        return rows, labels, weights, used

    def _show(self, x: FloatMatrix, y: BoolVector, used: FloatVector, count: int) -> None:
        """Let the learner inside see the ``count`` rows whose weight is above 0."""
        if count == len(used):
            self.learner.learn_many(x, y, used)
        elif count:
            good = used > 0.0
            self.learner.learn_many(x[good], y[good], used[good])

    def _held(self) -> _Held:
        """The first rows, as one piece: as given, and the weight each was learned with."""
        nothing = (np.zeros((0, len(self.features))), np.zeros(0, np.bool_), np.zeros(0), np.zeros(0))
        x, y, weight, used = (np.concatenate(parts) for parts in zip(nothing, *self._young, strict=True))
        self._young = [(x, y, weight, used)]
        return x, y, weight, used

    def _judge_again(self, *, last: bool) -> None:
        """Begin anew where a row was learned that is not plausible now, or the other way round."""
        (x, y, weight, used), s = self._held(), self._state
        with np.errstate(invalid="ignore"):
            good = (np.abs(x) <= s["bound"]).all(axis=1) & (weight > 0.0) & np.isfinite(weight)
        cap = _WEIGHT_FACTOR * np.exp(s["classes"][y.astype(np.int64), 0])
        now = np.where(good, np.minimum(weight, cap), 0.0)
        odd = _odd(x) & good
        if odd.any() or ((now > 0.0) != (used > 0.0)).any() or (used > _MUCH_HEAVIER * now).any():
            self._young = [(x, y, weight, now)]
            learned = int(np.count_nonzero(now))
            s["counts"][1] = len(now) - learned
            self.learner.restore(self._empty)
            order = np.argsort(odd, kind="stable")
            self._show(x[order], y[order], now[order], learned)
        if last:
            self._young = []

    def snapshot(self) -> bytes:
        """The guard's state and that of the learner inside."""
        own = self._state | dict(zip(_YOUNG, self._held(), strict=True))
        return seal_with([self.learner.snapshot()], self.kind, self.features, own)

    def restore(self, state: bytes) -> None:
        """Replace the state; ``ValueError`` when of another kind, other features or another learner."""
        arrays, (inner,) = unseal_with(1, state, self.kind, self.features)
        n = len(arrays.get("young_y", ()))
        young = (np.zeros((n, len(self.features))), np.zeros(n, np.bool_), np.zeros(n), np.zeros(n))
        fresh = {name: np.empty_like(held) for name, held in self._state.items()}
        copy_into(fresh | dict(zip(_YOUNG, young, strict=True)), arrays)
        self.learner.restore(inner)
        self._state, self._young = fresh, [young]

    def _bounded(self, x: FloatMatrix) -> FloatMatrix:
        return _cut(x, self._state["bound"])


def _odd(x: FloatMatrix) -> BoolVector:
    """Rows with a value far beyond nearly all others of its column, however small it is."""
    size = np.sort(np.abs(x), axis=0)
    zeros = np.count_nonzero(size == 0.0, axis=0)
    top = (zeros + (1.0 - _TOP_SHARE) * (len(x) - zeros)).astype(np.int64)
    usual = np.take_along_axis(size, np.minimum(top, len(x) - 1)[None], axis=0)[0]
    # Divided, as 256 times a value near the largest float is infinite.
    return np.asarray((np.abs(x) / _SLACK > usual).any(axis=1))
