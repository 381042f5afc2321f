"""Ids that a lane remembers for so many offsets of its topic: what repeats it is a crash, a few batches back.

Whatever comes twice because a lane was repeated comes soon after its first: event times say nothing of how soon, places
in the log do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from weir.online.batch import BoolVector
from weir.online.stages.dedupe import FIXED_KEY, Deduper, bytes_for, floor_of, newest_of
from weir.streams.worker.journal import Entries, JournalEntries, ids_entry

TICK: Final = 256
"""Offsets that count as one place."""


class RememberedIds:
    """Ids by where they were in the log.

    Parameters
    ----------
    offsets : for so many offsets an id is remembered.
    ids : and no more than so many of them for certain, where offsets hold several each.
    key : of their digests, 16 bytes.
    journal : whether to note what is kept, for ``entry``.

    Examples
    --------
    >>> seen = RememberedIds(offsets=1_000, ids=1_000)
    >>> seen.keep(["a", "b"], 0).tolist(), seen.keep(["b", "c"], 300).tolist(), seen.keep(["b"], 5_000).tolist()
    ([True, True], [False, True], [True])
    """

    def __init__(self, offsets: int, ids: int, key: bytes = FIXED_KEY, *, journal: bool = False) -> None:
        self.offsets = offsets
        self.ids = Deduper(np.inf, key=key, most_bytes=bytes_for(ids), journal=journal)
        self._held = Entries()

    @property
    def key(self) -> bytes:
        """Of the digests: to be stored with them."""
        return self.ids.key

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.ids.nbytes

    def keep(self, ids: Sequence[str], offset: int, of: Sequence[str | None] | None = None) -> BoolVector:
        """Tell repeats from what is new, ``(n,) bool``, and remember the latter at ``offset``."""
        return self.ids.keep(ids, np.full(len(ids), float(offset // TICK)), of, self._useful_from(offset))

    def entry(self, next_offset: int) -> tuple[list[bytes], int]:
        """The journal's entry of what was kept since the last, if anything, and how many old ones may go."""
        kept = self.ids.take_journal()
        if not len(kept):
            return [], 0
        self._held.add(newest_of(kept))
        return [ids_entry(kept)], self._held.drop(floor_of(max(self._useful_from(next_offset), self.ids.forced)))

    def restore(self, entries: Sequence[bytes], next_offset: int) -> None:
        """Rebuild it from the entries in the store, oldest first, before ``next_offset``."""
        held = JournalEntries(entries, at=float(next_offset // TICK))
        self.ids.rebuild(held.kept, held.old, self._useful_from(next_offset))
        self._held = Entries(held.newest)

    def _useful_from(self, offset: int) -> float:
        return float((offset - self.offsets) // TICK)
