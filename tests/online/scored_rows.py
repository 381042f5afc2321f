"""Feeds metrics the columns that a test names, with what it leaves out made up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from weir.online.metrics.metric import Metrics, ScoredRows
from weir.online.metrics.series import MetricSeries

_UNNAMED = count()


def feed_rows(
    metrics: Metrics | MetricSeries,
    ts: ArrayLike,
    score: ArrayLike,
    y: ArrayLike,
    weight: ArrayLike = 1.0,
    threshold: ArrayLike = 0.5,
    correction: ArrayLike = False,
    event_id: Sequence[str] | None = None,
) -> None:
    """Add rows; scalars are repeated, and rows without names get new ones."""
    scores = np.asarray(score, dtype=np.float64)

    def column(values: ArrayLike, kind: Any = np.float64) -> Any:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(values, dtype=kind), scores.shape))

    names = [f"row {next(_UNNAMED)}" for _ in scores] if event_id is None else list(event_id)
    rows = ScoredRows(
        names, column(ts), scores, column(y, np.bool_), column(weight), column(threshold), column(correction, np.bool_)
    )
    metrics.add(rows.checked())
