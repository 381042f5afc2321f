"""The feature store in this process's memory: one slab of rows a table, a dict from key to row."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector, longer
from weir.online.errors import UNREADABLE, StateError
from weir.online.event_time import WITNESSES, extremes
from weir.online.features.compact_rows import compact, expand
from weir.online.features.store import SPARE
from weir.online.jit import plain


class _Table:
    """Rows of one width; freed rows are used again."""

    def __init__(self, row_bytes: int, schema: int, kept_s: float) -> None:
        self.row_bytes, self.schema, self.kept_s = row_bytes, schema, kept_s
        self.slot_of: dict[str, int] = {}
        self.free: list[int] = []
        # The last row is nobody's, and so what a key without a row has: zeros, and no time.
        self.slab = np.zeros((1024, row_bytes), dtype=np.uint8)
        self.updated = np.full(1024, -np.inf)
        self.clock = 0.0
        self.swept = 0.0
        self._last: tuple[Sequence[str], NDArray[np.int64]] | None = None
        self._all_known = True
        """Whether each of the keys that were looked up last has a row."""

    def slots(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Row of each key; a new key gets a row of zeros. A batch saves the very list it loaded: found once."""
        found = self.known(keys)
        if not self._all_known:
            for key in keys:
                if key not in self.slot_of:
                    self.slot_of[key] = self.free.pop() if self.free else len(self.slot_of)
            self._grow(len(self.slot_of))
            self._last = None
            found = self.known(keys)
        return found

    def known(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Row of each key; -1 for one that has none: who only reads keeps nothing."""
        if self._last is not None and self._last[0] is keys:
            return self._last[1]
        held = list(map(self.slot_of.get, keys))
        self._all_known = None not in held
        found = np.array(held if self._all_known else [-1 if slot is None else slot for slot in held], dtype=np.int64)
        self._last = (keys, found)
        return found

    def _grow(self, rows: int) -> None:
        if rows >= len(self.slab):
            size = max(rows + 1, 2 * len(self.slab))
            self.slab, self.updated = longer(self.slab, size), longer(self.updated, size, -np.inf)

    def sweep(self, now: float) -> None:
        """Free the rows that no event in time can find any more, at most once an eighth of the time that they live."""
        step = self.kept_s / 8
        # It looks at every key, so not with each batch; nor again where one clock is far from all others.
        if now - self.swept < step or abs(now - self.clock) < step:
            return
        self.clock = now
        # What three entities have reached: one that dates an event far ahead would end the lives of all others.
        self.swept = float(np.partition(self.updated, -WITNESSES)[-WITNESSES])
        self._last = None
        dead = [k for k, s in self.slot_of.items() if self.updated[s] < self.swept - SPARE * self.kept_s]
        for key in dead:
            slot = self.slot_of.pop(key)
            # Whoever gets the slot next begins with zeros; `slots` does not clear.
            self.slab[slot], self.updated[slot] = 0, -np.inf
            self.free.append(slot)


class MemoryFeatureStore:
    """A ``FeatureStore`` for the embedded host; rows that nothing changes are freed in event time.

    >>> store = MemoryFeatureStore()
    >>> store.create("user", 8, 1, 60.0)
    >>> rows = store.load("user", ["a", "b"]); rows[1] = 7
    >>> store.save("user", ["a", "b"], rows, 1.0)
    >>> store.load("user", ["b"]).tolist()
    [[7, 7, 7, 7, 7, 7, 7, 7]]
    """

    def __init__(self) -> None:
        self._tables: dict[str, _Table] = {}
        # Compiled, or read from disk, here: a snapshot may be made in a child of a fork, which must take no lock.
        compact(np.zeros((0, 8), np.uint8))

    def create(self, table: str, row_bytes: int, schema: int, kept_s: float) -> None:
        """Declare a table; raises ``StateError`` when it holds rows of another width or schema."""
        known = self._tables.get(table)
        if known is None:
            self._tables[table] = _Table(row_bytes, schema, kept_s)
        else:
            _check(table, (known.row_bytes, known.schema), (row_bytes, schema))

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        """Copies of the rows ``(len(keys), row_bytes)``; zeros for a key not seen."""
        t = self._tables[table]
        rows: NDArray[np.uint8] = t.slab[t.known(keys)]
        return rows

    def last_seen(self, table: str, keys: Sequence[str]) -> FloatVector:
        """Event time of the last change of each row, ``(len(keys),)``; -inf for a key not seen."""
        t = self._tables[table]
        seen: FloatVector = t.updated[t.known(keys)]
        return seen

    def save(self, table: str, keys: Sequence[str], rows: NDArray[np.uint8], seen: FloatVector | float) -> None:
        """Keep the rows; ``seen`` is event time, of each key or of all."""
        if not len(keys):
            return
        t = self._tables[table]
        slots = t.slots(keys)
        t.slab[slots] = rows
        t.updated[slots] = np.maximum(t.updated[slots], seen)  # a late batch does not shorten a life
        t.sweep(extremes(plain(seen))[1] if isinstance(seen, np.ndarray) else seen)

    def row(self, table: str, key: str) -> tuple[bytes, float] | None:
        """One row and the event time of its last change; ``None`` without one."""
        t = self._tables[table]
        slot = t.slot_of.get(key)
        return None if slot is None else (t.slab[slot].tobytes(), float(t.updated[slot]))

    def count(self, table: str) -> int:
        """Keys a table holds."""
        return len(self._tables[table].slot_of)

    def snapshot(self) -> bytes:
        """Everything, as msgpack; equal stores give equal bytes."""
        return msgspec.msgpack.encode({name: _dump(t) for name, t in sorted(self._tables.items())})

    def restore(self, state: bytes) -> None:
        """Replace everything by a ``snapshot``; tables declared before must fit it."""
        self._restore(state, fitting=False)

    def restore_fitting(self, state: bytes) -> dict[str, str]:
        """Take of a ``snapshot`` the declared tables that fit; what became of the rows of others, by table."""
        return self._restore(state, fitting=True)

    def _restore(self, state: bytes, *, fitting: bool) -> dict[str, str]:
        try:
            tables = msgspec.msgpack.decode(state, type=dict[str, _Dump])
        except UNREADABLE as exc:
            raise StateError(f"not a snapshot of a feature store: {exc}; start with a fresh state") from exc
        anew = dict[str, str]()
        for name, held in list(tables.items()):
            if fitting and name not in self._tables:
                anew[name] = "it is gone, and its rows with it"
                continue
            known = self._tables.setdefault(name, _Table(held.row_bytes, held.schema, held.kept_s))
            if fitting and (held.row_bytes, held.schema) != (known.row_bytes, known.schema):
                anew[name] = "its rows begin anew, as its aggregates changed, or for how long they are kept"
                continue
            _check(name, (held.row_bytes, held.schema), (known.row_bytes, known.schema))
        for name, t in self._tables.items():
            if fitting and name not in tables:
                anew[name] = "it is new, and has no rows yet"
            kept = name in tables and name not in anew
            # Behind all checks: a snapshot that does not fit leaves everything as it was.
            self._tables[name] = _undump(tables[name], t.kept_s) if kept else _Table(t.row_bytes, t.schema, t.kept_s)
        return anew


def _check(table: str, held: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Raise ``StateError`` where rows have another width or schema than is wanted."""
    if held != wanted:
        raise StateError(
            f"table {table!r} holds rows of {held[0]} B, schema {held[1]:08x}, but the task now wants {wanted[0]} B, "
            f"schema {wanted[1]:08x}: its aggregates changed, or another version of Weir wrote it; start with a fresh "
            "directory"
        )


class _Dump(msgspec.Struct, array_like=True):
    """A table in a snapshot; keys are sorted, so equal tables give equal bytes."""

    row_bytes: int
    schema: int
    kept_s: float
    keys: list[str]
    rows: memoryview | tuple[memoryview, memoryview]
    """Compact rows and the size of each (int64); of a version before, the rows as they are."""
    updated: memoryview
    clock: float
    swept: float


def _dump(t: _Table) -> _Dump:
    keys = sorted(t.slot_of)
    slots = np.array([t.slot_of[k] for k in keys], dtype=np.int64)
    stored, sizes = compact(t.slab[slots])
    rows, updated = (stored.data, sizes.view(np.uint8).data), t.updated[slots].view(np.uint8).data
    return _Dump(t.row_bytes, t.schema, t.kept_s, keys, rows, updated, t.clock, t.swept)


def _undump(d: _Dump, kept_s: float) -> _Table:
    t = _Table(d.row_bytes, d.schema, kept_s)
    slots = t.slots(d.keys)
    if isinstance(d.rows, tuple):
        t.slab[slots] = expand(np.frombuffer(d.rows[0], np.uint8), np.frombuffer(d.rows[1], np.int64), d.row_bytes)
    else:
        t.slab[slots] = np.frombuffer(d.rows, dtype=np.uint8).reshape(len(d.keys), d.row_bytes)
    t.updated[slots] = np.frombuffer(d.updated)
    t.clock, t.swept = d.clock, d.swept
    return t
