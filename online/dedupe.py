"""Drop events that were seen before. Knows identifiers and event times, not where the events come from.

Two generations of a dict of id to event time: exact, so no event is ever dropped for a hash collision, and bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from online.batch import BoolVector, FloatVector
from online.errors import StateError

_FORMAT = 1
_State: Any = tuple[int, int, float, dict[str, float], dict[str, float]]


class Deduper:
    """Remembers the ids of the newest events it kept.

    An event is a repeat when its id is remembered and its event time is within ``window_s`` of the one kept. An id is
    remembered until ``capacity / 2`` to ``capacity`` further ids have been kept. So within a partition a redelivery
    is caught if fewer than ``capacity // 2`` new events came in between, and an id used again for another time, as
    counters that start over do, is caught only inside the window. The verdicts do not depend on batch cuts.

    Parameters
    ----------
    capacity : at most this many ids are held, two at least; about 150 bytes each.
    window_s : event seconds.

    Examples
    --------
    >>> dedupe = Deduper(capacity=1_000, window_s=3_600.0)
    >>> dedupe.keep(["a", "b", "a"], np.array([0.0, 1.0, 2.0])).tolist()
    [True, True, False]
    >>> dedupe.keep(["b", "a"], np.array([1.0, 9_000.0])).tolist()
    [False, True]
    """

    def __init__(self, capacity: int = 200_000, window_s: float = 7 * 86_400.0) -> None:
        if capacity < 2:
            raise ValueError(f"capacity is {capacity}, at least 2 ids must be held")
        if not window_s >= 0:
            raise ValueError(f"window_s is {window_s}, give 0 or more seconds")
        self.capacity = capacity
        self.window_s = window_s
        self._new: dict[str, float] = {}
        self._old: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def keep(self, event_ids: Sequence[str], ts: FloatVector) -> BoolVector:
        """Tell repeats from new events and remember the new ones.

        Parameters
        ----------
        event_ids : n ids in arrival order.
        ts : ``(n,) float64``, event times in epoch seconds.

        Returns
        -------
        ``(n,) bool``, False for a repeat.
        """
        if len(event_ids) != len(ts):
            raise ValueError(f"{len(event_ids)} event_ids and {len(ts)} ts; give one time for each id")
        keep = np.ones(len(event_ids), np.bool_)
        times = ts.tolist()
        half = self.capacity // 2
        at = 0
        while at < len(event_ids):
            end = at + half - len(self._new)  # no more than this can be kept before the generations turn
            self._keep_slice(event_ids[at:end], times[at:end], keep[at:end])
            if len(self._new) >= half:
                self._old, self._new = self._new, {}
            at = end
        return keep

    def _keep_slice(self, event_ids: Sequence[str], times: list[float], keep: BoolVector) -> None:
        fresh = dict(zip(event_ids, times, strict=True))
        if (
            len(fresh) == len(event_ids)
            and self._new.keys().isdisjoint(fresh.keys())
            and self._old.keys().isdisjoint(fresh.keys())
        ):
            self._new.update(fresh)  # the usual case, in four C loops
            return
        new, old, window_s = self._new, self._old, self.window_s
        for i, (event_id, time) in enumerate(zip(event_ids, times, strict=True)):
            seen = new.get(event_id)
            if seen is None:
                seen = old.get(event_id)
            if seen is not None and abs(time - seen) <= window_s:
                keep[i] = False
            else:
                new[event_id] = time

    def snapshot(self) -> bytes:
        """The whole memory; equal memories give equal bytes."""
        return msgspec.msgpack.encode((_FORMAT, self.capacity, self.window_s, self._old, self._new))

    def restore(self, state: bytes) -> None:
        """Replace the memory by a ``snapshot``; raises ``StateError`` where it is not one of a deduper built alike."""
        try:
            kind, capacity, window_s, old, new = msgspec.msgpack.decode(state, type=_State)
        except msgspec.MsgspecError as error:
            raise StateError(f"not a snapshot of a Deduper ({error}); start with an empty one") from error
        if (kind, capacity, window_s) != (_FORMAT, self.capacity, self.window_s):
            raise StateError(
                f"a snapshot of format {kind}, capacity {capacity}, window_s {window_s} does not fit format {_FORMAT}, "
                f"capacity {self.capacity}, window_s {self.window_s}; restore it with the settings it was taken with"
            )
        self._old, self._new = old, new
