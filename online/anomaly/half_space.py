"""Streaming half-space trees: how empty is the region of feature space in which the value falls.

Tan, Ting & Liu, "Fast Anomaly Detection for Streaming Data", IJCAI 2011. The trees are drawn once from a seed and
shared by all series, whose own state is only the masses of the nodes (reference and latest window). Here the new
reference is the mean of the old one and the latest window, which forgets more smoothly than replacing it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weir.online.anomaly.layout import LATEST_MASS, REFERENCE_MASS, TREE_DEPTH, TREE_NODES, TREES
from weir.online.jit import njit

Row = NDArray[np.float64]
Row32 = NDArray[np.float32]

_INNER = 2**TREE_DEPTH - 1


class HalfSpaces(NamedTuple):
    """Splits of the shared trees: ``feature (TREES, inner) int64`` and ``threshold (TREES, inner) float64``."""

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]


def draw_trees(features: int, seed: int) -> HalfSpaces:
    """Draw trees over the unit cube; each node halves a random feature's interval at 15-85 % of its length.

    Examples
    --------
    >>> trees = draw_trees(3, seed=1)
    >>> trees.feature.shape, bool((trees.threshold > 0).all() and (trees.threshold < 1).all())
    ((6, 31), True)
    """
    rng = np.random.default_rng(seed)
    feature = rng.integers(features, size=(TREES, _INNER))
    share = rng.uniform(0.15, 0.85, size=(TREES, _INNER))
    threshold = np.zeros((TREES, _INNER))
    low = np.zeros((TREES, TREE_NODES, features))
    high = np.ones((TREES, TREE_NODES, features))
    for t in range(TREES):
        for node in range(_INNER):
            f = feature[t, node]
            cut = low[t, node, f] + share[t, node] * (high[t, node, f] - low[t, node, f])
            threshold[t, node] = cut
            for child in (2 * node + 1, 2 * node + 2):
                low[t, child], high[t, child] = low[t, node], high[t, node]
            high[t, 2 * node + 1, f] = low[t, 2 * node + 2, f] = cut
    return HalfSpaces(feature, threshold)


@njit(cache=True)
def unit(z: float) -> float:
    """Squash a deviation in scales into (0, 1)."""
    return 0.5 + 0.5 * z / (1.5 + abs(z))


@njit(cache=True)
def emptiness(mass: Row32, x: Row, feature: NDArray[np.int64], threshold: Row, window: int) -> float:
    """Score ``x (F,)`` in the unit cube on the reference masses, then count it in the latest ones; >= 0.

    The score is ``log(largest possible mass / mass found)``, the mass being that of the first node with less than a
    tenth of the window, scaled by two to the power of its depth.
    """
    total = 0.0
    for t in range(TREES):
        node = 0
        open_ = True
        for depth in range(TREE_DEPTH + 1):
            cell = t * TREE_NODES + node
            found = mass[REFERENCE_MASS + cell]
            # The walk goes on to the leaf all the same: masses of all nodes on the way are counted.
            if open_ and (depth == TREE_DEPTH or found < 0.1 * window):
                total += found * 2.0**depth
                open_ = False
            mass[LATEST_MASS + cell] += np.float32(1.0)
            if depth < TREE_DEPTH:
                node = 2 * node + (2 if x[feature[t, node]] >= threshold[t, node] else 1)
    # An empty region has no mass, and 0 no logarithm.
    return float(np.log(window * 2.0**TREE_DEPTH + 0.5) - np.log(total / TREES + 0.5))


@njit(cache=True)
def turn_window(mass: Row32, first: bool) -> None:
    """End of a window: the latest masses go into the reference and start again at zero."""
    for cell in range(TREES * TREE_NODES):
        latest = mass[LATEST_MASS + cell]
        old = mass[REFERENCE_MASS + cell]
        # The first window has nothing before it: a mean with the zeros of a new row would halve it.
        mass[REFERENCE_MASS + cell] = latest if first else np.float32(0.5) * (old + latest)
        mass[LATEST_MASS + cell] = np.float32(0.0)
