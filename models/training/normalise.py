"""Fits the normaliser of an encoder to a history."""

from __future__ import annotations

import numpy as np
import torch

from weir.models.encoder import Normaliser
from weir.models.types import Float32Matrix, FloatVector

_ROWS = 200_000
_FLAT = 1e-6


def fit(normaliser: Normaliser, x: Float32Matrix) -> None:
    """Set its buffers from raw columns ``(n, D)``; at most 200,000 rows, evenly spaced, are looked at.

    A column is taken by its signed logarithm where that makes it less skewed. Knots are quantiles of the distinct-ish
    values: equal quantiles fall together, and their piece is left out (slope 0).
    """
    sample = x[:: max(1, len(x) // _ROWS)].astype(np.float64)
    knots = normaliser.low.shape[1]
    log = np.zeros(x.shape[1])
    mean, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    low, slope = np.zeros((x.shape[1], knots)), np.zeros((x.shape[1], knots))
    for j in range(x.shape[1] if len(sample) else 0):
        v = sample[:, j]
        squeezed = np.sign(v) * np.log1p(np.abs(v))
        # Columns within -1 to 1 are shares or flags, whose scale is right.
        log[j] = np.abs(v).max() > 1 and abs(_skew(squeezed)) < abs(_skew(v))
        v = squeezed if log[j] else v
        mean[j], spread = v.mean(), v.std()
        scale[j] = 1 / spread if spread > _FLAT else 0.0  # a constant column says nothing
        v = np.clip((v - mean[j]) * scale[j], -normaliser.clip, normaliser.clip)
        low[j], slope[j] = _pieces(v, knots)
    for name, value in (("log", log), ("mean", mean), ("scale", scale), ("low", low), ("slope", slope)):
        getattr(normaliser, name).copy_(torch.from_numpy(value.astype(np.float32)))


def _skew(v: FloatVector) -> float:
    spread = v.std()
    return float((((v - v.mean()) / spread) ** 3).mean()) if spread > _FLAT else 0.0


def _pieces(v: FloatVector, knots: int) -> tuple[FloatVector, FloatVector]:
    """Where the pieces begin and one over their widths: quantiles of the values, a frequent value counted once."""
    values, counts = np.unique(v, return_counts=True)
    often = counts > len(v) / max(knots, 1)
    rest = np.repeat(
        values, np.where(often, np.maximum(counts[~often].mean() if (~often).any() else 1, 1), counts).astype(int)
    )
    edges = np.unique(np.quantile(rest, np.linspace(0, 1, knots + 1)))
    low, slope = np.zeros(knots), np.zeros(knots)
    low[: len(edges) - 1] = edges[:-1]
    slope[: len(edges) - 1] = 1 / np.maximum(np.diff(edges), _FLAT)
    return low, slope
