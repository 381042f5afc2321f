"""Distance of the present window to the nearest remembered one: novelty of the pattern and of its wider context.

Idea: nearest-neighbour anomaly detection on streams (KNN-CAD, Burnaev & Ishimtsev 2016, arXiv:1608.04585), with a
memory of fixed size. After it is full a new window replaces one chosen by a fixed hash of the row number, so the
age of what is remembered falls off geometrically and the result is reproducible.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.anomaly.layout import MEMORY
from weir.online.jit import njit

Row = NDArray[np.float64]
Row32 = NDArray[np.float32]


@njit(cache=True)
def nearest(memory: Row32, at: int, filled: int, window: Row, scale: Row) -> float:
    """Least mean absolute difference, in scales, between ``window (d,)`` and the ``filled`` windows stored at ``at``.

    Examples
    --------
    >>> memory = np.array([0, 0, 9, 9], dtype=np.float32)
    >>> nearest(memory, 0, 2, np.array([8.0, 9.0]), np.array([1.0, 1.0]))
    0.5
    """
    dim = len(window)
    best = np.inf
    for r in range(filled):
        total = 0.0
        start = at + r * dim
        for j in range(dim):
            total += abs(window[j] - memory[start + j]) * scale[j]
        best = min(best, total)
    return min(best / dim, 1e6)


@njit(cache=True)
def slot_of(stored: int) -> int:
    """Memory slot for the ``stored``-th window: in order while there is room, then by a multiplicative hash."""
    if stored < MEMORY:
        return stored
    return ((stored * 2654435761) % 4294967296 >> 9) % MEMORY


@njit(cache=True)
def remember(memory: Row32, at: int, stored: int, window: Row) -> None:
    """Write ``window (d,)`` as the ``stored``-th window of the memory at ``at``."""
    start = at + slot_of(stored) * len(window)
    for j in range(len(window)):
        memory[start + j] = window[j]
