"""What is usual for each feature, from a thin, regular sample of recent rows. It knows columns, not their meaning."""

from __future__ import annotations

from copy import copy

import msgspec
import numpy as np

from weir.online.batch import FloatMatrix, FloatVector, IntVector
from weir.online.decisions.feature_name import FeatureName, indicated, missing_in
from weir.online.errors import StateError, stored

ROWS_KEPT_BACK = 16
"""Sampled rows that count together, so that a median is taken anew for every so many, not for each."""


class _State(msgspec.Struct, array_like=True):
    features: tuple[str, ...]
    rows: int
    sample: bytes
    waiting: bytes = b""


class TypicalValues:
    """The median of each feature over a ring of every ``every``-th row.

    A median of a regular sample says what is usual even where most values are 0 or a few are huge, costs next to
    nothing a row, and does not depend on how rows were cut into calls. Sampled rows count from the 1st, 2nd, 4th, 8th
    and every 16th of them on.

    Parameters
    ----------
    features : names of the F columns; missing values are left out.
    every : one row in so many is sampled.
    size : rows in the ring; the sample covers the last ``every * size`` rows.

    Examples
    --------
    >>> usual = TypicalValues(("amount",), every=1, size=3)
    >>> usual.update(np.array([[900.0], [1.0], [2.0], [4.0]]))
    >>> usual.values().tolist()
    [2.0]
    """

    def __init__(self, features: tuple[str, ...], every: int = 16, size: int = 512) -> None:
        if every < 1 or size < 1:
            raise ValueError(f"every={every} and size={size} must be at least 1")
        self.features = features
        self.every = every
        self.size = size
        self._rows = 0
        self._sample = np.full((size, len(features)), np.nan)
        self._waiting = np.empty((0, len(features)))
        """Sampled rows that do not count yet."""
        self._median: FloatVector | None = None
        at = {name: column for column, name in enumerate(features)}
        self._indicated = indicated([FeatureName.parse(name) for name in features], at)

    def update(self, x: FloatMatrix) -> None:
        """Take rows in, ``(n, F) float64``; NaN is a missing value."""
        first = -self._rows % self.every
        if first >= len(x):  # of rows that come one by one nearly none is chosen
            self._rows += len(x)
            return
        chosen = np.array(x[first :: self.every], dtype=np.float64)
        chosen[missing_in(chosen, self._indicated)] = np.nan
        before, self._rows = self._counted, self._rows + len(x)
        self._waiting = np.concatenate([self._waiting, chosen])
        if (new := self._counted - before) > 0:
            # Only the newest rows of a long batch stay in the ring; writing them alone keeps slots unique.
            slots = (before + np.arange(new)[-self.size :]) % self.size
            self._sample[slots], self._waiting = self._waiting[:new][-self.size :], self._waiting[new:]
            self._median = None

    @property
    def _counted(self) -> int:
        """How many sampled rows count."""
        return _counting(-(-self._rows // self.every))

    def values(self) -> FloatVector:
        """Return the typical value of each feature, ``(F,) float64``; NaN where none is known."""
        if self._median is None:
            used = ~np.isnan(self._sample)
            filled = np.sort(self._sample, axis=0)  # NaN sorts last
            count = used.sum(axis=0)
            low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, self.size - 1)
            columns = np.arange(len(self.features))
            middle = filled[low, columns] / 2.0 + filled[high, columns] / 2.0  # their sum may be no number any more
            self._median = np.where(count > 0, middle, np.nan)
        return self._median

    def as_of(self, x: FloatMatrix, at: IntVector) -> tuple[FloatMatrix, FloatMatrix]:
        """Typical values and ``shares`` at rows ``at (k,)``, ascending, of ``x (n, F)``; both are ``(k, F)``.

        ``x`` is what ``update`` takes next. A row sees the rows before it and itself, so that what is typical does not
        depend on how rows are cut into batches.
        """
        then, done = copy(self), 0
        then._sample = self._sample.copy()
        values, shares = np.empty((2, len(at), len(self.features)))
        counted = [_counting((self._rows + row) // self.every + 1) for row in at.tolist()]
        for rows in np.split(np.arange(len(at)), np.flatnonzero(np.diff(counted)) + 1) if len(at) else ():
            upto = int(at[rows[-1]]) + 1
            then.update(x[done:upto])
            values[rows], shares[rows], done = then.values(), then.shares(x[at[rows]]), upto
        return values, shares

    def shares(self, x: FloatMatrix) -> FloatMatrix:
        """Share of the sample that is as far out as each value of rows ``(k, F)``, or further, on the same side.

        0.5 and more is what is usual, next to 0 what is rare. Of a missing value it is the share that is missing.
        """
        held = self._sample[: min(self._counted, self.size)]
        if not len(held):
            return np.zeros(x.shape)
        count, n = np.count_nonzero, len(held)
        # Either side counts what equals the value: of a column that is nearly always 0 a 0 is usual, not rare.
        sides = [np.minimum(count(held >= row, axis=0), count(held <= row, axis=0)) / n for row in x]
        absent = np.isnan(held).mean(axis=0)
        return np.where(missing_in(x, self._indicated), absent, np.reshape(sides, x.shape))

    def snapshot(self) -> bytes:
        """Return the whole state as MessagePack."""
        waiting = self._waiting.tobytes()
        return msgspec.msgpack.encode(_State(self.features, self._rows, self._sample.tobytes(), waiting))

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``StateError`` when it is of other features or another size."""
        held = stored(state, _State, "typical values")
        sample = np.frombuffer(held.sample)
        if held.features != self.features or sample.size != self._sample.size:
            raise StateError("the snapshot is of other features or another sample size; start the typical values anew")
        self._rows, self._sample, self._median = held.rows, sample.reshape(self._sample.shape).copy(), None
        late = -(-self._rows // self.every) - self._counted
        waiting = np.frombuffer(held.waiting)
        # In a snapshot of before none waits: all that were sampled are in the ring already.
        ahead = self._sample[(self._counted + np.arange(late)) % self.size]
        self._waiting = waiting.reshape(ahead.shape) if waiting.size == ahead.size else ahead


def _counting(sampled: int) -> int:
    """Of so many sampled rows, those that count.

    >>> [_counting(n) for n in (0, 1, 3, 9, 15, 16, 31, 32)]
    [0, 1, 2, 8, 8, 16, 16, 32]
    """
    if sampled >= ROWS_KEPT_BACK:
        return sampled - sampled % ROWS_KEPT_BACK
    return 1 << (sampled.bit_length() - 1) if sampled else 0
