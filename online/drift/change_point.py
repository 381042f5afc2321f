"""Where a series of blocks most likely changed, and what it was on either side. It knows sums, not detectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weir.online.batch import FloatVector


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """The last block before the change, and mean and standard deviation of the values on either side."""

    block: int
    before: float
    after: float
    before_std: float
    after_std: float


def find_change(n: FloatVector, total: FloatVector, squares: FloatVector, spread: bool) -> ChangePoint:
    """The split of the blocks with the largest standardised CUSUM.

    Parameters
    ----------
    n, total, squares : (B,) values in each block, their sum and their sum of squares, oldest first; B >= 2.
    spread : also look for a split of the blocks' standard deviations, and take the clearer of the two.

    >>> n, mean = np.full(6, 10.0), np.array([1.0, 1.1, 0.9, 1.0, 5.0, 5.1])
    >>> point = find_change(n, n * mean, n * (mean**2 + 1.0), spread=False)
    >>> point.block, round(point.before, 2), round(point.after, 2)
    (3, 1.0, 5.05)
    """
    means = total / n
    block, clarity = _split(means)
    if spread:
        other, other_clarity = _split(np.sqrt(np.maximum(squares / n - means**2, 0.0)))
        if other_clarity > clarity:
            block = other
    old, new = slice(0, block + 1), slice(block + 1, None)
    before, before_std = _moments(n[old].sum(), total[old].sum(), squares[old].sum())
    after, after_std = _moments(n[new].sum(), total[new].sum(), squares[new].sum())
    return ChangePoint(block, before, after, before_std, after_std)


def _split(values: FloatVector) -> tuple[int, float]:
    """Index of the last value of the first part, and the size of the step in standard errors."""
    count = np.arange(1, len(values))
    size = len(values)
    parts = np.cumsum(values - values.mean())[:-1]
    gain = parts**2 * size / (count * (size - count))  # sum of squares that the step explains
    best = int(np.argmax(gain))
    rest = float(np.sum((values - values.mean()) ** 2) - gain[best])
    # A step without noise leaves nothing over.
    return best, float(gain[best]) / max(rest, 1e-300)


def _moments(n: float, total: float, squares: float) -> tuple[float, float]:
    mean = total / n
    return float(mean), float(np.sqrt(max(squares / n - mean**2, 0.0)))
