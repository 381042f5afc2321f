"""What a leaf learns and answers: class weights, a Gaussian for each column and class, naive Bayes or the majority.

The arithmetic is River's (``GaussianSplitter``, ``do_naive_bayes_prediction``, ``LeafNaiveBayesAdaptive``), but that a
Gaussian keeps its factor and its logarithm, which change only when it learns.
"""

from __future__ import annotations

import math
from typing import Final

from weir.online.batch import FloatVector, IntVector
from weir.online.learners.hoeffding.grove import (
    BAYES,
    CLASSES,
    FACTOR,
    HIGH,
    LEAF,
    LOG_NORM,
    LOW,
    MAJORITY,
    MEAN,
    NO,
    SEEN,
    SQUARES,
    WATCH,
    WEIGHT,
    YES,
    Grove,
    Growth,
    inner,
    with_class,
)
from weir.online.learners.hoeffding.twister import sample

LEAF_PREDICTIONS: Final = ("mc", "nb", "nba")
"""How a leaf answers: the majority class, naive Bayes, or whichever was right more often."""
_MAJORITY_CLASS, _NAIVE_BAYES, _ADAPTIVE = range(3)
NOTHING: Final = -1
"""The answer of a leaf that knows no class."""
_HALF_LOG_TAU = 0.5 * math.log(math.tau)
_BOTH = 3
_LEAST_VARIANCE = 1e-300  # of less, the factor would be infinite


@inner
def likelier(classes: int, no: float, yes: float) -> int:
    """The class that has more; of two that have the same, the one that came first."""
    if classes & _BOTH == _BOTH:
        return int(no <= yes) if classes > _BOTH else int(no < yes)
    return int(classes & _BOTH == 2) if classes else NOTHING


@inner
def _log_votes(grove: Grove, at: int, row: FloatVector) -> tuple[float, float]:
    """Logarithms of what naive Bayes gives each class, of a leaf that has weights of both."""
    values, k = grove.values[at], grove.links[at, WATCH]
    total = values[NO] + values[YES]
    # A class of no weight stands at 0 with River, however unlikely the other.
    no = math.log(values[NO] / total) if values[NO] > 0.0 else 0.0
    yes = math.log(values[YES] / total) if values[YES] > 0.0 else 0.0
    for j in range(grove.columns.shape[1]):
        value, of_no, of_yes = row[grove.columns[k, j]], grove.gaussians[k, j, 0], grove.gaussians[k, j, 1]
        if values[NO] > 0.0:
            no += (value - of_no[MEAN]) * (value - of_no[MEAN]) * of_no[FACTOR] + of_no[LOG_NORM]
        if values[YES] > 0.0:
            yes += (value - of_yes[MEAN]) * (value - of_yes[MEAN]) * of_yes[FACTOR] + of_yes[LOG_NORM]
    return no, yes


@inner
def uses_bayes(grove: Grove, at: int, growth: Growth) -> bool:
    """Whether a leaf answers by naive Bayes ("nba": while that was right at least as often)."""
    if grove.links[at, WATCH] < 0 or growth.leaf_prediction == _MAJORITY_CLASS:
        return False
    return growth.leaf_prediction == _NAIVE_BAYES or grove.values[at, BAYES] >= grove.values[at, MAJORITY]


@inner
def answers(grove: Grove, at: int, row: FloatVector, growth: Growth) -> tuple[int, int, int]:
    """The class that a leaf answers; that of the majority, and that of naive Bayes, where it is asked at all."""
    values, classes = grove.values[at], grove.links[at, CLASSES]
    # River's forest sorts the classes of an answer, its adaptive tree does not.
    order = classes if growth.own_windows else classes & _BOTH
    no, yes = values[NO], values[YES]
    said = likelier(order, no, yes)
    majority = likelier(classes, no, yes)
    if grove.links[at, WATCH] < 0 or growth.leaf_prediction == _MAJORITY_CLASS or classes & _BOTH != _BOTH:
        return said, majority, majority
    no, yes = _log_votes(grove, at, row)
    if uses_bayes(grove, at, growth):
        said = likelier(order, no, yes)
    return said, majority, likelier(classes, no, yes)


@inner
def shares(grove: Grove, at: int, row: FloatVector, growth: Growth) -> tuple[float, float]:
    """A leaf's probabilities of the classes, both 0 where it knows none."""
    no, yes = grove.values[at, NO], grove.values[at, YES]
    if no + yes <= 0.0:
        return 0.0, 0.0
    # Naive Bayes needs both classes; of one alone it is as sure as the share is.
    if grove.links[at, CLASSES] & _BOTH == _BOTH and uses_bayes(grove, at, growth):
        no, yes = _log_votes(grove, at, row)
        # Against the larger one: both exponentials of a row far from all means would be 0.
        top = max(no, yes)
        if top == -math.inf:
            return 0.5, 0.5
        no, yes = math.exp(no - top), math.exp(yes - top)
    return no / (no + yes), yes / (no + yes)


@inner
def add_to_leaf(
    grove: Grove,
    at: int,
    row: FloatVector,
    label: int,
    weight: float,
    said: tuple[int, int, int],
    growth: Growth,
    pool: IntVector | None,
) -> None:
    """Learn one row.

    ``said`` is what ``answers`` gave; ``pool (F,)`` are columns that a leaf draws some of, None where it watches all.
    """
    values, links, k = grove.values[at], grove.links[at], grove.links[at, WATCH]
    if k >= 0 and growth.leaf_prediction == _ADAPTIVE:
        if links[CLASSES] == 0 or said[1] == label:
            values[MAJORITY] += weight
        if said[2] == label:
            values[BAYES] += weight
    values[NO + label] += weight
    links[CLASSES] = with_class(links[CLASSES], label)
    if k < 0:
        return
    if grove.columns[k, 0] == LEAF:
        _draw_columns(grove, k, pool)
    links[SEEN] = with_class(links[SEEN], label)
    for j in range(grove.columns.shape[1]):
        _add_value(grove.gaussians[k, j, label], row[grove.columns[k, j]], weight)


@inner
def _draw_columns(grove: Grove, k: int, pool: IntVector | None) -> None:
    if pool is None:
        for j in range(grove.columns.shape[1]):
            grove.columns[k, j] = j
    else:
        sample(grove.random, pool, grove.columns[k])


@inner
def _add_value(gaussian: FloatVector, value: float, weight: float) -> None:
    first = gaussian[WEIGHT] == 0.0
    gaussian[LOW] = value if first else min(gaussian[LOW], value)
    gaussian[HIGH] = value if first else max(gaussian[HIGH], value)
    gaussian[WEIGHT] += weight
    before = value - gaussian[MEAN]
    gaussian[MEAN] += weight / gaussian[WEIGHT] * before
    gaussian[SQUARES] += weight * before * (value - gaussian[MEAN])
    variance = gaussian[SQUARES] / (gaussian[WEIGHT] - 1.0) if gaussian[WEIGHT] > 1.0 else 0.0
    if variance > _LEAST_VARIANCE:
        gaussian[FACTOR] = -0.5 / variance
        gaussian[LOG_NORM] = -_HALF_LOG_TAU - 0.5 * math.log(variance)
