"""How one tree follows a concept in parts: nodes that watch their mistakes, and leaves that learn beside branches.

A branch whose mistakes become more lets a leaf learn beside it, which takes its place once it is surely better, or when
it splits (Bifet & Gavalda, IDA 2009, as River has it in ``AdaBranchClassifier`` and ``AdaLeafClassifier``).
"""

from __future__ import annotations

import math

from weir.online.batch import FloatVector, IntVector
from weir.online.drift import adwin
from weir.online.learners.hoeffding.grove import (
    ALTERNATE,
    CLASSES,
    CUT,
    DEPTH,
    ERROR_RATE,
    ERRORS,
    FEATURE,
    LEFT,
    NO,
    NODES,
    NONE,
    RIGHT,
    TRIED,
    UNTAUGHT,
    WATCH,
    YES,
    ZERO,
    Grove,
    Growth,
    free_tree,
    inner,
    leaf_of,
    new_leaf,
    stop_watching,
    with_class,
)
from weir.online.learners.hoeffding.leaves import add_to_leaf, answers
from weir.online.learners.hoeffding.splits import try_to_split
from weir.online.learners.hoeffding.twister import poisson

_RIVALS, _SIGNIFICANCE = 300.0, 0.05
"""Rows that a branch and its alternate have to have seen, and how sure it has to be that one of them is better."""


@inner
def _note_mistake(grove: Grove, at: int, mistake: float, delta: float) -> bool:
    """Whether mistakes of a node have become more; the count begins anew in a branch, or where they became fewer."""
    values, before = grove.values[at], grove.values[at, ERROR_RATE]
    changed = adwin.changes(mistake, delta, grove.sums, grove.totals, grove.held, at)
    values[ERRORS] += 1.0
    values[ERROR_RATE] += 1.0 / values[ERRORS] * (mistake - before)
    fewer = before > values[ERROR_RATE]
    if changed and (fewer or grove.links[at, FEATURE] >= 0):
        values[ERRORS], values[ERROR_RATE] = 0.0, 0.0
    return changed and not fewer


@inner
def _learn_leaf(grove: Grove, at: int, row: FloatVector, label: int, weight: float, growth: Growth) -> None:
    if growth.rate > 0.0:
        weight *= max(poisson(grove.random, growth.rate), 1)  # a row drawn 0 times is learned once with River
    said = answers(grove, at, row, growth)
    _note_mistake(grove, at, float(int(said[0] != label)), growth.drift_delta)
    add_to_leaf(grove, at, row, label, weight, said, growth, None)
    seen = grove.values[at, NO] + grove.values[at, YES]
    if seen - grove.values[at, TRIED] < growth.grace_period:
        return
    if grove.links[at, DEPTH] >= growth.max_depth:
        stop_watching(grove, at)
    elif grove.links[at, WATCH] >= 0:
        grove.values[at, TRIED] = seen
        try_to_split(grove, at, growth)


@inner
def _surely_better(grove: Grove, at: int) -> int:
    """1 where the alternate of a branch is, -1 where the branch is, 0 where neither is."""
    mine, other = grove.values[at], grove.values[grove.links[at, ALTERNATE]]
    if other[ERRORS] <= _RIVALS or mine[ERRORS] <= _RIVALS:
        return 0
    rate = mine[ERROR_RATE]
    spread = 1.0 / other[ERRORS] + 1.0 / mine[ERRORS]
    bound = math.sqrt(2.0 * rate * (1.0 - rate) * math.log(2.0 / _SIGNIFICANCE) * spread)
    if bound < rate - other[ERROR_RATE]:
        return 1
    return -1 if bound < other[ERROR_RATE] - rate else 0


@inner
def _learn_alternate(
    grove: Grove, at: int, parent: int, side: int, row: FloatVector, label: int, weight: float, growth: Growth
) -> bool:
    """What is beside a branch learns; whether it took the branch's place, by what it had right or by splitting."""
    links, alternate = grove.links, grove.links[at, ALTERNATE]
    better = _surely_better(grove, at)
    if better < 0:
        free_tree(grove, alternate)
        links[at, ALTERNATE] = -1
        return False
    # With River the row that brings it into its place is learned only where that is the root.
    if better == 0 or parent < 0:
        _learn_leaf(grove, alternate, row, label, weight, growth)
    if better == 0 and links[alternate, FEATURE] < 0:
        return False
    if parent < 0:
        grove.roots[0, 0] = alternate
    else:
        links[parent, side] = alternate
    links[at, ALTERNATE] = -1
    return True


@inner
def learn_in_parts(
    grove: Grove, row: FloatVector, label: int, weight: float, growth: Growth, replaced: IntVector
) -> None:
    """Learn one row along its path; ``replaced`` has room for the branches that lose their place on it."""
    links, gone = grove.links, 0
    if grove.roots[0, 0] == UNTAUGHT:
        grove.roots[0, 0] = new_leaf(grove, growth, ZERO)
    parent, side, at = NONE, ZERO + LEFT, grove.roots[0, 0]
    mistake = 0.0
    if links[at, FEATURE] >= 0:
        mistake = float(int(answers(grove, leaf_of(grove, at, row), row, growth)[0] != label))
    while links[at, FEATURE] >= 0:
        grove.values[at, NO + label] += weight
        links[at, CLASSES] = with_class(links[at, CLASSES], label)
        if _note_mistake(grove, at, mistake, growth.drift_delta) and grove.used[NODES] < growth.most_nodes:
            free_tree(grove, links[at, ALTERNATE])
            links[at, ALTERNATE] = new_leaf(grove, growth, links[at, DEPTH])
        if links[at, ALTERNATE] >= 0 and _learn_alternate(grove, at, parent, side, row, label, weight, growth):
            replaced[gone] = at
            gone += 1
        # A branch that has lost its place still learns this row: River draws its random numbers.
        parent, side = at, LEFT if row[links[at, FEATURE]] <= grove.values[at, CUT] else RIGHT
        at = links[at, side]
    _learn_leaf(grove, at, row, label, weight, growth)
    for i in range(gone):
        free_tree(grove, replaced[i])
