"""Which labels came before, by their ids. It knows nothing else of a label."""

from __future__ import annotations

import numpy as np

from weir.online.batch import IntVector
from weir.online.digests import Digests
from weir.online.labels.row_tables import FirstRows
from weir.online.rows import NumberedRows


class SeenLabels:
    """The last ``most`` different ids, as digests.

    >>> from weir.online.digests import digests
    >>> seen = SeenLabels(1)
    >>> seen.new(digests(["a", "a", "b"])).tolist(), seen.new(digests(["b", "a"])).tolist()
    ([0, 2], [1])
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._ids = NumberedRows({"digest": (np.uint64, 2), "ts": (np.float64, 0)})
        self._table = FirstRows(self._ids)

    @property
    def nbytes(self) -> int:
        """What they take in memory."""
        return self._ids.nbytes + self._table.nbytes

    def new(self, ids: Digests) -> IntVector:
        """Remember ids; which of them, ``(k,)``, are not among the last."""
        # One time for all: ids are forgotten by their number alone.
        always = np.zeros(len(ids))
        fresh, _ = self._table.claim(ids, always, always, 0.0, self.most)
        self._ids.leave(self._ids.stop - self.most)
        return fresh

    def held(self) -> Digests:
        """The ids, a view that stays as it is."""
        return self._ids["digest"]

    def restore(self, stored: bytes) -> None:
        """Replace all by the bytes of what was ``held``."""
        ids = np.frombuffer(stored, np.uint64).reshape(-1, 2)
        self._ids.restore(0, {"digest": ids, "ts": np.zeros(len(ids))})
        self._table.rebuild()
