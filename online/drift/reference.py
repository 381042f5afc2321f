"""From the first blocks of a stream to the scale and the bins its later blocks are compared on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector
from weir.online.drift.histograms import BINS, PSI_BINS, fill, quantile_edges
from weir.online.drift.monitor_state import SQUARES, TOTAL, DriftState, N


def fit_reference(state: DriftState, stream: int) -> None:
    """Set the stream's scale and bins from the blocks of its reference, and count these blocks into its history."""
    held = state.reference_held[stream]
    ring = state.ring[stream, : len(held)]
    means = ring[:, TOTAL] / ring[:, N]
    state.centre[stream] = state.anchor[stream] + means.mean()
    spread = _spread(means, ring[:, N], ring[:, TOTAL], ring[:, SQUARES], state.centre[stream])
    state.spread[stream] = np.hypot(spread, state.doubt[stream])  # other hours may be as far off as is in doubt

    values = state.reference[stream, : held.sum()]
    state.psi_reference[stream] = 0
    if len(values) == 0:
        return
    state.edges[stream], state.psi_bin[stream] = quantile_edges(values)
    edges = state.edges[stream]
    counts = np.zeros((len(held), BINS), dtype=np.int64)
    ends = np.cumsum(held)
    for block, end in enumerate(ends):
        fill(values[end - held[block] : end], edges, counts[block])
    state.psi_reference[stream] = np.bincount(
        state.psi_bin[stream], weights=counts.sum(axis=0), minlength=PSI_BINS
    ).astype(np.int64)
    state.inflation[stream] = _inflation(counts)
    history = state.history[stream]
    for block in range(max(0, len(held) - len(history)), len(held)):
        history[block % len(history)] = counts[block]


def _inflation(counts: NDArray[np.int64]) -> float:
    """How much more the shares below each bin edge vary between blocks than they would with independent values.

    ``counts`` is ``(blocks, BINS)``. The design effect of cluster sampling: the mean over the edges, at least 1.
    Dependence longer than a block stays unseen.
    """
    # A block without a sampled value has no shares.
    counts = counts[counts.sum(axis=1) > 0]
    n = counts.sum(axis=1, keepdims=True)
    if len(n) < 2:
        return 1.0
    share = np.cumsum(counts, axis=1) / n  # (blocks, BINS)
    overall = (share * n).sum(axis=0) / n.sum()
    # In the tails a share varies by so little that a ratio of variances is mostly noise.
    inner = (overall > 0.02) & (overall < 0.98)
    if not inner.any():
        return 1.0
    expected = overall[inner] * (1.0 - overall[inner]) * float(np.mean(1.0 / n))
    return max(1.0, float(np.mean(share[:, inner].var(axis=0, ddof=1) / expected)))


def _spread(means: FloatVector, n: FloatVector, total: FloatVector, squares: FloatVector, centre: float) -> float:
    """Standard deviation of a block mean: the larger of what the means show and what independent values would give.

    Neighbouring events are often alike, so the means usually vary more. Where the reference never varied, the next
    deviation is put at one unit (or at the value's own size) once in as many values as were seen, so that the first
    1 of a rare indicator is no drift.
    """
    rows = float(n.sum())
    variance = max(float(squares.sum()) / rows - (float(total.sum()) / rows) ** 2, 0.0)
    if variance <= 1e-18 * max(1.0, centre**2):
        variance = max(1.0, centre**2) / rows
    return max(float(means.std(ddof=1)), float(np.sqrt(variance / n.mean())))
