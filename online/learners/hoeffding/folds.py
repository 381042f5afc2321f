"""Trees as a fold over rows, in one call: rows are scored between those that are learned.

It knows rows, not what a tree does with them.
"""

from __future__ import annotations

import numpy as np

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.jit import njit
from weir.online.learners.hoeffding.alternates import learn_in_parts
from weir.online.learners.hoeffding.backgrounds import learn_in_wholes
from weir.online.learners.hoeffding.grove import (
    ALTERNATE,
    CUT,
    ERROR_RATE,
    FEATURE,
    LEFT,
    NODES,
    RIGHT,
    WATCHES,
    Grove,
    Growth,
    inner,
)
from weir.online.learners.hoeffding.leaves import shares

ROW_BOUND = 1e100
"""Values are clipped to +- this: squares of larger ones, times a weight, are soon infinite."""


@inner
def clip_row(x: FloatVector, row: FloatVector) -> None:
    """Write a row as trees see it."""
    for j in range(x.size):
        row[j] = min(max(x[j], -ROW_BOUND), ROW_BOUND)


@inner
def _vote(grove: Grove, at: int, row: FloatVector, growth: Growth, strength: float) -> tuple[float, float]:
    """A leaf's probabilities times ``strength``; in an adaptive tree over error^2, to weigh alternates of the path."""
    rate = grove.values[at, ERROR_RATE]
    if rate > 0.0:
        strength /= rate * rate
    no, yes = shares(grove, at, row, growth)
    return no * strength, yes * strength


@inner
def _score(grove: Grove, row: FloatVector, growth: Growth) -> float:
    """The probability of class 1; .5 before anything is learned."""
    no, yes = 0.0, 0.0
    for i in range(grove.roots.shape[0]):
        at = grove.roots[i, 0]
        if at < 0:
            continue
        strength = grove.right[i, 0] / grove.right[i, 1] if grove.right[i, 0] > 0.0 else 1.0
        while grove.links[at, FEATURE] >= 0:
            if grove.links[at, ALTERNATE] >= 0:
                vote = _vote(grove, grove.links[at, ALTERNATE], row, growth, strength)
                no, yes = no + vote[0], yes + vote[1]
            below = row[grove.links[at, FEATURE]] <= grove.values[at, CUT]
            at = grove.links[at, LEFT] if below else grove.links[at, RIGHT]
        vote = _vote(grove, at, row, growth, strength)
        no, yes = no + vote[0], yes + vote[1]
    return yes / (no + yes) if no + yes > 0.0 else 0.5


@njit(cache=True, nogil=True, error_model="numpy")
def score_rows(grove: Grove, x: FloatMatrix, growth: Growth) -> FloatVector:
    """Probabilities ``(n,)`` of ``x (n, F)``."""
    out, row = np.empty(x.shape[0]), np.empty(x.shape[1])
    for i in range(x.shape[0]):
        clip_row(x[i], row)
        out[i] = _score(grove, row, growth)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def fold(
    grove: Grove,
    growth: Growth,
    pool: IntVector | None,
    replaced: IntVector | None,
    need: int,
    rows: FloatMatrix,
    learned: IntVector,
    x: FloatMatrix,
    y: BoolVector,
    weight: FloatVector,
    scores: FloatVector,
    before: FloatVector,
    done: int,
) -> int:
    """Learn ``x (m, F)`` from row ``done`` on, and score ``rows`` between; how many of ``x`` are learned then.

    It stops where fewer than ``need`` rows are free for nodes or leaves; the caller makes room and goes on. ``before
    (m,)`` gets what would have been said of each row just before it was learned, where it has any place.
    """
    row = np.empty(x.shape[1])
    at = np.searchsorted(learned, done)
    for i in range(done, x.shape[0] + 1):
        while at < learned.size and learned[at] <= i:
            clip_row(rows[at], row)
            scores[at] = _score(grove, row, growth)
            at += 1
        if i == x.shape[0]:
            break
        free = min(grove.links.shape[0] - grove.used[NODES], grove.columns.shape[0] - grove.used[WATCHES])
        if free < need:
            return i
        clip_row(x[i], row)
        if before.size:
            before[i] = _score(grove, row, growth)
        # One of them is None, and numba compiles nothing of that branch.
        if replaced is not None:
            learn_in_parts(grove, row, int(y[i]), weight[i], growth, replaced)
        if pool is not None:
            learn_in_wholes(grove, row, int(y[i]), weight[i], growth, pool)
    return int(x.shape[0])
