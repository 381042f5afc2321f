"""Rows scored between the examples that a learner learns, in one call: as a call for each row and example, bit for bit.

It is for labels that are known before the next row, where a call a row costs more than the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final, Protocol, runtime_checkable

import numpy as np

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.learners.base import Learner


@runtime_checkable
class ScoresBetween(Protocol):
    """A learner that can score other rows between those that it learns, in one call."""

    def score_between(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> FloatVector:
        """Learn ``x (m, F)`` in order, and score row i of ``rows (n, F)`` after the first ``learned[i]`` of them.

        ``learned (n,)`` ascends. Returns ``(n,)``, the bits of ``predict_many``.
        """


@runtime_checkable
class JudgesBetween(Protocol):
    """A learner that also tells, in the same call, what it would have said of each example just before learning it."""

    def score_and_judge(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """See `ScoresBetween`; scores of rows ``(n,)``, and of examples from before each ``(m,)``."""


NO_ROWS: Final[IntVector] = np.empty(0, np.int64)
"""What is learned before each of no rows, where examples are only learned."""
Between = tuple[FloatMatrix, IntVector, FloatMatrix, BoolVector, FloatVector]
"""The arguments of `ScoresBetween.score_between`, as compiled code takes them."""


def contiguous(rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> Between:
    """Arrays without gaps."""
    matrices = np.ascontiguousarray(rows, np.float64), np.ascontiguousarray(x, np.float64)
    vectors = np.ascontiguousarray(learned), np.ascontiguousarray(y), np.ascontiguousarray(weight)
    return matrices[0], vectors[0], matrices[1], vectors[1], vectors[2]


def pieces(learned: IntVector, ends: list[int]) -> Iterator[tuple[slice, slice]]:
    """Cut examples at ``ends``, ascending, the last of which is their number: each piece, and the rows that go with it.

    Rows go with the example after them, so that those after the last example of a piece see what its end brings; those
    after all examples, where there are some, go with an empty piece, the last one.
    """
    low = start = 0
    for high in ends:
        stop = int(np.searchsorted(learned, high))
        yield slice(low, high), slice(start, stop)
        low, start = high, stop
    if start < len(learned):
        yield slice(low, low), slice(start, len(learned))


def score_between(
    learner: Learner, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
) -> FloatVector:
    """See `ScoresBetween`, of any learner."""
    if not len(rows):
        learner.learn_many(x, y, weight)
        return np.empty(0)
    if isinstance(learner, ScoresBetween):
        return learner.score_between(rows, learned, x, y, weight)
    if isinstance(learner, JudgesBetween):
        return learner.score_and_judge(rows, learned, x, y, weight)[0]
    scores, done = np.empty(len(rows)), 0
    for start, stop, count in _runs(learned):
        if done < count:
            learner.learn_many(x[done:count], y[done:count], weight[done:count])
            done = count
        scores[start:stop] = learner.predict_many(rows[start:stop])
    if done < len(x):
        learner.learn_many(x[done:], y[done:], weight[done:])
    return scores


def score_and_judge(
    learner: Learner, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
) -> tuple[FloatVector, FloatVector]:
    """See `JudgesBetween`, of any learner."""
    if isinstance(learner, JudgesBetween):
        return learner.score_and_judge(rows, learned, x, y, weight)
    scores, before = np.empty(len(rows)), np.empty(len(x))
    ends = np.searchsorted(learned, np.arange(len(x) + 1), side="right").tolist()
    start = 0
    for k, end in enumerate(ends):
        if start < end:
            scores[start:end] = learner.predict_many(rows[start:end])
        if k == len(x):
            break
        # Where a label comes right after its row, the row was scored a moment ago.
        known = start < end and np.array_equal(rows[end - 1], x[k])
        before[k] = scores[end - 1] if known else learner.predict_many(x[k : k + 1])[0]
        learner.learn_many(x[k : k + 1], y[k : k + 1], weight[k : k + 1])
        start = end
    return scores, before


def _runs(learned: IntVector) -> list[tuple[int, int, int]]:
    """Rows from ``start`` to ``stop`` with the same count of examples before them."""
    edges = [*np.flatnonzero(np.diff(learned, prepend=-1)).tolist(), len(learned)]
    return [(a, b, int(learned[a])) for a, b in pairwise(edges)]
