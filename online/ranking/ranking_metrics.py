"""Recall, NDCG and hit rate of what was told, judged by the next basket, beside lists that need no learner."""

from __future__ import annotations

import msgspec
import numpy as np

from weir.online.errors import stored
from weir.online.metrics.arrays import array_of
from weir.online.ranking.basket_kernel import PLAIN, Ints

LISTS = ("model", *PLAIN)
METRICS = ("recall", "ndcg", "any_hit")
_HALF_LIFE = 5_000.0


class _State(msgspec.Struct):
    sums: bytes
    weights: list[float]


class RankingMetrics:
    """Means over the baskets judged so far: of all, and of recent ones, where each counts half after 5,000 others.

    >>> metrics = RankingMetrics()
    >>> metrics.add(np.array([[7, 5], [7, 8], [8, 9], [5, 7]]), np.array([5, 6, 7]))
    >>> metrics.get(2)["all"]["recall@2"], metrics.get(2)["all"]["recall@2 frequency"]
    (1.0, 0.5)
    """

    def __init__(self) -> None:
        self._sums = np.zeros((2, len(LISTS), len(METRICS)))
        self._weights = [0.0, 0.0]

    @property
    def judged(self) -> int:
        """Baskets so far."""
        return int(self._weights[0])

    def add(self, told: Ints, inside: Ints) -> None:
        """Add a basket of the items ``inside (m,)``, for which each of ``LISTS`` had ``told (L, k)``, -1 for none."""
        hits, most = (told[:, :, None] == inside).any(2), min(told.shape[1], len(inside))
        gains = 1.0 / np.log2(np.arange(told.shape[1]) + 2.0)
        of = np.column_stack([hits.sum(1) / most, hits @ gains / gains[:most].sum(), hits.any(1)])
        keep = 0.5 ** (1.0 / _HALF_LIFE)
        self._sums[1] *= keep
        self._sums += of
        self._weights = [self._weights[0] + 1.0, self._weights[1] * keep + 1.0]

    def get(self, k: int) -> dict[str, dict[str, float]]:
        """By slice, the metrics by name: the model's own (``recall@10``), and those of each other list behind it."""
        if not self._weights[0]:
            return {}
        names = [f"{metric}@{k}" + (f" {of}" if of != LISTS[0] else "") for of in LISTS for metric in METRICS]
        means = [(sums / weight).ravel().tolist() for sums, weight in zip(self._sums, self._weights, strict=True)]
        return {name: dict(zip(names, each, strict=True)) for name, each in zip(("all", "recent"), means, strict=True)}

    def snapshot(self) -> bytes:
        """The whole state."""
        return msgspec.msgpack.encode(_State(self._sums.tobytes(), self._weights))

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``StateError`` when it is of another kind."""
        read = stored(state, _State, "ranking metrics")
        self._sums = array_of("<f8", self._sums.shape, read.sums)
        self._weights = read.weights
