"""KSWIN and PSI on histograms over quantile bins, which are fixed when the reference is complete.

Binning makes both cost a few additions a block. The Kolmogorov-Smirnov distance of binned values is never above that of
the values themselves, so binning can only make KSWIN more cautious (by at most the mass of one bin: 1/40 at the start).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector
from weir.online.jit import njit

BINS = 40
EDGES = 63  # BINS - 1, padded with +inf to one less than a power of 2
PSI_BINS = 10
_GROUP = BINS // PSI_BINS


def quantile_edges(values: FloatVector) -> tuple[FloatVector, NDArray[np.int64]]:
    """Bin edges from the reference's values, and the PSI bin each bin belongs to.

    A value x is in bin ``searchsorted(edges, x)``. Values that repeat merge quantiles, so fewer bins may be in use;
    the rest of ``edges`` is +inf. PSI bins are the deciles, merged alike.

    Returns
    -------
    edges : (EDGES,) float64, increasing.
    psi_bin : (BINS,) int64.
    """
    quantiles = np.quantile(values, np.arange(1, BINS) / BINS)
    fine, coarse = np.unique(quantiles), np.unique(quantiles[_GROUP - 1 :: _GROUP])
    edges = np.full(EDGES, np.inf)
    edges[: len(fine)] = fine
    return edges, np.searchsorted(coarse, edges[:BINS]).astype(np.int64)


@njit(cache=True)
def fill(values: FloatVector, edges: FloatVector, row: NDArray[np.int64]) -> None:
    """Count ``values`` into ``row (BINS,)``, replacing what it held."""
    row[:] = 0
    for x in values:
        # A binary search without branches: values are in no order, so a branch would be guessed wrong half of the time.
        place, stride = 0, (EDGES + 1) // 2
        while stride > 0:
            place += stride * (edges[place + stride - 1] < x)
            stride //= 2
        row[place] += 1


@njit(cache=True)
def ks_distance(older: NDArray[np.int64], recent: NDArray[np.int64]) -> float:
    """Two-sample Kolmogorov-Smirnov distance of two histograms over the same bins; 0 where one is empty."""
    n, m = older.sum(), recent.sum()
    if n == 0 or m == 0:
        return 0.0
    below_older, below_recent, widest = 0, 0, 0.0
    for b in range(len(older)):
        below_older += older[b]
        below_recent += recent[b]
        widest = max(widest, abs(below_older / n - below_recent / m))
    return widest


@njit(cache=True)
def ks_critical(n: float, m: float, alpha: float) -> float:
    """The distance that two samples of one distribution exceed with probability ``alpha`` (asymptotic, first term).

    >>> round(ks_critical(100.0, 100.0, 0.05), 3)  # 1.358 * sqrt(2 / 100)
    0.192
    """
    return math.sqrt(-0.5 * math.log(alpha / 2.0) * (n + m) / (n * m))


@njit(cache=True)
def psi(reference: NDArray[np.int64], current: NDArray[np.int64]) -> float:
    """Population stability index: sum of (q - p) * ln(q / p) over bins that either histogram uses.

    Half a count is added to each bin (Jeffreys), so that an empty one gives a large and not an infinite index. Without
    drift the expected index is about (bins - 1) * (1 / n + 1 / m).
    """
    used = 0
    for b in range(len(reference)):
        used += 1 if reference[b] + current[b] > 0 else 0
    n, m = reference.sum() + 0.5 * used, current.sum() + 0.5 * used
    index = 0.0
    for b in range(len(reference)):
        if reference[b] + current[b] > 0:
            p, q = (reference[b] + 0.5) / n, (current[b] + 0.5) / m
            index += (q - p) * math.log(q / p)
    return index
