"""Why a value was scored as it was, as words: the views that drove it, and expected against actual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from online.anomaly.layout import COMPONENTS

_WORDS: Final = {
    "level": "far from its usual level",
    "change": "moves in unusual steps",
    "spread": "unusually rough or smooth",
    "seasonal": "unusual for this hour of the day",
    "pattern": "last values unlike any remembered ones",
    "context": "unlike any remembered situation of the last hundred values",
    "density": "in a region where it is rarely seen",
}


@dataclass(frozen=True, slots=True)
class AnomalyReason:
    """One view's part in a score."""

    component: str
    share: float
    """Of the total evidence, in [0, 1]; the shares of all components add up to 1."""
    text: str


def explain(
    components: NDArray[np.float64], expected: float, actual: float, min_share: float = 0.1
) -> list[AnomalyReason]:
    """Reasons of one score, largest share first.

    Parameters
    ----------
    components : (C,) float64, one row of ``AnomalyRun.components``.
    expected, actual : of the same row; the first reason names both.
    min_share : views below this share of the evidence are left out.

    Returns
    -------
    Empty when there is no evidence (a missing value, or nothing unusual).

    Raises
    ------
    ValueError
        When ``components`` has another length than ``COMPONENTS``.

    Examples
    --------
    >>> for reason in explain(np.array([1.0, 0, 0, 6, 1, 0, 0]), expected=20.04, actual=31.0):
    ...     print(f"{reason.share:.3f} {reason.text}")
    0.750 unusual for this hour of the day (31 where about 20.04 was expected)
    0.125 far from its usual level
    0.125 last values unlike any remembered ones
    """
    if components.shape != (len(COMPONENTS),):
        raise ValueError(f"components has shape {components.shape}; give one row of ({len(COMPONENTS)},)")
    total = float(components.sum())
    if total <= 0.0:
        return []
    order = np.argsort(-components, kind="stable")
    kept = [int(c) for c in order if components[c] >= min_share * total]
    reasons = [AnomalyReason(COMPONENTS[c], float(components[c]) / total, _WORDS[COMPONENTS[c]]) for c in kept]
    if reasons and np.isfinite(expected):
        first = reasons[0]
        text = f"{first.text} ({actual:.4g} where about {expected:.4g} was expected)"
        reasons[0] = AnomalyReason(first.component, first.share, text)
    return reasons
