"""A task's prequential metrics: since the start, over the last examples, fading, and as a series over event time."""

from __future__ import annotations

import msgspec
import numpy as np

from weir.online.batch import ExampleBatch, FloatVector, filled
from weir.online.metrics.binned_metrics import CumulativeMetrics, FadingMetrics
from weir.online.metrics.metric import ScoredRows
from weir.online.metrics.rolling import RollingMetrics
from weir.online.metrics.series import MetricPoint, MetricSeries
from weir.online.task.spec import MetricSpec

_NO_ALERT = 2.0
"""Stands for "nothing was to alert yet" where a finite threshold is wanted: no probability reaches it."""
_TOGETHER = 256
"""Rows that are counted at once: where labels come one by one, a call for each costs more than the model."""


class Evaluation:
    """Feeds every slice of the metrics with the same labelled scores, in the order in which labels became known."""

    def __init__(self, spec: MetricSpec) -> None:
        self._cumulative = CumulativeMetrics()
        self._rolling = RollingMetrics(spec.rolling)
        self._fading = FadingMetrics(spec.fading)
        self._series = MetricSeries(self._rolling, spec.every)  # feeds the rolling metrics and notes them
        # What is not counted yet, with its thresholds and watermarks: before anybody looks, it is.
        self._held: list[tuple[ExampleBatch, FloatVector, FloatVector]] = []
        self._rows_held = 0

    def update(self, examples: ExampleBatch, thresholds: FloatVector, now: float | FloatVector = np.inf) -> None:
        """Add labelled scores; ``thresholds (n,)`` are those in force when each was scored, infinite for none.

        ``now`` is the watermark, perhaps of each ``(n,)``: a row of a later time counts as of then, so that its clock
        does not end intervals.
        """
        if len(examples) == 0:
            return
        self._held.append((examples, thresholds, filled(len(examples), now) if isinstance(now, float) else now))
        self._rows_held += len(examples)
        if self._rows_held >= _TOGETHER:
            self._count()

    def _count(self) -> None:
        """Count what is held; metrics do not depend on how rows are cut into calls."""
        if not self._held:
            return
        examples, thresholds, now = zip(*self._held, strict=True)
        e, until = ExampleBatch.concat(examples), np.concatenate(now)
        finite = np.minimum(np.concatenate(thresholds), _NO_ALERT)
        ts = np.minimum(e.ts, np.where(np.isneginf(until), np.inf, until))
        # The same event id of two entities is two events. No id holds a control character.
        events = [f"{entity}\n{event}" for entity, event in zip(e.entity_id, e.event_id, strict=True)]
        rows = ScoredRows(events, ts, e.score, e.y, e.weight, finite, e.correction).checked()
        self._held, self._rows_held = [], 0
        for metrics in (self._cumulative, self._fading, self._series):
            metrics.add(rows)

    def get(self) -> dict[str, dict[str, float]]:
        """``{"cumulative": ..., "rolling": ..., "fading": ...}``; an undefined metric is absent."""
        self._count()
        return {"cumulative": self._cumulative.get(), "rolling": self._rolling.get(), "fading": self._fading.get()}

    def rolling(self) -> dict[str, float]:
        """The rolling metrics alone."""
        self._count()
        return self._rolling.get()

    def points(self) -> list[MetricPoint]:
        """The rolling metrics at the end of each interval of event time."""
        self._count()
        return self._series.points()

    def snapshot(self) -> bytes:
        """The whole state."""
        self._count()
        parts = (self._cumulative, self._fading, self._series)
        return msgspec.msgpack.encode([part.snapshot() for part in parts])

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``."""
        self._held, self._rows_held = [], 0
        cumulative, fading, series = msgspec.msgpack.decode(state, type=tuple[bytes, bytes, bytes])
        self._cumulative.restore(cumulative)
        self._fading.restore(fading)
        self._series.restore(series)
