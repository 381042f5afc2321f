"""Exact metrics over the newest rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector
from weir.online.metrics import metric as base
from weir.online.metrics.arrays import pack, unpack
from weir.online.metrics.ledger import Ledger
from weir.online.metrics.metric import Metrics, ScoredRows, ratios
from weir.online.metrics.ranking import rank_rows

_TINY = float(np.finfo(np.float64).eps)

# Columns of the ring; one float64 matrix keeps the snapshot and the writes simple.
_TS, _SCORE, _Y, _WEIGHT, _THRESHOLD, _SAME = range(6)


class RollingMetrics(Metrics):
    """Metrics over a window; rank metrics are exact, by sorting the window when asked.

    Parameters
    ----------
    rows
        How many, the newest.

    Notes
    -----
    A correction changes the row it replaces in place. If that row has left the window nothing happens. Memory is 48
    bytes a row.

    Examples
    --------
    >>> metrics = RollingMetrics(rows=2)
    >>> one, no = np.ones(3), np.zeros(3, np.bool_)
    >>> y = np.array([False, False, True])
    >>> metrics.add(ScoredRows(["a", "b", "c"], one, np.array([0.9, 0.2, 0.6]), y, one, 0.5 * one, no))
    >>> metrics.get()["accuracy"]
    1.0
    """

    def __init__(self, rows: int = 10_000) -> None:
        if rows < 1:
            raise ValueError(f"rows is {rows}; give a window of 1 row or more")
        self.rows = rows
        # Windows in seconds are gone; the words stay, for snapshots are told apart by them.
        self._kind = f"RollingMetrics v1 rows={rows} seconds=None"
        self._n = 0  # rows seen; row number i lies in slot i % rows
        self._now = -np.inf
        self._last_y = -1.0
        self._ring = np.zeros((rows, 6))
        self._ledger = Ledger(rows)

    def add(self, rows: ScoredRows) -> None:
        """Add checked rows in the order in which their labels became known."""
        done = 0
        for i in np.flatnonzero(rows.correction).tolist():
            # Rows before a correction first: it may be of one of them.
            self._append(rows.slice(done, i))
            self._correct(rows.event_id[i], bool(rows.y[i]), float(rows.weight[i]))
            done = i + 1
        self._append(rows.slice(done, len(rows)))

    def _append(self, rows: ScoredRows) -> None:
        n = len(rows)
        if n == 0:
            return
        label = rows.y.astype(np.float64)
        before = np.concatenate(([self._last_y], label[:-1]))
        same = np.where(before < 0.0, -1.0, (before == label).astype(np.float64))
        columns = np.column_stack((rows.ts, rows.score, label, rows.weight, rows.threshold, same))
        kept = min(n, self.rows)  # of a call longer than the window only its end can stay
        self._ring[np.arange(self._n + n - kept, self._n + n) % self.rows] = columns[n - kept :]
        self._ledger.note_many(rows.event_id[n - kept :], self._n + n - kept, rows.weight[n - kept :].tolist())
        self._n += n
        self._now = max(self._now, float(rows.ts.max()))
        self._last_y = float(label[-1])

    def _correct(self, event_id: str, y: bool, weight: float) -> None:
        earlier = self._ledger.find(event_id)
        # The ledger may remember longer than the window: an id that came again takes one place in it, not two.
        if earlier is not None and earlier[0] >= self._n - self.rows:
            slot = earlier[0] % self.rows
            self._ring[slot, _Y], self._ring[slot, _WEIGHT] = y, weight

    def _slots(self) -> NDArray[np.int64]:
        """Ring slots of the newest rows, oldest first."""
        return np.arange(max(0, self._n - self.rows), self._n) % self.rows

    def get(self) -> dict[str, float]:
        """The metrics by name, undefined ones absent; see ``Metrics.get``. ``n`` counts the rows in the window."""
        held = self._ring[self._slots()]
        out = ratios(len(held), _sums(held), _bins(held))
        return out | rank_rows(held[:, _SCORE], held[:, _Y] > 0.0, held[:, _WEIGHT])

    def snapshot(self) -> bytes:
        """The whole state, 48 bytes a row plus the remembered names."""
        arrays, names = self._ledger.arrays()
        arrays |= {"n": np.array([self._n]), "clock": np.array([self._now, self._last_y])}
        # Only what is in use, oldest first: a ring that is nearly empty makes a small snapshot.
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
