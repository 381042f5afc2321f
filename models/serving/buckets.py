"""Which fixed batch sizes a number of rows is run as (design decision 10). It knows numbers, not models."""

from __future__ import annotations

from collections.abc import Sequence

from weir.models.errors import ModelError

BUCKETS = (1, 8, 32, 128, 512, 2048)
"""Rows of the batches that are run; shapes that vary grow the CUDA arena."""
CALL_ROWS = {"cpu": 32, "cuda": 4096}
"""Rows whose work one more call costs: a CPU rather runs twice than pads, a GPU rather pads."""

Pieces = tuple[tuple[int, int], ...]
"""(rows, bucket) of each piece."""


class Buckets:
    """Cuts ``n`` rows into pieces, each of which is padded to one of ``sizes``.

    Parameters
    ----------
    sizes : rows of a batch, ascending.
    call_rows : what a call costs beside its rows, in rows.

    Raises
    ------
    ModelError : no sizes, or not ascending from at least 1.

    Examples
    --------
    >>> Buckets((1, 8, 32), call_rows=4).plan(70)
    ((32, 32), (32, 32), (6, 8))
    >>> Buckets((1, 8, 32), call_rows=99).plan(12)
    ((12, 32),)
    """

    def __init__(self, sizes: Sequence[int], call_rows: int) -> None:
        self.sizes, self.call_rows = tuple(sizes), call_rows
        if not self.sizes or self.sizes[0] < 1 or list(self.sizes) != sorted(set(self.sizes)):
            raise ModelError(f"buckets are {self.sizes}; give ascending batch sizes from 1 on, such as {BUCKETS}")
        self._plans: dict[int, tuple[int, Pieces]] = {0: (0, ())}

    def plan(self, n: int) -> Pieces:
        """(rows, bucket) of each piece, in order; the cheapest of padding the rest or cutting it once more."""
        whole, rest = divmod(n, self.sizes[-1])
        return ((self.sizes[-1], self.sizes[-1]),) * whole + self._cheapest(rest)[1]

    def _cheapest(self, n: int) -> tuple[int, Pieces]:
        """Cost and pieces of ``n`` rows, fewer than the largest bucket."""
        if n not in self._plans:  # sizes repeat, so each is planned once
            above = next(size for size in self.sizes if size >= n)
            best: tuple[int, Pieces] = (above + self.call_rows, ((n, above),))
            below = max((size for size in self.sizes if size < n), default=0)
            if below:
                cost, pieces = self._cheapest(n - below)
                best = min(best, (below + self.call_rows + cost, ((below, below), *pieces)))
            self._plans[n] = best
        return self._plans[n]
