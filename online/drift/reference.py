"""From the first blocks of a stream to the scale and the bins its later blocks are compared on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from online.drift.histograms import BINS, PSI_BINS, fill, quantile_edges
from online.drift.state import SQUARES, TOTAL, DriftState, N

FloatVector = NDArray[np.float64]


def fit_reference(state: DriftState, stream: int) -> None:
    """Set the stream's scale and bins from the blocks of its reference, and count these blocks into its history."""
    held = state.reference_held[stream]
    ring = state.ring[stream, : len(held)]
    means = ring[:, TOTAL] / ring[:, N]
    state.centre[stream] = state.anchor[stream] + means.mean()
    state.spread[stream] = _spread(means, ring[:, N], ring[:, TOTAL], ring[:, SQUARES], state.centre[stream])

    values = state.reference[stream, : held.sum()]
    state.psi_reference[stream] = 0
    if len(values) == 0:
        return
    state.edges[stream], state.psi_bin[stream] = quantile_edges(values)
    counts = np.zeros(BINS, dtype=np.int64)
    fill(values, state.edges[stream], counts)
    state.psi_reference[stream] = np.bincount(state.psi_bin[stream], weights=counts, minlength=PSI_BINS).astype(
        np.int64
    )
    history = state.history[stream]
    ends = np.cumsum(held)
    for block in range(max(0, len(held) - len(history)), len(held)):
        part = values[ends[block] - held[block] : ends[block]]
        fill(part, state.edges[stream], history[block % len(history)])


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
