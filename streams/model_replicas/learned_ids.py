"""Which examples were learned already: the identities of the newest so many, and nothing else.

A label lane that starts again publishes its last examples again. Every replica must call the same records repeats, so
what is remembered depends on the examples learned and on nothing else: not on when a replica started, nor on how it cut
its reads. Identities are kept as 64-bit hashes; that two of 200,000 agree by chance has a probability of 1e-9, and
would cost one example, the same one on every replica.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from weir.online.batch import BoolVector, IntVector
from weir.streams.errors import StateError

CAPACITY: Final = 200_000
"""Part of what a model is: replicas with different memories could learn different examples."""


class Identities:
    """Remembers the newest ``capacity`` identities that were new.

    Examples
    --------
    >>> seen = Identities()
    >>> seen.keep(["a", "a", "b"], np.array([0, 1, 0])).tolist()
    [True, True, True]
    >>> seen.keep(["a", "c"], np.array([1, 0])).tolist()
    [False, True]
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self._ring = np.zeros(capacity, np.uint64)
        self._held: set[int] = set()
        self._count = 0

    def keep(self, event_ids: Sequence[str], n: IntVector) -> BoolVector:
        """Tell repeats from new examples and remember the new ones; ``n`` counts earlier examples of an event."""
        fresh = np.ones(len(event_ids), np.bool_)
        held, ring = self._held, self._ring
        for i, (event_id, number) in enumerate(zip(event_ids, n.tolist(), strict=True)):
            name = f"{event_id}\0{number}".encode()
            identity = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
            if identity in held:
                fresh[i] = False
                continue
            slot = self._count % self.capacity
            if self._count >= self.capacity:
                held.discard(int(ring[slot]))
            ring[slot] = identity
            held.add(identity)
            self._count += 1
        return fresh

    def snapshot(self) -> bytes:
        """What is remembered, oldest first: 8 bytes each."""
        slot = self._count % self.capacity
        whole = np.concatenate([self._ring[slot:], self._ring[:slot]]) if self._count > self.capacity else self._ring
        return whole[: min(self._count, self.capacity)].astype("<u8").tobytes()

    def restore(self, state: bytes) -> None:
        """Replace the memory by a ``snapshot``; raises ``StateError`` where it is not one."""
        if len(state) % 8 or len(state) > 8 * self.capacity:
            raise StateError(f"{len(state)} B are no memory of at most {self.capacity} identities of 8 B")
        held = np.frombuffer(state, "<u8")
        self._ring[: len(held)] = held
        self._count = len(held)
        self._held = set(held.tolist())
