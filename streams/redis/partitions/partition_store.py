"""Feature rows in Redis, for a worker: cached while it owns the lane, written with the lane's position in one step.

A lane is a partition with its state. All of a lane is under one hash tag: its rows, its record (`LaneRecord`: where the
log goes on) and its journal (what the host wants kept besides rows). A flush compares the record's position with the
one this worker left, and sets rows, record and journal in one Lua call: rows and position change together or not at
all, also when Redis crashes, and a worker that lost the lane is refused (`LaneMoved`).

Compute is synchronous: ``prefetch`` before it brings the rows into memory, ``load`` and ``save`` touch memory only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector
from weir.online.errors import StateError
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.flush import FLUSH, Change, Writes, flush_arguments
from weir.streams.redis.partitions.open_partition import Ask, LaneState, fetch
from weir.streams.redis.partitions.partition_record import (
    POSITION_AND_NONCE,
    LaneRecord,
    decode_position,
    decode_record,
    encode_position,
    encode_record,
    read_lane,
    read_position,
)
from weir.streams.redis.partitions.row_cache import RowCache
from weir.streams.redis.partitions.stored_tables import StoredTables
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.redis.stored_rows import Lane, StoredRow, decode_row, lane_prefix, row_key

__all__ = ["Lane", "LaneRecord", "LaneStore", "Writes"]

log = logging.getLogger(__name__)
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]+")


class LaneStore:
    """The feature store of one worker.

    Parameters
    ----------
    link : a started link.
    prefix : what the keys begin with.
    cache_rows : rows kept in memory, over all lanes and tables.

    Examples
    --------
    One batch of a lane::

        await store.open(lane)
        await store.prefetch(lane, {"fraud.user": ["u1", "u2"]})
        store.use(lane)
        rows = store.load("fraud.user", ["u1", "u2"])  # the engine does this, changes them
        store.save("fraud.user", ["u1", "u2"], rows, seen)  # and this
        writes = store.end_step(lane, last_offset)
        await store.flush(lane, [writes], store.record(lane, last_offset + 1), expected)
    """

    def __init__(self, link: RedisClient, *, prefix: str = "weir", cache_rows: int = 400_000) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"prefix {prefix!r} may hold letters, digits, '.', '_' and '-', and must hold one of them")
        self.prefix, self.cache_rows = prefix, cache_rows
        self._link = link
        self.tables = StoredTables(link, prefix)
        self._lanes: dict[Lane, LaneState] = {}
        self._used: LaneState | None = None
        self.wanted = self.missed = self.new = 0
        """Rows that batches asked for since the start, those that were read from Redis, and those it did not have."""
        self.takes_new = True
        """Whether rows that Redis does not have yet are written. In a store that is nearly full they are not: ids that
        nobody can foresee would use up what the rows of known entities, positions and journals need."""
        self.unkept = 0
        """Changes of new rows since the start that were not written, because ``takes_new`` was false."""

    def create(self, table: str, row_bytes: int, schema: int, kept_s: float) -> None:
        """Declare a table; raises ``StateError`` when it was declared with another width or schema."""
        self.tables.create(table, row_bytes, schema, kept_s)

    # -- a lane's life -------------------------------------------------------------------------------------------

    async def open(self, lane: Lane) -> LaneRecord | None:
        """Forget what is cached of the lane and read its record; ``None`` when it has none.

        Raises
        ------
        StateError
            A table's schema is not the one its rows were written with, or the journal is not whole.
        """
        self.close(lane)
        base = lane_prefix(self.prefix, lane)
        value, journal = await read_lane(self._link, base)
        record = None if value is None else decode_record(value)
        self._check(lane, record, journal)
        if record is not None:
            self._tell_missed(lane, record)
        self._lanes[lane] = LaneState(lane, base, record, b"" if value is None else value[POSITION_AND_NONCE], journal)
        return record

    def _tell_missed(self, lane: Lane, record: LaneRecord) -> None:
        for table, offset in self.tables.missed(record).items():
            log.warning(
                "%s-%d: rows of table %s miss the records from offset %d to %d: they were processed by workers without "
                "this task, or with another version of it. Windows that reach back so far say too little; 'weir "
                "features rebuild' fills them from Kafka",
                *lane, table, offset, record.next_offset - 1,
            )  # fmt: skip

    def _check(self, lane: Lane, record: LaneRecord | None, journal: list[bytes]) -> None:
        entries = record.journal if record is not None else 0
        if entries != len(journal):
            raise StateError(
                f"{lane[0]}-{lane[1]}: the journal in Redis has {len(journal)} entries, its record says {entries}: "
                "someone deleted a key (or maxmemory-policy did): run 'weir features rebuild'"
            )
        self.tables.check({} if record is None else record.schemas)

    async def load_journal(self, lane: Lane) -> list[bytes]:
        """The journal as it was when the lane was opened, oldest entry first; it is handed out once."""
        return self._state(lane).take_journal()

    def close(self, lane: Lane) -> None:
        """Forget what is cached of the lane."""
        state = self._lanes.pop(lane, None)
        if state is not None and state is self._used:
            self._used = None

    def written(self, lane: Lane) -> int | None:
        """The next offset of the record that this worker last read or wrote; ``None`` for a lane without one."""
        record = self._state(lane).record
        return None if record is None else record.next_offset

    async def untouched(self, lane: Lane) -> bool:
        """Whether the record in Redis is still the one that this worker last read or wrote: then so are the rows."""
        state = self._state(lane)
        return await read_position(self._link, state.base) == state.position

    def use(self, lane: Lane) -> None:
        """Set the lane that ``load`` and ``save`` speak of."""
        self._used = self._state(lane)

    def _state(self, lane: Lane) -> LaneState:
        try:
            return self._lanes[lane]
        except KeyError:
            raise LookupError(f"lane {lane[0]}-{lane[1]} is not open; await open(...) first") from None

    def _cache(self, state: LaneState, table: str) -> RowCache:
        cache = state.caches.get(table)
        if cache is None:
            cache = state.caches[table] = state.new_cache(self.tables[table], self.tables.sides.get(table), self.prefix)
        return cache

    # -- a batch -------------------------------------------------------------------------------------------------

    def lacks(self, lane: Lane, wanted: Mapping[str, Sequence[str]]) -> bool:
        """Whether a prefetch of these keys will have to ask Redis."""
        state = self._state(lane)
        for table, keys in wanted.items():
            cache = self._cache(state, table)
            if not cache.owned or cache.missing(keys):
                return True
        return False

    async def prefetch(self, lane: Lane, wanted: Mapping[str, Sequence[str]]) -> None:
        """Bring the rows of these keys into memory, by table; a key that Redis does not have is a row of zeros.

        One ``MGET`` for what is not cached, and for side rows always. At most 8 prefetches may wait for their compute.

        Raises
        ------
        LaneMoved
            The lane's record is no longer where this worker left it.
        StateError
            A row has another width or schema than its table.
        """
        state = self._state(lane)
        # One at a time: two prefetches of the same keys would put a row over one that was changed in between.
        async with state.reading:
            state.prefetches += 1
            asks: list[Ask] = []
            for table, keys in wanted.items():
                cache = self._cache(state, table)
                # Rows of other lanes always, as their owner may have written them since.
                if needed := cache.missing(keys) if cache.owned else list(dict.fromkeys(keys)):
                    asks.append(Ask(self.tables[table], cache, needed, cache.framed(needed)))
                self.wanted, self.missed = self.wanted + len(keys), self.missed + len(needed)
            if asks:
                self.new += await fetch(self._link, state, asks)
            for table, keys in wanted.items():
                state.caches[table].touch(keys, state.prefetches)
            self._evict(state)

    def cached(self) -> dict[str, int]:
        """Rows in memory, by topic of their lanes."""
        held: dict[str, int] = {}
        for (topic, _), state in self._lanes.items():
            held[topic] = held.get(topic, 0) + sum(len(cache) for cache in state.caches.values())
        return held

    def cached_bytes(self) -> int:
        """What rows in memory take."""
        return sum(cache.nbytes for state in self._lanes.values() for cache in state.caches.values())

    def _evict(self, state: LaneState) -> None:
        caches = sum(len(s.caches) for s in self._lanes.values())
        share = self.cache_rows // max(caches, 1)  # a lane whose models keep no state has none
        for cache in state.caches.values():
            cache.evict(share, state.prefetches, state.flushed)

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        """Copies of the rows ``(len(keys), row_bytes)`` of the used lane; zeros for what is new.

        Raises
        ------
        LookupError
            A key was not prefetched, or no lane is in use.
        """
        state = self._current()
        try:
            return self._cache(state, table).load(keys)
        except KeyError as exc:
            raise LookupError(_not_prefetched(state, table, exc.args[0])) from None

    def last_seen(self, table: str, keys: Sequence[str]) -> FloatVector:
        """Event time of the last change of each row of the used lane, ``(len(keys),)``; see `load`."""
        state = self._current()
        try:
            return self._cache(state, table).last_seen(keys)
        except KeyError as exc:
            raise LookupError(_not_prefetched(state, table, exc.args[0])) from None

    def save(self, table: str, keys: Sequence[str], rows: NDArray[np.uint8], seen: FloatVector | float) -> None:
        """Keep the rows; ``rows`` belongs to the store from here on, and must not be changed.

        Parameters
        ----------
        table, keys : whose rows; all prefetched.
        rows : ``(len(keys), row_bytes) uint8``.
        seen : event time, epoch seconds, of each key or of all.
        """
        state = self._current()
        cache = self._cache(state, table)
        if not cache.owned:
            raise LookupError(
                f"table {table!r} belongs to the lanes of {self.tables.sides[table][0]}; {state.name} may only read "
                "it: send an update there"
            )
        try:
            slots = cache.save(keys, rows, seen, state.step)
        except KeyError as exc:
            raise LookupError(_not_prefetched(state, table, exc.args[0])) from None
        known = self.tables[table]
        if self.takes_new:
            cache.stored[slots] = True
        # In memory they count all the same: the batches to come see them until they are evicted.
        elif not (keep := cache.stored[slots]).all():
            self.unkept += len(slots) - int(keep.sum())
            slots, rows = slots[keep], rows[keep]
        state.changes.append(Change(known.key, known.schema, cache, slots, rows, cache.updated[slots]))

    def _current(self) -> LaneState:
        if self._used is None:
            raise LookupError("no lane is in use: call use(lane) before computing")
        return self._used

    def end_step(self, lane: Lane, offset: int) -> Writes:
        """What was saved since the last step ended; ``offset`` is that of the step's last record."""
        return self._state(lane).end_step(offset)

    # -- writing -------------------------------------------------------------------------------------------------

    def record(self, lane: Lane, next_offset: int, mark: bytes = b"") -> LaneRecord:
        """A record to flush; ``flush`` fills in what the store itself wants to know later."""
        self._state(lane)
        return LaneRecord(next_offset=next_offset, mark=mark)

    async def flush(
        self,
        lane: Lane,
        writes: Sequence[Writes],
        record: LaneRecord,
        expected: int | None,
        journal: Sequence[bytes] = (),
        drop: int = 0,
    ) -> None:
        """Write rows, record and journal in one atomic call, if the lane is where this worker left it.

        Redis does nothing else meanwhile: about 4 us a row of 656 B, 6 with AOF, so 25 ms for 4,000 rows. Coalesce
        steps up to there (``Writes.rows`` counts), not further.

        Parameters
        ----------
        lane, writes : the steps, oldest first; of a row that several changed the last counts.
        record : the position behind them.
        expected : ``next_offset`` of the record now in Redis; ``None`` where there must be none.
        journal : entries to append.
        drop : entries to take from the front.

        Raises
        ------
        LaneMoved
            The record in Redis is another; nothing was written. Open the lane again and go back to its offset.
        StoreUnavailable
            Redis did not answer; whether it wrote is not known. Open the lane again.
        """
        state = self._state(lane)
        if state.flushing is not None:
            raise RuntimeError(f"{state.name}: a flush is under way; await it before the next")
        full = self._complete(state, record, writes, len(journal) - drop)
        value = encode_record(full)
        count, packed = flush_arguments(
            f"{state.base}lane", f"{state.base}journal", _left(state, expected), value, journal, drop, writes
        )
        # Before it is sent: a prefetch may read the lane behind the flush and before its answer.
        state.flushing = value[POSITION_AND_NONCE]
        try:
            held = await self._link.run_packed(FLUSH, count, packed, state.base.encode())
        finally:
            state.flushing = None
        if isinstance(held, bytes):
            raise LaneMoved(lane, expected, decode_position(held))
        # Only where it was done: after an error the lane is opened again, and reads what there is.
        state.record, state.position, state.flushes = full, value[POSITION_AND_NONCE], state.flushes + 1
        # From now on these rows may be evicted.
        state.flushed = max([state.flushed, *(step.step for step in writes)])

    def _complete(self, state: LaneState, record: LaneRecord, writes: Sequence[Writes], entries: int) -> LaneRecord:
        held = state.record or LaneRecord(next_offset=0)
        schemas = held.schemas | {change.table: change.schema for step in writes for change in step.changes}
        left = self.tables.left(held)
        return msgspec.structs.replace(record, schemas=schemas, journal=held.journal + entries, left=left)

    # -- for people ----------------------------------------------------------------------------------------------

    async def read_rows(self, table: str, entity: str, lanes: Iterable[Lane]) -> list[StoredRow]:
        """The rows of an entity in these lanes, those of the table's own schema and the one changed last first.

        There is one, unless the task, or the lane that owns the entity, changed.
        """
        found: list[StoredRow] = []
        known = self.tables.get(table)
        names = (table,) if known is None else (table, known.beside())
        for lane, name in product(lanes, names):
            value = await self._link.execute("GET", row_key(self.prefix, lane, name, entity))
            if value is not None:
                found.append(decode_row(lane, value))
        schema = known.schema if known is not None else None
        return sorted(found, key=lambda row: (row.schema != schema, -row.updated_at))


def _left(state: LaneState, expected: int | None) -> bytes:
    """Position and nonce as this worker left them; of another position no nonce is known, so the flush is refused."""
    position = encode_position(expected)
    return state.position if state.position[: len(position)] == position and expected is not None else position


def _not_prefetched(state: LaneState, table: str, key: str) -> str:
    return f"{state.name}: row {key!r} of table {table!r} was not prefetched; await prefetch(...) before computing"
