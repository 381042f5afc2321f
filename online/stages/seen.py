"""Which predictions of a partition came before, by where they are in its log. It knows ids and places, not why.

What repeats a prediction is a score lane that was repeated after a crash: a few batches further on, whatever the event
times. So places bound the memory: of all tasks together there is one prediction at each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

from weir.online.batch import BoolVector, FloatVector, IntVector, PredictionBatch
from weir.online.errors import UNREADABLE, StateError
from weir.online.stages.dedupe import Deduper, OldIds, bytes_for, is_old, old_state

REMEMBERED: Final = 131_072
"""Offsets for which a prediction is known: 4 MB a partition. The most that is taken again is 50,000 records."""
TICK: Final = 256
"""Offsets that count as one place."""


class SeenPredictions:
    """The newest predictions of one task in one partition.

    Examples
    --------
    >>> seen, one = SeenPredictions(), np.ones(1)
    >>> p = PredictionBatch(["e1"], ["u1"], one, one, np.ones(1, np.int64), one[:, None])
    >>> seen.keep(p, np.array([7])).tolist(), seen.keep(p, np.array([8])).tolist()
    ([True], [False])
    """

    def __init__(self) -> None:
        # Without a window: its times are places, and the floor alone forgets.
        self._ids = Deduper(np.inf, most_bytes=bytes_for(REMEMBERED))
        self._next = 0
        """Behind the last place."""
        self._old: list[OldIds] = []
        """Of an earlier version, which did not say where they were; until there is a place to put them."""

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self._ids.nbytes

    def keep(self, p: PredictionBatch, offsets: IntVector | None = None) -> BoolVector:
        """Tell repeats from what is new, ``(n,) bool``, and remember the latter.

        Parameters
        ----------
        p : predictions in the order of their log.
        offsets : ``(n,)``, where they are; one after the other when not given.
        """
        places = self._places(len(p), offsets)
        if len(p):
            self._next = int(places[-1]) + 1
        if self._old:
            at = float(self._next // TICK)
            # As if they all were at the newest place: they are forgotten a little late, and none too early.
            self._ids.rebuild([], [OldIds(of.ids, np.full(len(of.ids), at)) for of in self._old])
            self._old = []
        return self._ids.keep(p.event_id, _ticks(places), p.entity_id, self._floor())

    def absent(self, p: PredictionBatch, offsets: IntVector | None = None) -> BoolVector:
        """What ``keep`` would say; nothing is remembered."""
        return self._ids.absent(p.event_id, _ticks(self._places(len(p), offsets)), p.entity_id)

    def snapshot(self) -> bytes:
        """The whole state."""
        return self.capture()()

    def capture(self) -> Callable[[], bytes]:
        """Copy the state; the call of what it returns makes a ``snapshot`` of it, in any thread."""
        place, ids = self._next, self._ids.capture(self._floor())
        return lambda: msgspec.msgpack.encode((place, ids()))

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``, also one of the version that remembered ids as text."""
        if is_old(state):
            self._old = old_state(state)
            return
        try:
            self._next, ids = msgspec.msgpack.decode(state, type=tuple[int, bytes])
        except UNREADABLE as error:
            raise StateError(f"not a snapshot of predictions that were seen ({error})") from error
        self._ids.restore(ids)

    def _places(self, n: int, offsets: IntVector | None) -> IntVector:
        return np.arange(self._next, self._next + n) if offsets is None else offsets

    def _floor(self) -> float:
        return float((self._next - REMEMBERED) // TICK)


def _ticks(places: IntVector) -> FloatVector:
    return (places // TICK).astype(np.float64)
