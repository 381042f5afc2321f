"""Regression trees over binned columns: quantile edges, growth from gradient histograms, traversal.

A tree is complete: ``depth`` levels of splits in heap order, so it is three flat arrays, and every row takes exactly
``depth`` steps. A node that found no split sends every row left (threshold +inf). It knows gradients, not losses.
The split rule is the second-order one of XGBoost (Chen & Guestrin, KDD 2016), the histograms those of LightGBM.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.jit import njit

Rows: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
"""Unbinned rows ``(n, F)``; compared in float32 whichever they are."""
Float32Vector = NDArray[np.float32]
Float32Matrix = NDArray[np.float32]
IntMatrix = NDArray[np.int64]
ByteMatrix = NDArray[np.uint8]


class Trees(NamedTuple):
    """Complete trees in heap order, changed in place: T of them ``(T, ...)``, or one, without the first axis."""

    feature: IntMatrix
    """``(T, 2^depth - 1)``, the column that each inner node splits on."""
    threshold: Float32Matrix
    """``(T, 2^depth - 1)``; a row goes right where its value is above."""
    value: FloatMatrix
    """``(T, 2^(depth + 1) - 1)``; of an inner node the mean of what lies below."""


_EDGE_ROWS = 8192
"""Edges come from at most about this many rows of each class; more would only move them within a bin."""
_BLOCK_ROWS = 64
"""Rows scored together: 64 rows of 30 columns fill 7.5 KB."""


def quantile_edges(x: Float32Matrix, y: BoolVector, bins: int) -> tuple[Float32Matrix, IntVector]:
    """Cut points of every column: half of them quantiles of all rows, half of the positive rows.

    Where positives are rare, what sets them apart lies in the tails, which quantiles of all rows would lump together.

    Parameters
    ----------
    x : (n, F) float32; y : (n,) bool.
    bins : at most this many bins a column.

    Returns
    -------
    edges (F, bins - 1) float32, ascending, of which the first ``counts[f]`` are in use; counts (F,) int64, 0 for a
    column with one value.

    Examples
    --------
    >>> x = np.arange(100, dtype=np.float32)[:, None]
    >>> edges, counts = quantile_edges(x, x[:, 0] > 89, bins=7)
    >>> edges[0, : counts[0]].tolist()
    [24.0, 49.0, 74.0, 92.0, 94.0, 96.0]
    """
    edges = np.zeros((x.shape[1], bins - 1), np.float32)
    counts = np.zeros(x.shape[1], np.int64)
    every, rare = _thin(x), _thin(x[y])
    inner = (bins - 1) // 2 if len(rare) else bins - 1
    for f in range(x.shape[1]):
        cuts = _quantiles(every[:, f], inner)
        if len(rare):
            cuts = np.concatenate([cuts, _quantiles(rare[:, f], bins - 1 - inner)])
        cuts = np.unique(cuts)
        # A cut at the largest value would have nothing above it.
        cuts = cuts[cuts < x[:, f].max()]
        counts[f] = cuts.size
        edges[f, : cuts.size] = cuts
    return edges, counts


def _thin(x: Float32Matrix) -> Float32Matrix:
    return x[:: max(1, len(x) // _EDGE_ROWS)]


def _quantiles(column: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    ordered = np.sort(column)
    return ordered[(np.arange(1, k + 1) * (ordered.size - 1)) // (k + 1)]


@njit(cache=True, nogil=True)
def bin_rows(x: Float32Matrix, rows: IntVector, edges: Float32Matrix, counts: IntVector, out: ByteMatrix) -> None:
    """Set ``out[i, f]`` to how many edges of column ``f`` lie below ``x[i, f]``, for every ``i`` of ``rows``."""
    for i in rows:
        for f in range(x.shape[1]):
            low, high = 0, counts[f]
            while low < high:
                middle = (low + high) >> 1
                if x[i, f] > edges[f, middle]:
                    low = middle + 1
                else:
                    high = middle
            out[i, f] = low


@njit(cache=True, nogil=True)
def leaf_of(x: Rows, i: int, tree: Trees, depth: int) -> int:
    """Heap index of the leaf that row ``i`` of ``x (n, F)`` ends in."""
    k = 0
    for _ in range(depth):
        k = 2 * k + 1 + int(np.float32(x[i, tree.feature[k]]) > tree.threshold[k])
    return k


@njit(cache=True, nogil=True)
def add_tree(x: Rows, rows: IntVector, tree: Trees, depth: int, sign: float, out: FloatVector) -> None:
    """Add ``sign`` times the tree's value to ``out[i]`` for every ``i`` of ``rows``."""
    for i in rows:
        out[i] += sign * tree.value[leaf_of(x, i, tree, depth)]


@njit(cache=True, nogil=True)
def sum_trees(x: Rows, trees: Trees, count: int, depth: int, out: FloatVector) -> None:
    """Add the values of the first ``count`` trees to ``out (n,)``, in tree order.

    Rows go in blocks with the trees outside: one small tree stays in the nearest cache and the walks of a block do not
    wait for one another, which halves the time. The order of additions to a row does not depend on the blocks.
    """
    block = np.empty((min(_BLOCK_ROWS, x.shape[0]), x.shape[1]), np.float32)
    for start in range(0, x.shape[0], _BLOCK_ROWS):
        size = min(_BLOCK_ROWS, x.shape[0] - start)
        for i in range(size):
            for f in range(x.shape[1]):
                block[i, f] = np.float32(x[start + i, f])
        for j in range(count):
            splits, cuts, values = trees.feature[j], trees.threshold[j], trees.value[j]
            for i in range(size):
                k = 0
                for _ in range(depth):
                    k = 2 * k + 1 + int(block[i, splits[k]] > cuts[k])
                out[start + i] += values[k]


