"""Where trees are kept: nodes and what leaves watch as rows of a few matrices, which all trees of a learner share.

A row that is given back is the next to be used, the lowest first: how the matrices have grown changes no number of a
node, so that replicas hold the same bytes. It knows rows and links, not what a tree learns.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatMatrix, FloatVector, IntVector, longer
from weir.online.drift import adwin
from weir.online.jit import njit
from weir.online.learners.hoeffding.twister import seeded
from weir.online.learners.state import MAX_STATE_BYTES

IntMatrix = NDArray[np.int64]
inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Of what compiled code alone calls: to unpack a `Grove` is most of what there would be to compile of it."""

FEATURE, LEFT, RIGHT, DEPTH, WATCH, CLASSES, SEEN, ALTERNATE = range(8)
"""Columns of ``links``. WATCH is the row of ``columns`` and ``gaussians``, -1 where a leaf watches nothing any more;
CLASSES and SEEN say of which classes there is a weight, or a Gaussian (see `with_class`); ALTERNATE is the leaf that
learns beside a branch, or -1."""
CUT, NO, YES, TRIED, MAJORITY, BAYES, ERRORS, ERROR_RATE = range(8)
"""Columns of ``values``. NO and YES are weights of the classes, TRIED is their sum at the last try to split, MAJORITY
and BAYES are weights of the rows that either way to answer had right."""
LOW, HIGH, WEIGHT, MEAN, SQUARES, FACTOR, LOG_NORM = range(7)
"""Of a Gaussian: what its values lie between, their weight, mean and sum of squares; -1 / (2 variance) and the
logarithm of its height, both 0 while it has no variance."""
NO_TREE: Final = -1
UNTAUGHT: Final = -2
"""Of ``roots``: there is no tree, or one that has learned nothing and has no node yet."""
LEAF: Final = -1
FREE: Final = -2
"""Of FEATURE, and of the first column of a row of ``columns``, which is LEAF until columns are drawn."""
WINDOW: Final = ("sums", "totals", "held")
NONE, ZERO = cast(int, np.int64(-1)), cast(int, np.int64(0))
"""For arguments of what is compiled: numba compiles it once for a plain -1 or 0, and once more for all others."""
_AT_FIRST: Final = 16


class Grove(NamedTuple):
    """Trees, changed in place; N nodes, S leaves that watch M of F columns each, T trees, A windows."""

    links: IntMatrix
    """``(N, 8)``."""
    values: FloatMatrix
    """``(N, 8)``."""
    columns: IntMatrix
    """``(S, M)``."""
    gaussians: NDArray[np.float64]
    """``(S, M, 2, 7)``, by column watched and class."""
    roots: IntMatrix
    """``(T, 2)``, of each tree and of the one that grows in its background; a node, NO_TREE or UNTAUGHT."""
    right: FloatMatrix
    """``(T, 2)``, rows that a tree had right, and all."""
    sums: FloatMatrix
    """``(A, 4)``, windows over mistakes: one a node where those have some, else two a tree; see `adwin`."""
    totals: NDArray[np.float64]
    """``(A, 48, 6)``."""
    held: IntMatrix
    """``(A, 48)``."""
    random: IntVector
    """``(WORDS + 1,)``, see `twister`."""
    used: IntVector
    """``(4,)``: nodes and leaves in use, and a row of each below which none is free."""
    centre: FloatVector
    """``(F + 1,)``, means of the columns, then of how many rows."""


class Growth(NamedTuple):
    """How trees grow, and are replaced."""

    grace_period: float
    delta: float
    tau: float
    max_depth: int
    leaf_prediction: int
    """Its place in ``LEAF_PREDICTIONS``."""
    rate: float
    """Mean of the Poisson count of a row; 0 for none."""
    drift_delta: float
    warning_delta: float
    most_nodes: int
    own_windows: bool
    """Whether each node watches its own mistakes: one tree that adapts in parts, and no forest whose trees go whole."""


NODES, WATCHES, NODE_HINT, WATCH_HINT = range(4)


def fresh_grove(trees: int, watched: int, width: int, seed: int, *, windows: bool) -> Grove:
    """No tree yet; with ``windows`` each node has one of its own, which grow with the nodes."""
    a = _AT_FIRST if windows else 2 * trees
    return Grove(
        links=np.full((_AT_FIRST, 8), FREE),
        values=np.zeros((_AT_FIRST, 8)),
        columns=np.full((_AT_FIRST, watched), FREE),
        gaussians=np.zeros((_AT_FIRST, watched, 2, 7)),
        roots=np.tile([UNTAUGHT, NO_TREE], (trees, 1)),
        right=np.zeros((trees, 2)),
        sums=np.zeros((a, adwin.SUMS)),
        totals=np.zeros((a, adwin.LEVELS, adwin.PER_LEVEL + 1)),
        held=np.zeros((a, adwin.LEVELS), np.int64),
        random=seeded(seed),
        used=np.zeros(4, np.int64),
        centre=np.zeros(width + 1),
    )


