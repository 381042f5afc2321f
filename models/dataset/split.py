"""Labelled rows to learn from and to validate on, with the label delay as a gap between them; and their weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weir.models.dataset.cut import known_before
from weir.models.types import BoolVector, Float32Vector, FloatVector, IntVector, TrainingSet


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows of a history, in increasing order."""

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
    """Select the labelled events from ``valid_from`` on."""
    return _rows(data, data.history.ts[data.labels.row] >= data.valid_from)


def _rows(data: TrainingSet, chosen: BoolVector) -> Rows:
    labels = data.labels
    at = np.flatnonzero(chosen)
    at = at[np.argsort(labels.row[at], kind="stable")]
    return Rows(labels.row[at], labels.y[at], labels.weight[at])


def columns_of(rows: Rows, n: int) -> tuple[Float32Vector, Float32Vector]:
    """Target and weight of every row of a history of ``n``: weight 0 where a row is not among ``rows``."""
    y, weight = np.zeros(n, np.float32), np.zeros(n, np.float32)
    y[rows.row], weight[rows.row] = rows.y, rows.weight
    return y, weight
