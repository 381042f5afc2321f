"""Orders the rows of a batch so that the r-th event of every entity is one call of a model.

It knows codes of entities, not what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weir.models.types import IntVector


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """n rows of U entities. Entities are numbered by falling number of rows, so round r is of the first ``sizes[r]``.

    >>> order = PackedSequence.of(np.array([0, 1, 1, 0, 1]), 2)
    >>> order.sizes.tolist(), order.rows.tolist(), order.slots.tolist(), order.entities.tolist()
    ([2, 2, 1], [1, 0, 2, 3, 4], [1, 0, 0, 1, 0], [1, 0])
    """

    entities: IntVector
    """``(U,)`` the code of each place."""
    slots: IntVector
    """``(n,)`` the place of each row's entity."""
    ranks: IntVector
    """``(n,)`` how many rows of its entity come before each row."""
    counts: IntVector
    """``(U,)`` how many rows each place has."""
    rows: IntVector
    """``(n,)`` the rows, round after round and in each by place."""
    sizes: IntVector
    """``(R,)`` how many rows each round has."""
    in_order: bool = False
    """Whether ``rows`` is 0, 1, 2..."""

    @classmethod
    def of(cls, codes: IntVector, entities: int) -> PackedSequence:
        """Of rows with codes in 0 to ``entities`` - 1; a code without rows gets no place."""
        n, per_code = len(codes), np.bincount(codes, minlength=entities)
        # Falling, so that the entities of a round are the first places: a slice, not an index.
        by_count = np.argsort(-per_code, kind="stable")[: np.count_nonzero(per_code)]
        place = np.zeros(entities, np.int64)
        place[by_count] = np.arange(len(by_count))
        slots, counts = place[codes], per_code[by_count]
        by_slot = np.argsort(slots, kind="stable")
        ranks = np.empty(n, np.int64)
        ranks[by_slot] = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
        return cls(by_count, slots, ranks, counts, np.lexsort((slots, ranks)), np.bincount(ranks))

    @classmethod
    def distinct(cls, n: int) -> PackedSequence:
        """Order n rows of as many entities: one round."""
        each = np.arange(n)
        # No rows are no round, not a round of none: a model is not called for it.
        return cls(each, each, np.zeros(n, np.int64), np.ones(n, np.int64), each, np.full(min(n, 1), n), True)


def rounds_of(keys: Sequence[str]) -> tuple[list[str], PackedSequence]:
    """The distinct keys by place, and the order.

    >>> keys, order = rounds_of(["b", "a", "a"])
    >>> keys, order.sizes.tolist()
    (['a', 'b'], [2, 1])
    """
    code_of = dict(zip(dict.fromkeys(keys), range(len(keys)), strict=False))
    if len(code_of) == len(keys):  # the usual case: every row is of another entity
        return list(keys), PackedSequence.distinct(len(keys))
    codes = np.fromiter(map(code_of.__getitem__, keys), np.int64, len(keys))
    order, known = PackedSequence.of(codes, len(code_of)), list(code_of)
    return [known[code] for code in order.entities.tolist()], order