def with_room(grove: Grove, rows: int, *, windows: bool) -> Grove:
    """The same with at least ``rows`` free rows for nodes and leaves."""
    nodes = _size(len(grove.links), int(grove.used[NODES]) + rows)
    leaves = _size(len(grove.columns), int(grove.used[WATCHES]) + rows)
    grown: dict[str, NDArray[Any]] = {
        "links": longer(grove.links, nodes, FREE),
        "values": longer(grove.values, nodes),
        "columns": longer(grove.columns, leaves, FREE),
        "gaussians": longer(grove.gaussians, leaves),
    }
    if windows:
        grown |= {name: longer(getattr(grove, name), nodes) for name in WINDOW}
    return grove._replace(**grown)


def _size(now: int, needed: int) -> int:
    while now < needed:
        now *= 2
    return now


def most_nodes(grove: Grove) -> int:
    """How many nodes there may be at most, so that a snapshot keeps well within its limit."""
    a_node = sum(getattr(grove, name)[0].nbytes for name in ("links", "values", "columns", "gaussians", *WINDOW))
    return int(MAX_STATE_BYTES // 2 // a_node)


@njit(cache=True, error_model="numpy")
def with_class(classes: int, label: int) -> int:
    """``classes`` with one more: bit ``label`` says it is there, bit 2 that class 1 came first.

    River's classes are keys in a dictionary; of two that are as likely the one that came first is the answer.

    >>> with_class(0, 1), with_class(with_class(0, 1), 0), with_class(with_class(0, 0), 1)
    (6, 7, 3)
    """
    if classes == 0 and label == 1:
        return 6
    return classes | (1 << label)


@inner
def forget_seen(grove: Grove, k: int) -> None:
    """Empty the Gaussians in a row of ``gaussians``."""
    for j in range(grove.gaussians.shape[1]):
        for label in range(2):
            for part in range(grove.gaussians.shape[3]):
                grove.gaussians[k, j, label, part] = 0.0


@inner
def clear_window(grove: Grove, at: int) -> None:
    """Forget the mistakes in a window."""
    adwin.clear(grove.sums, grove.totals, grove.held, at)


@inner
def new_leaf(grove: Grove, growth: Growth, depth: int) -> int:
    """A leaf that has learned nothing; the caller has seen to it that there is room."""
    links, at, k = grove.links, grove.used[NODE_HINT], grove.used[WATCH_HINT]
    while links[at, FEATURE] != FREE:
        at += 1
    while grove.columns[k, 0] != FREE:
        k += 1
    grove.used[NODE_HINT], grove.used[WATCH_HINT] = at + 1, k + 1
    grove.used[NODES] += 1
    grove.used[WATCHES] += 1
    for column in range(links.shape[1]):
        links[at, column], grove.values[at, column] = 0, 0.0
    links[at, FEATURE], links[at, DEPTH], links[at, WATCH], links[at, ALTERNATE] = LEAF, depth, k, -1
    forget_seen(grove, k)
    for j in range(grove.columns.shape[1]):
        grove.columns[k, j] = LEAF
    if growth.own_windows:
        clear_window(grove, at)
    return int(at)


@inner
def stop_watching(grove: Grove, at: int) -> None:
    """A leaf lets go of its Gaussians."""
    k = grove.links[at, WATCH]
    if k >= 0:
        forget_seen(grove, k)
        for j in range(grove.columns.shape[1]):
            grove.columns[k, j] = FREE
        grove.links[at, WATCH] = -1
        grove.used[WATCHES] -= 1
        grove.used[WATCH_HINT] = min(grove.used[WATCH_HINT], k)


@inner
def free_tree(grove: Grove, root: int) -> None:
    """Give back a node and all below it, alternates too; what is below 0 is no node."""
    if root < 0:
        return
    links, todo, left = grove.links, np.empty(grove.used[NODES] + 1, np.int64), 1
    todo[0] = root
    while left:
        left -= 1
        at = todo[left]
        if links[at, FEATURE] >= 0:
            for column in (LEFT, RIGHT, ALTERNATE):
                if links[at, column] >= 0:
                    todo[left] = links[at, column]
                    left += 1
        stop_watching(grove, at)
        for column in range(links.shape[1]):
            links[at, column], grove.values[at, column] = FREE, 0.0
        grove.used[NODES] -= 1
        grove.used[NODE_HINT] = min(grove.used[NODE_HINT], at)


@inner
def leaf_of(grove: Grove, at: int, row: FloatVector) -> int:
    """The leaf below ``at`` that a row ends in."""
    while grove.links[at, FEATURE] >= 0:
        below = row[grove.links[at, FEATURE]] <= grove.values[at, CUT]
        at = grove.links[at, LEFT] if below else grove.links[at, RIGHT]
    return int(at)
