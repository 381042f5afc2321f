"""A task's prequential metrics: since the start, over the last examples, fading, and as a series over event time."""

from __future__ import annotations

import msgspec
import numpy as np

from weir.online.batch import ExampleBatch, FloatVector
from weir.online.metrics.binned_metrics import CumulativeMetrics, FadingMetrics
from weir.online.metrics.metric import ScoredRows
from weir.online.metrics.rolling import RollingMetrics
from weir.online.metrics.series import MetricPoint, MetricSeries
from weir.online.task.spec import MetricSpec

_NO_ALERT = 2.0
"""Stands for "nothing was to alert yet" where a finite threshold is wanted: no probability reaches it."""


class Evaluation:
    """Feeds every slice of the metrics with the same labelled scores, in the order in which labels became known."""

    def __init__(self, spec: MetricSpec) -> None:
        self._cumulative = CumulativeMetrics()
        self._rolling = RollingMetrics(spec.rolling)
        self._fading = FadingMetrics(spec.fading)
        self._series = MetricSeries(self._rolling, spec.every)  # feeds the rolling metrics and notes them

    def update(self, examples: ExampleBatch, thresholds: FloatVector, now: float = np.inf) -> None:
        """Add labelled scores; ``thresholds (n,)`` are those in force when each was scored, infinite for none.

        ``now`` is the watermark: a row of a later time counts as of then, so that its clock does not end intervals.
        """
        if len(examples) == 0:
            return
        finite = np.minimum(thresholds, _NO_ALERT)
        e = examples
        ts = np.minimum(e.ts, now) if now > -np.inf else e.ts
        # The same event id of two entities is two events. No id holds a control character.
        events = [f"{entity}\n{event}" for entity, event in zip(e.entity_id, e.event_id, strict=True)]
        rows = ScoredRows(events, ts, e.score, e.y, e.weight, finite, e.correction).checked()
        for metrics in (self._cumulative, self._fading, self._series):
            metrics.add(rows)

    def get(self) -> dict[str, dict[str, float]]:
        """``{"cumulative": ..., "rolling": ..., "fading": ...}``; an undefined metric is absent."""
        return {"cumulative": self._cumulative.get(), "rolling": self._rolling.get(), "fading": self._fading.get()}

    def rolling(self) -> dict[str, float]:
        """The rolling metrics alone."""
        return self._rolling.get()

    def points(self) -> list[MetricPoint]:
        """The rolling metrics at the end of each interval of event time."""
        return self._series.points()

    def snapshot(self) -> bytes:
        """The whole state."""
        parts = (self._cumulative, self._fading, self._series)
        return msgspec.msgpack.encode([part.snapshot() for part in parts])

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``."""
        cumulative, fading, series = msgspec.msgpack.decode(state, type=tuple[bytes, bytes, bytes])
        self._cumulative.restore(cumulative)
        self._fading.restore(fading)
        self._series.restore(series)
