"""What is usual for each feature, from a thin, regular sample of recent rows. It knows columns, not their meaning."""

from __future__ import annotations

from copy import copy

import msgspec
import numpy as np

from weir.online.batch import FloatMatrix, FloatVector, IntVector
from weir.online.decisions.feature_name import FeatureName, indicated, missing_in
from weir.online.errors import StateError, stored


class _State(msgspec.Struct, array_like=True):
    features: tuple[str, ...]
    rows: int
    sample: bytes


class TypicalValues:
    """The median of each feature over a ring of every ``every``-th row.

    A median of a regular sample says what is usual even where most values are 0 or a few are huge, costs next to
    nothing a row, and does not depend on how rows were cut into calls.

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
        self._median: FloatVector | None = None
        at = {name: column for column, name in enumerate(features)}
        self._indicated = indicated([FeatureName.parse(name) for name in features], at)

    def update(self, x: FloatMatrix) -> None:
        """Take rows in, ``(n, F) float64``; NaN is a missing value."""
        first = -self._rows % self.every
        if first >= len(x):  # none of them is sampled, as of most rows that come alone
            self._rows += len(x)
            return
        chosen = np.array(x[first :: self.every], dtype=np.float64)
        chosen[missing_in(chosen, self._indicated)] = np.nan
        slots = ((self._rows + first) // self.every + np.arange(len(chosen))) % self.size
        # Only the newest rows of a long batch stay in the ring; writing them alone keeps slots unique.
        self._sample[slots[-self.size :]] = chosen[-self.size :]
        self._rows += len(x)
        if len(chosen):
            self._median = None

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
        # Rows between two samples see the same sample.
        for rows in np.split(np.arange(len(at)), np.flatnonzero(np.diff((self._rows + at) // self.every)) + 1):
            if not len(rows):
                continue
            upto = int(at[rows[-1]]) + 1
            then.update(x[done:upto])
            values[rows], shares[rows], done = then.values(), then.shares(x[at[rows]]), upto
        return values, shares

    def shares(self, x: FloatMatrix) -> FloatMatrix:
        """Share of the sample that is as far out as each value of rows ``(k, F)``, or further, on the same side.

        0.5 and more is what is usual, next to 0 what is rare. Of a missing value it is the share that is missing.
        """
        held = self._sample[: min(-(-self._rows // self.every), self.size)]
        if not len(held):
            return np.zeros(x.shape)
        count, n = np.count_nonzero, len(held)
        sides = [np.minimum(count(held >= row, axis=0), count(held <= row, axis=0)) / n for row in x]
        absent = np.isnan(held).mean(axis=0)
        return np.where(missing_in(x, self._indicated), absent, np.reshape(sides, x.shape))

    def snapshot(self) -> bytes:
        """Return the whole state as MessagePack."""
        return msgspec.msgpack.encode(_State(self.features, self._rows, self._sample.tobytes()))

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``StateError`` when it is of other features or another size."""
        held = stored(state, _State, "typical values")
        sample = np.frombuffer(held.sample)
        if held.features != self.features or sample.size != self._sample.size:
            raise StateError("the snapshot is of other features or another sample size; start the typical values anew")
        self._rows, self._sample, self._median = held.rows, sample.reshape(self._sample.shape).copy(), None
