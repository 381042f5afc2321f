"""Rows of several lanes as one store, for batches of several partitions that are computed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector
from weir.streams.redis.partitions.partition_store import Lane, LaneStore

Part = tuple[int, slice | NDArray[np.int64], Sequence[str]]
"""Number of a lane, the places of its keys, and these."""


class JointRows:
    """A ``FeatureStore`` over lanes of a `LaneStore`; each row is loaded from and saved to the lane that has its key.

    Parameters
    ----------
    store : whose lanes they are; what is loaded was prefetched there.
    """

    def __init__(self, store: LaneStore) -> None:
        self._store = store
        self._lanes: Sequence[Lane] = ()
        self._lane_of: Mapping[str, int] = {}
        self._last: tuple[Sequence[str], list[Part]] | None = None

    def create(self, table: str, row_bytes: int, schema: int, kept_s: float) -> None:
        """See `LaneStore.create`."""
        self._store.create(table, row_bytes, schema, kept_s)

    def use(self, lanes: Sequence[Lane], lane_of: Mapping[str, int]) -> None:
        """Set the lanes, and which of them has a key; tables of other topics' lanes are read through the first."""
        self._lanes, self._lane_of, self._last = lanes, lane_of, None

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        """Copies of the rows ``(len(keys), row_bytes)``; see `LaneStore.load`."""
        if self._of_one(table):
            return self._store.load(table, keys)
        parts = []
        for lane, place, of_lane in self._parts(keys):
            self._store.use(self._lanes[lane])
            parts.append((place, self._store.load(table, of_lane)))
        if all(isinstance(place, slice) for place, _ in parts):
            return np.concatenate([rows for _, rows in parts])
        out = np.empty((len(keys), parts[0][1].shape[1]), dtype=np.uint8)
        for place, rows in parts:
            out[place] = rows
        return out

    def last_seen(self, table: str, keys: Sequence[str]) -> FloatVector:
        """Event time of the last change of each row; see `LaneStore.last_seen`."""
        if self._of_one(table):
            return self._store.last_seen(table, keys)
        out = np.empty(len(keys))
        for lane, place, of_lane in self._parts(keys):
            self._store.use(self._lanes[lane])
            out[place] = self._store.last_seen(table, of_lane)
        return out

    def _of_one(self, table: str) -> bool:
        """Whether a table is read through the first lane, which is then the used one."""
        # Rows of other topics' lanes were all fetched through the first; see `Scoring._prefetch`.
        if len(self._lanes) > 1 and self._store.tables.owned(self._lanes[0], table):
            return False
        self._store.use(self._lanes[0])
        return True

    def save(self, table: str, keys: Sequence[str], rows: NDArray[np.uint8], seen: FloatVector | float) -> None:
        """Keep the rows; see `LaneStore.save`."""
        each = np.broadcast_to(seen, len(keys))
        for lane, place, of_lane in self._parts(keys):
            self._store.use(self._lanes[lane])
            self._store.save(table, of_lane, rows[place], each[place])

    def _parts(self, keys: Sequence[str]) -> list[Part]:
        """What each lane has of the keys; a list object is looked at once."""
        # By identity: the engine loads and saves with the very same list.
        if self._last is None or self._last[0] is not keys:
            self._last = (keys, self._split(keys))
        return self._last[1]

    def _split(self, keys: Sequence[str]) -> list[Part]:
        if len(self._lanes) == 1:
            return [(0, slice(0, len(keys)), keys)]
        lane = np.fromiter(map(self._lane_of.__getitem__, keys), np.int64, len(keys))
        if (lane[1:] >= lane[:-1]).all():  # one lane after the other, as joined batches name them
            cuts = np.searchsorted(lane, np.arange(len(self._lanes) + 1)).tolist()
            return [(i, slice(a, b), keys[a:b]) for i, (a, b) in enumerate(pairwise(cuts)) if b > a]
        places = [(int(i), np.flatnonzero(lane == i)) for i in np.unique(lane)]
        return [(i, place, [keys[k] for k in place.tolist()]) for i, place in places]
