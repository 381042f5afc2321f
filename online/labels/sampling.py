"""Keep a stable, order-free sample of the negatives. It knows event ids and labels, not time or models."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from weir.online.batch import BoolVector, ExampleBatch, FloatVector, IntVector


class NegativeSampler:
    """Keep a negative example when a stable hash of its event id falls below ``rate``.

    Whether a negative is kept depends on its event id and ``salt`` alone, so every replica, any batch cut and any
    arrival order keep the same ones. Weights are Horvitz-Thompson: a negative that was never anything else was kept
    with probability ``rate`` and weighs ``1 / rate``; an event that was positive at any time is always kept, so all
    its corrections weigh 1. A model that learns the sample therefore estimates the same probabilities.

    A correction to positive becomes a plain positive when its negative had been dropped. (Stateless: an event that
    flips a third time, 0-1-0-1, with its first negative dropped, is called plain once more.)

    Parameters
    ----------
    rate : share of negatives to keep, in (0, 1]; 1 keeps every example as it is.
    salt : another salt draws another, independent sample.

    Examples
    --------
    >>> sampler = NegativeSampler(rate=0.25, salt="fraud")
    >>> sampler.keeps(["e1", "e2", "e3", "e4", "e5", "e6"]).tolist()
    [False, False, False, True, False, True]
    """

    def __init__(self, rate: float, salt: str = "") -> None:
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate is {rate}; it must be in (0, 1], use 1 to keep every negative")
        self.rate = rate
        self.salt = salt
        self._salt_bits = np.uint64(zlib.crc32(salt.encode())) << np.uint64(32)

    def uniform(self, event_ids: list[str]) -> FloatVector:
        """Hash ids to ``(n,) float64`` in [0, 1): CRC-32 of the UTF-8 bytes, then a 64-bit finaliser.

        CRC-32 alone is linear, which leaves patterns in numbered ids; the finaliser (MurmurHash3's, Appleby 2011)
        breaks them and lets the salt act.
        """
        crc = np.fromiter(map(zlib.crc32, map(str.encode, event_ids)), dtype=np.uint64, count=len(event_ids))
        mixed = crc | self._salt_bits
        mixed ^= mixed >> np.uint64(33)
        mixed *= np.uint64(0xFF51AFD7ED558CCD)
        mixed ^= mixed >> np.uint64(33)
        mixed *= np.uint64(0xC4CEB9FE1A85EC53)
        mixed ^= mixed >> np.uint64(33)
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def keeps(self, event_ids: list[str]) -> BoolVector:
        """Say for each id whether its event is kept when it is a negative, ``(n,) bool``."""
        return self.uniform(event_ids) < self.rate

    def sample(self, examples: ExampleBatch) -> ExampleBatch:
        """Drop, weigh and re-flag ``examples``; returns them in the same order."""
        if self.rate == 1.0 or len(examples) == 0:
            return examples
        drawn = self.keeps(examples.event_id)
        plain_negative = ~examples.y & ~examples.correction
        weight = np.where(plain_negative, examples.weight / self.rate, examples.weight)
        correction = examples.correction & (drawn | ~examples.y)
        return replace(examples, weight=weight, correction=correction).take(self.kept(examples))

    def kept(self, examples: ExampleBatch) -> IntVector:
        """Which of ``examples`` stay."""
        if self.rate == 1.0:
            return np.arange(len(examples))
        return np.flatnonzero(self.keeps(examples.event_id) | examples.y | examples.correction)
