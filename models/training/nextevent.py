"""The self-supervised objective: what an entity does next, predicted from its state. Labels play no part.

Four heads on the state: type (cross entropy), log time gap and log amount (Huber), and item, by a hashed table and a
softmax over sampled others (Jean et al. 2015, On using very large target vocabulary), which is also a recommendation
score. A head is there only where the history has something for it to predict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from weir.models.dataset.sequences import NextEvent
from weir.models.types import History, IntVector

_ITEM_WIDTH = 16


@dataclass(frozen=True, slots=True)
class NextSpec:
    """The shape of the heads: which there are, and how wide."""

    types: tuple[str, ...] = ()
    """Names of the types that the type head tells apart; without any there is no such head."""
    amount: bool = False
    buckets: int = 0
    """Hash buckets of the item head; 0 for no such head."""
    negatives: int = 64

    @classmethod
    def of(cls, history: History, buckets: int, negatives: int) -> NextSpec:
        """Choose the heads that a history has targets for."""
        return cls(
            types=history.types if len(history.types) > 1 else (),
            amount=bool(np.isfinite(history.amount).any()),
            buckets=buckets if bool((history.item >= 0).any()) else 0,
            negatives=negatives,
        )


def bucket(item: IntVector, buckets: int) -> IntVector:
    """Hash bucket of each item code, -1 for none (the mixing step of splitmix64).

    >>> bucket(np.array([-1, 5]), 1).tolist()
    [-1, 0]
    """
    z = item.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where(item < 0, -1, ((z ^ (z >> np.uint64(31))) % np.uint64(max(buckets, 1))).astype(np.int64))


@dataclass(frozen=True, slots=True)
class NextTargets:
    """Targets of a batch, each ``(b, L)``: -1 or NaN where there is none. ``negatives`` are ``(k,)`` buckets."""

    type: Tensor
    gap: Tensor
    amount: Tensor
    item: Tensor
    negatives: Tensor


class NextHeads(nn.Module):
    """The heads, and what they need to know of the history: spreads of the targets, popularity of the items."""

    centre: Tensor
    spread: Tensor
    popularity: Tensor

    def __init__(self, spec: NextSpec, hidden: int) -> None:
        super().__init__()
        self.spec = spec
        self.numbers = nn.Linear(hidden, 2 if spec.amount else 1)  # log gap, log amount
        self.kind = nn.Linear(hidden, len(spec.types)) if spec.types else None
        self.query = nn.Linear(hidden, _ITEM_WIDTH) if spec.buckets else None
        self.items = nn.Embedding(spec.buckets, _ITEM_WIDTH) if spec.buckets else None
        self.register_buffer("centre", torch.zeros(2))
        self.register_buffer("spread", torch.ones(2))
        self.register_buffer("popularity", torch.full((spec.buckets,), 1.0 / max(spec.buckets, 1)))

    def fit(self, targets: NextEvent, item: IntVector) -> None:
        """Set centre and spread of gap and amount ``(n,)``, and how frequent each bucket is."""
        for k, v in enumerate((targets.log_gap, targets.log_amount)):
            there = v[np.isfinite(v)].astype(np.float64)
            if len(there):
                # A target that never varies has no spread to divide by.
                self.centre[k], self.spread[k] = float(there.mean()), max(float(there.std()), 1e-3)
        if self.spec.buckets:
            found = bucket(item, self.spec.buckets)
            # One more of each: a bucket nobody has seen must not have the logarithm of 0.
            counts = np.bincount(found[found >= 0], minlength=self.spec.buckets) + 1.0
            self.popularity.copy_(torch.from_numpy((counts / counts.sum()).astype(np.float32)))

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw buckets of other items by their popularity: ``(k,)``."""
        if not self.spec.buckets:
            return np.zeros(0, np.int64)
        edges = np.cumsum(self.popularity.cpu().numpy().astype(np.float64))
        # Shares in float32 do not add up to 1; the minimum below holds a draw that rounds to it.
        found = np.searchsorted(edges / edges[-1], rng.random(self.spec.negatives), side="right")
        return np.minimum(found, self.spec.buckets - 1).astype(np.int64)

    def forward(self, hidden: Tensor, targets: NextTargets, counted: Tensor) -> Tensor:
        """Sum of the losses ``(b, L)`` where ``counted``; each head's is on the scale of one unit a target."""
        numbers = self.numbers(hidden)
        total = self._number(numbers, 0, targets.gap, counted)
        if self.spec.amount:
            total = total + self._number(numbers, 1, targets.amount, counted)
        if self.kind is not None:
            wanted = torch.where(counted, targets.type, -1)
            total = total + functional.cross_entropy(
                self.kind(hidden).flatten(0, 1), wanted.flatten(), ignore_index=-1, reduction="sum"
            )
        if self.items is not None:
            total = total + self._item(hidden, torch.where(counted, targets.item, -1), targets.negatives)
        return total

    def _number(self, numbers: Tensor, k: int, target: Tensor, counted: Tensor) -> Tensor:
        there = counted & torch.isfinite(target)
        wanted = torch.where(there, (target - self.centre[k]) / self.spread[k], 0.0)
        return (functional.smooth_l1_loss(numbers[..., k], wanted, reduction="none") * there).sum()

    def _item(self, hidden: Tensor, wanted: Tensor, negatives: Tensor) -> Tensor:
        """Softmax of the right bucket against drawn ones, each less the log of how often it would be drawn."""
        assert self.query is not None
        assert self.items is not None
        there = wanted >= 0
        query, right = self.query(hidden[there]), wanted[there]  # (p, w), (p,)
        log = torch.log(self.popularity)
        own = (query * self.items(right)).sum(-1) - log[right]
        others = query @ self.items(negatives).T - log[negatives]  # (p, k)
        # A drawn item that is the right one is no wrong answer.
        others = others.masked_fill(right.unsqueeze(1) == negatives, float("-inf"))
        losses: Tensor = torch.logsumexp(torch.cat([own.unsqueeze(1), others], 1), 1) - own
        return losses.sum()
