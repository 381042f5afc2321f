"""Rows of one table of one lane in this worker's memory: a slab, and a dict from key to place. It knows no Redis."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector, longer

Slots = NDArray[np.int64]
PINNED_PREFETCHES: Final = 8
"""What the last so many prefetches named stays: their batches may not have computed yet."""

_KEY_BYTES: Final = 200
"""Of a key and its framed form with their places, beside what they say."""


class RowCache:
    """A bounded cache of packed rows.

    Parameters
    ----------
    row_bytes : width of a row.
    kept_s : how long a row is kept in Redis without a change, at least.
    frame : makes the framed Redis keys of new entities, which are kept beside them.
    owned : whether what is here is newer than what Redis has; a row of another lane is only a copy.
    """

    def __init__(
        self, row_bytes: int, kept_s: float, frame: Callable[[Sequence[str]], list[bytes]], *, owned: bool = True
    ) -> None:
        self.row_bytes, self.kept_s, self.owned = row_bytes, kept_s, owned
        self.slot_of: dict[str, int] = {}
        self.frames: list[bytes] = []
        self.slab = np.zeros((256, row_bytes), dtype=np.uint8)
        self.updated = np.full(256, -np.inf)
        """Event time of each row's last change; -inf without one."""
        self.used = np.zeros(256, dtype=np.int64)
        """Number of the prefetch that last named the row."""
        self.written = np.zeros(256, dtype=np.int64)
        """Number of the step that last changed the row."""
        self.stored = np.zeros(256, dtype=np.bool_)
        """Whether Redis has a row of this key, or will have it with the next flush."""
        self._frame, self._free = frame, list[int]()
        self._found: deque[tuple[Sequence[str], Slots]] = deque(maxlen=PINNED_PREFETCHES)

    def __len__(self) -> int:
        return len(self.slot_of)

    @property
    def nbytes(self) -> int:
        """What it takes in memory, about: of keys, the newest stands for all."""
        rows = self.slab.nbytes + self.updated.nbytes + self.used.nbytes + self.written.nbytes + self.stored.nbytes
        return rows + len(self.frames) * (_KEY_BYTES + 2 * len(self.frames[-1]) if self.frames else 0)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The distinct keys that are not here."""
        slot_of = self.slot_of
        return list(dict.fromkeys(key for key in keys if key not in slot_of))

    def framed(self, keys: Sequence[str]) -> list[bytes]:
        """The framed Redis key of each, here or not."""
        new = self.missing(keys)
        made = dict(zip(new, self._frame(new), strict=True))
        return [made[key] if key in made else self.frames[self.slot_of[key]] for key in keys]

    def slots(self, keys: Sequence[str]) -> Slots:
        """Place of each key; ``KeyError`` names the first that is not here. The same keys are looked up once."""
        # A batch asks for the same keys several times: to touch, to load and to save.
        for known, slots in self._found:
            if known == keys:
                return slots
        found = np.fromiter(map(self.slot_of.__getitem__, keys), dtype=np.int64, count=len(keys))
        self._found.append((keys, found))
        return found

    def put(
        self,
        keys: Sequence[str],
        frames: Sequence[bytes],
        found: NDArray[np.int64],
        rows: NDArray[np.uint8],
        updated: NDArray[np.float64],
    ) -> None:
        """Set the rows of distinct keys as Redis has them.

        Parameters
        ----------
        keys, frames : ``(n,)``, the entities and their framed Redis keys.
        found : ``(m,)``, which of them Redis has; the others become zeros.
        rows, updated : ``(m, row_bytes)`` and ``(m,)``, what it has.
        """
        for key, frame in zip(keys, frames, strict=True):
            if key not in self.slot_of:
                self.slot_of[key] = self._place(frame)
        self._grow(len(self.frames))
        slots = np.fromiter(map(self.slot_of.__getitem__, keys), dtype=np.int64, count=len(keys))
        self.stored[slots] = False
        if len(found) < len(keys):
            self.slab[slots], self.updated[slots] = 0, -np.inf
            slots = slots[found]
        self.slab[slots], self.updated[slots], self.stored[slots] = rows, updated, True

    def _place(self, frame: bytes) -> int:
        if self._free:
            slot = self._free.pop()
            self.frames[slot] = frame
            return slot
        self.frames.append(frame)
        return len(self.frames) - 1

    def _grow(self, rows: int) -> None:
        if rows <= len(self.slab):
            return
        size = max(rows, 2 * len(self.slab))
        for name in ("slab", "updated", "used", "written", "stored"):
            setattr(self, name, longer(getattr(self, name), size))

    def touch(self, keys: Sequence[str], prefetch: int) -> None:
        """Note that a prefetch named these keys, all of them here."""
        self.used[self.slots(keys)] = prefetch

    def load(self, keys: Sequence[str]) -> NDArray[np.uint8]:
        """Copies of the rows ``(len(keys), row_bytes)``."""
        return self.slab[self.slots(keys)]

    def last_seen(self, keys: Sequence[str]) -> FloatVector:
        """Event time of the last change of each row, ``(len(keys),)``; -inf without one."""
        return self.updated[self.slots(keys)]

    def save(self, keys: Sequence[str], rows: NDArray[np.uint8], seen: FloatVector | float, step: int) -> Slots:
        """Keep the rows; ``seen`` is event time, of each key or of all."""
        slots = self.slots(keys)
        self.slab[slots] = rows
        self.updated[slots] = np.maximum(self.updated[slots], seen)  # a late batch does not shorten a life
        self.written[slots] = step
        return slots

    def evict(self, limit: int, prefetch: int, flushed: int) -> int:
        """Where there are more than ``limit`` rows, drop the least lately named until a quarter is free.

        Parameters
        ----------
        limit : rows to keep at most; more stay where what is pinned is more.
        prefetch : number of the newest prefetch.
        flushed : rows written by later steps than this are not in Redis yet, and stay.

        Returns
        -------
        int
            Rows dropped.
        """
        if len(self.slot_of) <= limit:
            return 0
        keys = list(self.slot_of)
        slots = np.fromiter(self.slot_of.values(), dtype=np.int64, count=len(keys))
        used = self.used[slots]
        may = np.flatnonzero((used <= prefetch - PINNED_PREFETCHES) & (self.written[slots] <= flushed))
        # A quarter at once, as it looks through all rows: one by one it would do so at each batch.
        wanted = len(keys) - 3 * limit // 4
        oldest = may[np.argsort(used[may], kind="stable")[:wanted]]
        for i, slot in zip(oldest.tolist(), slots[oldest].tolist(), strict=True):
            del self.slot_of[keys[i]]
            self._free.append(slot)
            # A slot that is used again has not been changed by any step.
            self.written[slot] = 0
        # What it says of these keys is not true any more.
        self._found.clear()
        return len(oldest)
