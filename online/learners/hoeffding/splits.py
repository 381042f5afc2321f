"""When a leaf splits, and where: ten cuts a column, information gain, Hoeffding's bound (Domingos & Hulten, KDD 2000).

The arithmetic is that of River's ``GaussianSplitter``, ``InfoGainSplitCriterion`` and ``_attempt_to_split``.
"""

from __future__ import annotations

import math

from weir.online.batch import FloatVector
from weir.online.learners.hoeffding.grove import (
    CLASSES,
    CUT,
    DEPTH,
    ERROR_RATE,
    ERRORS,
    FEATURE,
    HIGH,
    LEFT,
    LOW,
    MEAN,
    NO,
    NODES,
    NONE,
    RIGHT,
    SEEN,
    SQUARES,
    TRIED,
    WATCH,
    WEIGHT,
    YES,
    Grove,
    Growth,
    clear_window,
    forget_seen,
    inner,
    new_leaf,
    stop_watching,
    with_class,
)

_CUTS = 10
_LEAST_BRANCH, _MOST_SHARE = 0.01, 0.99
"""Of a leaf's weight: what either side of a split has to have, and what one class may have where a split is sought."""


@inner
def _below(gaussian: FloatVector, cut: float) -> float:
    """The weight at or below ``cut``, by the normal distribution but for what lies outside of all values seen."""
    if cut < gaussian[LOW]:
        return 0.0
    if cut >= gaussian[HIGH]:
        return float(gaussian[WEIGHT])
    variance = gaussian[SQUARES] / (gaussian[WEIGHT] - 1.0) if gaussian[WEIGHT] > 1.0 else 0.0
    if variance <= 0.0:
        return 0.0
    deviations = (cut - gaussian[MEAN]) / math.sqrt(variance)
    return float(0.5 * (1.0 + math.erf(deviations / math.sqrt(2.0))) * gaussian[WEIGHT])


@inner
def _entropy(no: float, yes: float) -> float:
    entropy, total = 0.0, 0.0
    if no > 0.0:
        entropy -= no * math.log2(no)
        total += no
    if yes > 0.0:
        entropy -= yes * math.log2(yes)
        total += yes
    return (entropy + total * math.log2(total)) / total if total > 0.0 else 0.0


@inner
def _best_cut(grove: Grove, at: int, j: int) -> tuple[float, float]:
    """Gain and cut of the best split by the j-th column that a leaf watches; -inf where there is none."""
    watched = grove.gaussians[grove.links[at, WATCH], j]
    of_no, of_yes = watched[0], watched[1]
    low, high = math.inf, -math.inf
    for gaussian in (of_no, of_yes):
        if gaussian[WEIGHT] > 0.0:
            low, high = min(low, gaussian[LOW]), max(high, gaussian[HIGH])
    best, place, before = -math.inf, 0.0, _entropy(grove.values[at, NO], grove.values[at, YES])
    step = (high - low) / (_CUTS + 1.0)
    for i in range(_CUTS):
        cut = low + step * (i + 1)
        if not low < cut < high:
            continue
        left_no, left_yes = _below(of_no, cut), _below(of_yes, cut)
        right_no, right_yes = of_no[WEIGHT] - left_no, of_yes[WEIGHT] - left_yes
        left, right = left_no + left_yes, right_no + right_yes
        total = left + right
        if left / total <= _LEAST_BRANCH or right / total <= _LEAST_BRANCH:
            continue
        after = (left * _entropy(left_no, left_yes) + right * _entropy(right_no, right_yes)) / total
        if before - after > best:
            best, place = before - after, cut
    return best, place


@inner
def try_to_split(grove: Grove, at: int, growth: Growth) -> None:
    """Make a leaf a branch where one split is surely the best, or all are alike and enough rows have been seen."""
    no, yes = grove.values[at, NO], grove.values[at, YES]
    if no == 0.0 or yes == 0.0 or grove.used[NODES] + 2 > growth.most_nodes:
        return
    best, second, column, place = -math.inf, -math.inf, NONE, 0.0
    sure = max(no, yes) / (no + yes) > _MOST_SHARE
    if not sure:
        for j in range(grove.columns.shape[1]):
            gain, cut = _best_cut(grove, at, j)
            if gain >= best:  # of two that are alike River takes the later one
                best, second, column, place = gain, best, j if gain > -math.inf else -1, cut
            elif gain > second:
                second = gain
        bound = math.sqrt(math.log(1.0 / growth.delta) / (2.0 * (no + yes)))
        sure = best - second > bound or bound < growth.tau
    if sure and column < 0:
        # No split is worth it. River lets the leaf go, and takes it up again at once, with nothing watched.
        forget_seen(grove, grove.links[at, WATCH])
        grove.links[at, SEEN] = 0
    elif sure:
        _split(grove, at, column, place, growth)


@inner
def _split(grove: Grove, at: int, j: int, cut: float, growth: Growth) -> None:
    links, watch = grove.links, grove.links[at, WATCH]
    feature, seen = grove.columns[watch, j], links[at, SEEN]
    depth = links[at, DEPTH] + 1
    sides = new_leaf(grove, growth, depth), new_leaf(grove, growth, depth)
    # Classes come in the order in which the leaf saw them.
    for n in range(2):
        label = n if seen < 6 else 1 - n
        if not seen >> label & 1:
            continue
        gaussian = grove.gaussians[watch, j, label]
        left = _below(gaussian, cut)
        for side in range(2):
            # A class that never had a value on this side is no key of River's there.
            if (cut < gaussian[LOW]) if side == 0 else (cut >= gaussian[HIGH]):
                continue
            grove.values[sides[side], NO + label] = left if side == 0 else gaussian[WEIGHT] - left
            links[sides[side], CLASSES] = with_class(links[sides[side], CLASSES], label)
    for side in sides:
        grove.values[side, TRIED] = grove.values[side, NO] + grove.values[side, YES]
    stop_watching(grove, at)
    links[at, FEATURE], links[at, LEFT], links[at, RIGHT] = feature, sides[0], sides[1]
    grove.values[at, CUT] = cut
    if growth.own_windows:
        grove.values[at, ERRORS], grove.values[at, ERROR_RATE] = 0.0, 0.0
        clear_window(grove, at)
