"""How a forest follows a concept: each tree is replaced as a whole, by one that grew in its background.

Adaptive random forest (Gomes et al., Machine Learning 106, 2017), as River's ``ARFClassifier``, with row weights.
"""

from __future__ import annotations

from weir.online.batch import FloatVector, IntVector
from weir.online.drift import adwin
from weir.online.learners.hoeffding.grove import (
    DEPTH,
    NO,
    NO_TREE,
    TRIED,
    UNTAUGHT,
    WATCH,
    YES,
    ZERO,
    Grove,
    Growth,
    clear_window,
    free_tree,
    inner,
    leaf_of,
    new_leaf,
    stop_watching,
)
from weir.online.learners.hoeffding.leaves import add_to_leaf, answers
from weir.online.learners.hoeffding.splits import try_to_split
from weir.online.learners.hoeffding.twister import poisson


@inner
def _learn_leaf(
    grove: Grove, at: int, row: FloatVector, label: int, weight: float, said: tuple[int, int, int], growth: Growth,
    pool: IntVector,
) -> None:  # fmt: skip
    add_to_leaf(grove, at, row, label, weight, said, growth, pool)
    if grove.links[at, WATCH] < 0:
        return
    seen = grove.values[at, NO] + grove.values[at, YES]
    if grove.links[at, DEPTH] >= growth.max_depth:
        stop_watching(grove, at)
    elif seen - grove.values[at, TRIED] >= growth.grace_period:
        grove.values[at, TRIED] = seen
        try_to_split(grove, at, growth)


@inner
def _leaf_in(grove: Grove, i: int, part: int, row: FloatVector, growth: Growth) -> int:
    """The leaf of a tree, or of its background, that a row ends in; a first one where it has none."""
    if grove.roots[i, part] == UNTAUGHT:
        grove.roots[i, part] = new_leaf(grove, growth, ZERO)
    return leaf_of(grove, grove.roots[i, part], row)


@inner
def learn_in_wholes(grove: Grove, row: FloatVector, label: int, weight: float, growth: Growth, pool: IntVector) -> None:
    """Learn one row, tree by tree; ``pool (F,)`` is what leaves draw their columns from."""
    roots, centre = grove.roots, grove.centre
    centre[row.size] += 1.0
    for j in range(row.size):
        centre[j] += (row[j] - centre[j]) / centre[row.size]
    for i in range(roots.shape[0]):
        at = _leaf_in(grove, i, 0, row, growth)
        said = answers(grove, at, row, growth)
        mistake = float(int(said[0] != label))
        grove.right[i, 0] += 1.0 - mistake
        grove.right[i, 1] += 1.0
        drawn = poisson(grove.random, growth.rate)
        if drawn == 0:
            continue
        if roots[i, 1] != NO_TREE:
            beside = _leaf_in(grove, i, 1, row, growth)
            heard = answers(grove, beside, row, growth)
            _learn_leaf(grove, beside, row, label, drawn * weight, heard, growth, pool)
        _learn_leaf(grove, at, row, label, drawn * weight, said, growth, pool)
        warning, drift = 2 * i, 2 * i + 1
        if adwin.changes(mistake, growth.warning_delta, grove.sums, grove.totals, grove.held, warning):
            free_tree(grove, roots[i, 1])
            roots[i, 1] = UNTAUGHT
        if adwin.changes(mistake, growth.drift_delta, grove.sums, grove.totals, grove.held, drift):
            free_tree(grove, roots[i, 0])
            roots[i, 0], grove.right[i, 0], grove.right[i, 1] = UNTAUGHT, 0.0, 0.0
            if roots[i, 1] != NO_TREE:
                roots[i, 0], roots[i, 1] = roots[i, 1], NO_TREE
                clear_window(grove, warning)
