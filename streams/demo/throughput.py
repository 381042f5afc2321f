"""Throughput and latency of a run, from numbers it is given. It reads no clock."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

_WINDOW_S: Final = 3.0


class Measures:
    """Latency percentiles over batches, and the rate of events over the last seconds.

    Examples
    --------
    >>> m = Measures()
    >>> for second in range(10):
    ...     m.batch(0.004)
    ...     m.progress(float(second), 1000 * second)
    >>> m.rate, m.percentiles_ms, round(m.busy_s, 3)
    (1000.0, (4.0, 4.0, 4.0), 0.04)
    """

    def __init__(self) -> None:
        self._latencies: deque[float] = deque(maxlen=200_000)
        self._progress: deque[tuple[float, int]] = deque()
        self.busy_s = 0.0
        """Time spent on batches: what is left of a run is waiting, simulating and drawing."""
        self.history: list[float] = []
        """Events per second, one value a second."""

    def batch(self, seconds: float) -> None:
        """One batch took this long from its append until its outputs were published."""
        self._latencies.append(seconds)
        self.busy_s += seconds

    def progress(self, elapsed_s: float, events: int) -> None:
        """``events`` had been processed at ``elapsed_s``, both since the start of the run."""
        self._progress.append((elapsed_s, events))
        while self._progress[0][0] < elapsed_s - _WINDOW_S and len(self._progress) > 2:
            self._progress.popleft()
        if elapsed_s >= len(self.history) + 1:
            self.history.append(self.rate)

    @property
    def rate(self) -> float:
        """Events per second over the window."""
        if len(self._progress) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._progress[0], self._progress[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    @property
    def percentiles_ms(self) -> tuple[float, float, float]:
        """p50, p95 and p99 of the latency of a batch, milliseconds; NaN before the first."""
        if not self._latencies:
            return (float("nan"),) * 3
        p50, p95, p99 = np.percentile(np.array(self._latencies) * 1e3, [50, 95, 99]).tolist()
        return p50, p95, p99
