"""Labelled rows to learn from and to validate on, with the label delay as a gap between them; and their weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.dataset.cut import known_before
from models.types import BoolVector, Float32Vector, FloatVector, IntVector, TrainingSet


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows of a history, increasing."""

    row: IntVector
    """``(k,)`` index into the history."""
    y: BoolVector
    weight: FloatVector

    def __len__(self) -> int:
        return len(self.row)


def train_rows(data: TrainingSet) -> Rows:
    """Events before ``valid_from`` whose label was known before it: what a training at that time would have seen.

    An event whose label was corrected after it is left out: the old value is known to be wrong, the new one came late.
    """
    before = data.history.ts[data.labels.row] < data.valid_from
    return _rows(data, before & known_before(data.history, data.labels, data.valid_from))


def validation_rows(data: TrainingSet) -> Rows:
    """Labelled events from ``valid_from`` on."""
    return _rows(data, data.history.ts[data.labels.row] >= data.valid_from)


def _rows(data: TrainingSet, chosen: BoolVector) -> Rows:
    labels = data.labels
    at = np.flatnonzero(chosen)
    at = at[np.argsort(labels.row[at], kind="stable")]
    return Rows(labels.row[at], labels.y[at], labels.weight[at])


def class_weights(rows: Rows, positive_share: float = 0.5) -> Rows:
    """The same rows, reweighed so that positives have ``positive_share`` of all weight; the total stays.

    A model that learns them is out by a constant in log-odds; whoever needs probabilities calibrates.

    >>> rows = Rows(np.arange(4), np.array([True, False, False, False]), np.ones(4))
    >>> class_weights(rows).weight.round(3).tolist()
    [2.0, 0.667, 0.667, 0.667]
    """
    total, positive = float(rows.weight.sum()), float(rows.weight[rows.y].sum())
    if positive in (0.0, total):
        return rows
    factors = np.where(rows.y, positive_share * total / positive, (1 - positive_share) * total / (total - positive))
    return Rows(rows.row, rows.y, rows.weight * factors)


def sample_negatives(rows: Rows, rate: float, seed: int) -> Rows:
    """Keep all positives and about ``rate`` of the negatives, which then weigh ``1 / rate`` times as much.

    >>> rows = Rows(np.arange(1000), np.arange(1000) < 10, np.ones(1000))
    >>> few = sample_negatives(rows, 0.1, seed=1)
    >>> len(few), sorted(set(few.weight.tolist()))
    (101, [1.0, 10.0])
    """
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"rate is {rate}; give a share of the negatives in (0, 1]")
    keep = rows.y | (np.random.default_rng(seed).random(len(rows)) < rate)
    weight = np.where(rows.y, rows.weight, rows.weight / rate)
    return Rows(rows.row[keep], rows.y[keep], weight[keep])


def columns_of(rows: Rows, n: int) -> tuple[Float32Vector, Float32Vector]:
    """Target and weight of every row of a history of ``n``: weight 0 where a row is not among ``rows``."""
    y, weight = np.zeros(n, np.float32), np.zeros(n, np.float32)
    y[rows.row], weight[rows.row] = rows.y, rows.weight
    return y, weight