@njit(cache=True, nogil=True)
def walk_trees(x: Rows, trees: Trees, count: int, depth: int, out: FloatMatrix) -> None:
    """Add to ``out (n, F)`` what each step down the path changed, booked on the feature split on (Saabas 2014)."""
    for i in range(x.shape[0]):
        for j in range(count):
            k, value = 0, trees.value[j]
            for _ in range(depth):
                f = trees.feature[j, k]
                child = 2 * k + 1 + int(np.float32(x[i, f]) > trees.threshold[j, k])
                out[i, f] += value[child] - value[k]
                k = child


@njit(cache=True, nogil=True)
def _fill_histograms(
    binned: ByteMatrix,
    rows: IntVector,
    columns: IntVector,
    node: IntVector,
    gradient: FloatVector,
    hessian: FloatVector,
    out: NDArray[np.float64],
) -> None:
    """Sum gradients and hessians of every node, column and bin into ``out (nodes, columns, bins, 2)``."""
    out[:] = 0.0
    for r in range(rows.size):
        g, h = gradient[r], hessian[r]
        table = out[node[r]]
        for c in range(columns.size):
            cell = table[c, binned[rows[r], columns[c]]]
            cell[0] += g
            cell[1] += h


@njit(cache=True, nogil=True)
def _best_split(
    table: NDArray[np.float64], columns: IntVector, counts: IntVector, l2: float, min_hessian: float
) -> tuple[int, int]:
    """Column and bin of the split that lowers the loss most, (-1, -1) where none does; the first one wins a tie."""
    total_g, total_h = 0.0, 0.0
    for b in range(table.shape[1]):
        total_g += table[0, b, 0]
        total_h += table[0, b, 1]
    # What rounding alone gains is no split.
    best, best_column, best_bin = total_g * total_g / (total_h + l2) + 1e-9, -1, -1
    for c in range(columns.size):
        g, h = 0.0, 0.0
        for b in range(counts[columns[c]]):
            g += table[c, b, 0]
            h += table[c, b, 1]
            rest = total_h - h
            if h < min_hessian:
                continue
            # Further on the right side only gets less.
            if rest < min_hessian:
                break
            gain = g * g / (h + l2) + (total_g - g) * (total_g - g) / (rest + l2)
            if gain > best:
                best, best_column, best_bin = gain, columns[c], b
    return best_column, best_bin


@njit(cache=True, nogil=True)
def grow_tree(
    binned: ByteMatrix,
    rows: IntVector,
    columns: IntVector,
    edges: Float32Matrix,
    counts: IntVector,
    gradient: FloatVector,
    hessian: FloatVector,
    cover: FloatVector,
    depth: int,
    l2: float,
    min_hessian: float,
    shrink: float,
    tree: Trees,
) -> None:
    """Grow one tree level by level and write it into ``tree``.

    Parameters
    ----------
    binned : (N, F) uint8; rows : (R,) rows of it to learn from; columns : (C,) columns that may be split on.
    gradient, hessian : (R,) of the loss by the margin, weights included.
    cover : (R,) weight of each row in an inner node's value, which is the mean of what lies below it.
    shrink : learning rate.
    """
    feature, threshold = tree.feature, tree.threshold
    inner = (1 << depth) - 1
    node = np.zeros(rows.size, np.int64)
    tables = np.empty(((inner + 1) >> 1, columns.size, edges.shape[1] + 1, 2))
    for level in range(depth):
        base = (1 << level) - 1
        _fill_histograms(binned, rows, columns, node, gradient, hessian, tables[: base + 1])
        # No bin is above: a node without a split sends every row left.
        bins = np.full(base + 1, 255)
        for k in range(base + 1):
            column, split = _best_split(tables[k], columns, counts, l2, min_hessian)
            # Without a split any column will do: nothing is above infinity.
            feature[base + k] = max(column, 0)
            threshold[base + k] = edges[column, split] if column >= 0 else np.inf
            if column >= 0:
                bins[k] = split
        for r in range(rows.size):
            k = node[r]
            node[r] = 2 * k + int(binned[rows[r], feature[base + k]] > bins[k])
    _set_values(node, gradient, hessian, cover, inner, l2, shrink, tree.value)


@njit(cache=True, nogil=True)
def _set_values(
    node: IntVector,
    gradient: FloatVector,
    hessian: FloatVector,
    cover: FloatVector,
    inner: int,
    l2: float,
    shrink: float,
    value: FloatVector,
) -> None:
    """Newton step of every leaf, then cover-weighted means upwards."""
    g, h, mass = np.zeros(value.size), np.zeros(value.size), np.zeros(value.size)
    for r in range(node.size):
        k = inner + node[r]
        g[k] += gradient[r]
        h[k] += hessian[r]
        mass[k] += cover[r]
    for k in range(inner, value.size):
        value[k] = -shrink * g[k] / (h[k] + l2)
    for k in range(inner - 1, -1, -1):
        left, right = 2 * k + 1, 2 * k + 2
        mass[k] = mass[left] + mass[right]
        value[k] = (mass[left] * value[left] + mass[right] * value[right]) / mass[k] if mass[k] > 0 else 0.0
