"""Metrics over event time: what they were at the end of each interval, for a report or a chart."""

from __future__ import annotations

from typing import Final, TypedDict

import msgspec
import numpy as np

from weir.online.errors import StateError, stored
from weir.online.metrics.metric import Metrics, ScoredRows

# Beyond it the oldest points are dropped, so that memory is bounded.
_MOST_POINTS: Final = 100_000


class MetricPoint(TypedDict):
    """The metrics at the end of one interval that brought rows."""

    ts: float
    """End of the interval, epoch seconds."""
    n: int
    """Rows that came since the point before, corrections included."""
    metrics: dict[str, float]


class _State(msgspec.Struct):
    every_s: float
    metrics: bytes
    points: list[MetricPoint]
    interval: int | None
    n: int


class MetricSeries:
    """Feeds ``metrics`` and notes their values every ``every_s`` seconds of event time.

    Time is the newest event time among the rows fed, so an old row that is labelled late belongs to the interval in
    which it became known. An interval without rows gives no point.

    Parameters
    ----------
    metrics
        What to feed and read; do not feed it elsewhere.
    every_s
        Length of an interval; intervals start at multiples of it.

    Examples
    --------
    >>> from weir.online.metrics.binned_metrics import CumulativeMetrics
    >>> series = MetricSeries(CumulativeMetrics(), every_s=60.0)
    >>> ts, score, y = np.array([0.0, 59.0, 61.0]), np.array([0.9, 0.8, 0.1]), np.array([True, False, False])
    >>> series.add(ScoredRows(["a", "b", "c"], ts, score, y, np.ones(3), np.full(3, 0.5), np.zeros(3, np.bool_)))
    >>> [(point["ts"], point["n"], round(point["metrics"]["accuracy"], 2)) for point in series.points()]
    [(60.0, 2, 0.5), (120.0, 1, 0.67)]
    """

    def __init__(self, metrics: Metrics, every_s: float) -> None:
        if not every_s > 0.0:
            raise ValueError(f"every_s is {every_s}; give a positive number of seconds")
        self.metrics = metrics
        self.every_s = every_s
        self._points: list[MetricPoint] = []
        self._interval: int | None = None
        self._n = 0

    def add(self, rows: ScoredRows) -> None:
        """Add checked rows, closing each interval that event time has left."""
        if len(rows) == 0:
            return
        interval = np.floor(np.maximum.accumulate(rows.ts) / self.every_s).astype(np.int64)
        if self._interval is not None:
            interval = np.maximum(interval, self._interval)
        starts = np.flatnonzero(np.diff(interval, prepend=interval[0] - 1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            self._enter(int(interval[start]))
            self.metrics.add(rows.slice(start, end))
            self._n += end - start

    def _enter(self, interval: int) -> None:
        if self._interval is not None and interval > self._interval:
            self._points.append(self._point(self._interval))
            del self._points[:-_MOST_POINTS]
            self._n = 0
        self._interval = interval

    def _point(self, interval: int) -> MetricPoint:
        return {"ts": (interval + 1) * self.every_s, "n": self._n, "metrics": self.metrics.get()}

    def points(self) -> list[MetricPoint]:
        """Every closed interval's point, and the one that is still open as it stands."""
        return self._points + ([] if self._interval is None else [self._point(self._interval)])

    def snapshot(self) -> bytes:
        """The points so far and the state of ``metrics``."""
        state = _State(self.every_s, self.metrics.snapshot(), self._points, self._interval, self._n)
        return msgspec.msgpack.encode(state)

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``StateError`` when it is of another kind."""
        read = stored(state, _State, "a MetricSeries")
        if read.every_s != self.every_s:
            raise StateError(f"snapshot has intervals of {read.every_s} s, this series {self.every_s} s; use the same")
        self.metrics.restore(read.metrics)
        self._points, self._interval, self._n = read.points, read.interval, read.n
