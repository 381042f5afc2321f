"""Where a prediction that waits was logged: an offset, and the partition, where that is not the one of its lane.

A prediction that followed its entity to another partition stays where it was logged, and is read back from there.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from weir.online.batch import IntVector

_BITS: Final = 48
"""Of a place, the lower ones are the offset: 280 million million records. Above is one more than the partition."""


def places_of(offsets: IntVector, partitions: IntVector, own: int) -> IntVector:
    """The places of records of ``partitions (n,)``, as the lane of partition ``own`` keeps them.

    >>> places = places_of(np.array([7, 7, -1]), np.array([3, 1, 3]), own=3)
    >>> [part.tolist() for part in records_at(places, own=3)]
    [[3, 1, 3], [7, 7, -1]]
    """
    away = (partitions != own) & (offsets >= 0)
    places: IntVector = np.where(away, ((partitions + 1) << _BITS) | offsets, offsets)
    return places


def records_at(places: IntVector, own: int) -> tuple[IntVector, IntVector]:
    """Partition and offset of each place ``(n,)``; the offset of what cannot be read back is -1."""
    away = (places >> _BITS) > 0
    partitions: IntVector = np.where(away, (places >> _BITS) - 1, own)
    offsets: IntVector = np.where(away, places & ((1 << _BITS) - 1), places)
    return partitions, offsets
