"""Exact metrics over the newest rows, or over the newest seconds of event time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weir.online.metrics import metric as base
from weir.online.metrics.arrays import pack, unpack
from weir.online.metrics.ledger import Ledger
from weir.online.metrics.metric import FloatVector, Metrics, ScoredRows, ratios
from weir.online.metrics.ranking import rank_rows

_TINY = float(np.finfo(np.float64).eps)

# Columns of the ring; one float64 matrix keeps the snapshot and the writes simple.
_TS, _SCORE, _Y, _WEIGHT, _THRESHOLD, _SAME = range(6)


class RollingMetrics(Metrics):
    """Metrics over a window; rank metrics are exact, by sorting the window when asked.

    Parameters
    ----------
    rows
        The newest rows kept. A window in seconds that would hold more than this is cut to the newest ``rows``.
    seconds
        If given, only rows whose event time is within this many seconds of the newest event time seen. A label that
        takes longer than the window to arrive is never in it.

    Notes
    -----
    A correction changes the row it replaces in place: the one named by ``event_id``, else the newest of the window
    with the same score and the other class. If that row has left the window nothing happens. Memory is 48 bytes a row.

    Examples
    --------
    >>> metrics = RollingMetrics(rows=2)
    >>> metrics.update(ts=[0.0, 1.0, 2.0], score=[0.9, 0.2, 0.6], y=[0, 0, 1])
    >>> metrics.get()["accuracy"]
    1.0
    """

    def __init__(self, rows: int = 10_000, seconds: float | None = None) -> None:
        if rows < 1:
            raise ValueError(f"rows is {rows}; give a window of 1 row or more")
        if seconds is not None and not seconds > 0.0:
            raise ValueError(f"seconds is {seconds}; give a positive window or None")
        self.rows = rows
        self.seconds = seconds
        self._kind = f"RollingMetrics v1 rows={rows} seconds={seconds}"
        self._n = 0  # rows seen; row number i lies in slot i % rows
        self._now = -np.inf
        self._last_y = -1.0
        self._ring = np.zeros((rows, 6))
        self._ledger = Ledger(rows)

    def add(self, rows: ScoredRows, event_id: Sequence[str] | None = None) -> None:
        """Add checked rows in the order in which their labels became known; see ``Metrics.update``."""
        if event_id is not None and len(event_id) != len(rows):
            raise ValueError(f"event_id has {len(event_id)} names for {len(rows)} rows; pass one a row or None")
        done = 0
        for i in np.flatnonzero(rows.correction).tolist():
            self._append(rows[done:i], event_id[done:i] if event_id is not None else None)
            self._correct(rows[i : i + 1], event_id[i] if event_id is not None else None)
            done = i + 1
        self._append(rows[done:], event_id[done:] if event_id is not None else None)

    def _append(self, rows: ScoredRows, event_id: Sequence[str] | None) -> None:
        n = len(rows)
        if n == 0:
            return
        label = rows.y.astype(np.float64)
        before = np.concatenate(([self._last_y], label[:-1]))
        same = np.where(before < 0.0, -1.0, (before == label).astype(np.float64))
        columns = np.column_stack((rows.ts, rows.score, label, rows.weight, rows.threshold, same))
        kept = min(n, self.rows)  # of a call longer than the window only its end can stay
        self._ring[np.arange(self._n + n - kept, self._n + n) % self.rows] = columns[n - kept :]
        if event_id is not None:
            for i in range(n - kept, n):
                self._ledger.note(event_id[i], self._n + i, float(rows.weight[i]))
        self._n += n
        self._now = max(self._now, float(rows.ts.max()))
        self._last_y = float(label[-1])

    def _correct(self, row: ScoredRows, event_id: str | None) -> None:
        slot = self._named(event_id) if event_id is not None else self._matching(row)
        if slot is not None:
            self._ring[slot, _Y] = row.y[0]
            self._ring[slot, _WEIGHT] = row.weight[0]

    def _named(self, event_id: str) -> int | None:
        earlier = self._ledger.find(event_id)
        # The ledger may remember longer than the window when not all rows are named.
        return None if earlier is None or earlier[0] < self._n - self.rows else earlier[0] % self.rows

    def _matching(self, row: ScoredRows) -> int | None:
        window = self._slots()
        held = self._ring[window]
        found = np.flatnonzero((held[:, _SCORE] == row.score[0]) & (held[:, _Y] != row.y[0]))
        return int(window[found[-1]]) if len(found) else None

    def _slots(self) -> NDArray[np.int64]:
        """Ring slots of the newest rows, oldest first."""
        return np.arange(max(0, self._n - self.rows), self._n) % self.rows

    def _window(self) -> NDArray[np.float64]:
        held = self._ring[self._slots()]
        return held if self.seconds is None else held[held[:, _TS] > self._now - self.seconds]

    def get(self) -> dict[str, float]:
        """The metrics by name, undefined ones absent; see ``Metrics.get``. ``n`` counts the rows in the window."""
        held = self._window()
        out = ratios(len(held), _sums(held), _bins(held))
        rank_rows(held[:, _SCORE], held[:, _Y] > 0.0, held[:, _WEIGHT]).into(out)
        return out

    def snapshot(self) -> bytes:
        """The whole state, 48 bytes a row plus the remembered names."""
        arrays, names = self._ledger.arrays()
        arrays |= {"n": np.array([self._n]), "clock": np.array([self._now, self._last_y])}
        arrays |= {"held": self._ring[self._slots()]}
        return pack(self._kind, arrays, names)

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``ValueError`` when it is of another kind."""
        arrays, names = unpack(self._kind, state)
        self._ledger.load(arrays, names)
        self._n = int(arrays["n"][0])
        self._now, self._last_y = arrays["clock"].tolist()
        self._ring = np.zeros((self.rows, 6))
        self._ring[self._slots()] = arrays["held"]


def _sums(held: NDArray[np.float64]) -> FloatVector:
    score, weight, positive = held[:, _SCORE], held[:, _WEIGHT], held[:, _Y] > 0.0
    alert = score >= held[:, _THRESHOLD]
    inside = np.clip(score, _TINY, 1.0 - _TINY)
    sums = np.zeros(base.SUMS)
    sums[base.W] = weight.sum()
    sums[base.TP] = weight[alert & positive].sum()
    sums[base.FP] = weight[alert & ~positive].sum()
    sums[base.TN] = weight[~alert & ~positive].sum()
    sums[base.FN] = weight[~alert & positive].sum()
    sums[base.LOG_LOSS] = -(weight * np.log(np.where(positive, inside, 1.0 - inside))).sum()
    sums[base.SQUARED] = (weight * (score - positive) ** 2).sum()
    sums[base.LAST_W] = weight[held[:, _SAME] >= 0.0].sum()
    sums[base.LAST_SAME] = weight[held[:, _SAME] > 0.0].sum()
    return sums


def _bins(held: NDArray[np.float64]) -> NDArray[np.float64]:
    n = base.RELIABILITY_BINS
    place = np.minimum((held[:, _SCORE] * n).astype(np.int64), n - 1)
    weight = held[:, _WEIGHT]
    parts = (weight, weight * held[:, _SCORE], weight * held[:, _Y])
    return np.column_stack([np.bincount(place, weights=part, minlength=n) for part in parts])
