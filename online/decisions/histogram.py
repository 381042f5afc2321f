"""Fading histograms of probabilities on the log-odds scale. They know scores and counts, not budgets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector, IntVector

LIMIT = 20.0
"""Log-odds beyond which scores share the outermost bins; ``sigmoid(-20)`` is 2e-9."""


def bin_edges(bins: int, limit: float = LIMIT) -> FloatVector:
    """Probability at the lower edge of each bin, ``(bins + 1,) float64``; the first is 0 and the last two reach 1.

    The scale is even in log-odds, so one score in a thousand and one in ten are told apart equally well.
    """
    logit = np.linspace(-limit, limit, bins + 1)
    edges: FloatVector = 1.0 / (1.0 + np.exp(-logit))
    edges[0], edges[-1] = 0.0, 1.0
    return edges


def bin_of(score: FloatVector, edges: FloatVector) -> IntVector:
    """Bin of each score in [0, 1], ``(n,) int64``; a score equal to an edge is in the bin above it.

    Compared to the edges themselves and not to a formula, so "in bin k or above" is exactly ``score >= edges[k]``.
    """
    return edges[1:-1].searchsorted(score, side="right")


def tail(counts: NDArray[np.float64]) -> FloatVector:
    """Mass in each bin and above, ``(bins,) float64``."""
    return np.cumsum(counts[::-1])[::-1]
