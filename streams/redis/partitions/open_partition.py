"""What a worker holds in memory of one open lane."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weir.streams.kafka.partitioners import partitions_of
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.flush import Change, Writes
from weir.streams.redis.partitions.partition_record import POSITION_AND_NONCE, LaneRecord, decode_position
from weir.streams.redis.partitions.row_cache import RowCache
from weir.streams.redis.partitions.stored_tables import Table
from weir.streams.redis.resp import command, framed_keys, mget
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.redis.stored_rows import Lane, row_key, unpack_rows


class LaneState:
    """One open lane: caches by table, what the open step has changed, and the position that Redis should hold.

    Parameters
    ----------
    lane : topic and partition.
    base : what its keys begin with.
    record, position, journal : as Redis had them when the lane was opened.
    """

    def __init__(
        self, lane: Lane, base: str, record: LaneRecord | None, position: bytes, journal: Sequence[bytes]
    ) -> None:
        self.lane, self.base, self.position = lane, base, position
        self.record = record
        """The newest that is in Redis."""
        self.caches: dict[str, RowCache] = {}
        self.changes: list[Change] = []
        """Of the open step."""
        self.step, self.flushed = 1, 0
        self.prefetches = self.flushes = 0
        self.flushing: bytes | None = None
        """The position that a flush under way will set."""
        self.reading = asyncio.Lock()
        self._journal: list[bytes] | None = list(journal)

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.lane[0]}-{self.lane[1]}"

    def take_journal(self) -> list[bytes]:
        """The journal as it was opened, once."""
        if self._journal is None:
            raise LookupError(f"the journal of {self.name} was taken already; open the lane again to read it again")
        journal, self._journal = self._journal, None
        return journal

    def new_cache(self, table: Table, side: tuple[str, int] | None, prefix: str) -> RowCache:
        """An empty cache of a table; ``side`` is the topic, and its partitions, whose lanes own the table."""
        owned = side is None or side[0] == self.lane[0]

        def frame(ids: Sequence[str]) -> list[bytes]:
            if side is None or owned:
                return framed_keys(row_key(prefix, self.lane, table.key, ""), ids)
            return _framed_side_keys(prefix, table.key, *side, ids)

        return RowCache(table.row_bytes, table.kept_s, frame, owned=owned)

    def end_step(self, offset: int) -> Writes:
        """Close the open step."""
        writes = Writes(self.lane, offset, self.step, self.changes)
        self.changes = []
        self.step += 1
        return writes


def _framed_side_keys(prefix: str, table: str, topic: str, partitions: int, ids: Sequence[str]) -> list[bytes]:
    heads = [row_key(prefix, (topic, p), table, "").encode() for p in range(partitions)]
    names = [name.encode() for name in ids]
    keys = [heads[p] + name for p, name in zip(partitions_of(names, partitions).tolist(), names, strict=True)]
    return [b"$%d\r\n%b\r\n" % (len(key), key) for key in keys]


@dataclass(frozen=True, slots=True)
class Ask:
    """Rows wanted of one table."""

    table: Table
    cache: RowCache
    keys: list[str]
    """Distinct."""
    frames: list[bytes]
    """Their framed Redis keys."""


async def fetch(link: RedisClient, state: LaneState, asks: Sequence[Ask]) -> int:
    """Read the rows into their caches; how many of the lane's own tables it does not have.

    Raises
    ------
    LaneMoved
        The lane's record is no longer where this worker left it.
    StateError
        A row has another width or schema than its table.
    """
    # As of before the question and, below, of behind it: a flush of ours may end while Redis answers.
    flushes, valid = state.flushes, {state.position, state.flushing}
    values, held = await _read(link, state, [frame for ask in asks for frame in ask.frames])
    valid |= {state.position, state.flushing}
    if held not in valid and state.flushes - flushes < 2:  # behind two flushes of ours it may be the one between
        raise LaneMoved(state.lane, decode_position(state.position), decode_position(held))
    at = new = 0
    for ask in asks:
        found = _put(ask, values[at : at + len(ask.keys)])
        at += len(ask.keys)
        new += len(ask.keys) - found if ask.cache.owned else 0
    return new


async def _read(link: RedisClient, state: LaneState, frames: list[bytes]) -> tuple[list[bytes | None], bytes]:
    """Values of framed keys in their order, and the lane's position, read behind them."""
    position = command("GETRANGE", f"{state.base}lane", POSITION_AND_NONCE.start, POSITION_AND_NONCE.stop - 1)
    if not link.cluster:
        # In one go and in this order: a write between the two is seen by the position.
        values, held = await link.packed(mget(frames) + position, 2)
        return values, held
    slots: dict[bytes, list[int]] = {}
    for i, frame in enumerate(frames):
        slots.setdefault(frame[frame.index(b"{") : frame.index(b"}") + 1], []).append(i)
    asked = (link.packed(mget([frames[i] for i in some]), 1, tag) for tag, some in slots.items())
    found: list[Any] = [None] * len(frames)
    for some, (values,) in zip(slots.values(), await asyncio.gather(*asked), strict=True):
        for i, value in zip(some, values, strict=True):
            found[i] = value
    # Behind all rows, as above; nothing orders what different nodes answer.
    (held,) = await link.packed(position, 1, state.base.encode())
    return found, held


def _put(ask: Ask, values: Sequence[bytes | None]) -> int:
    held = [value for value in values if value is not None]
    if len(held) == len(values):
        found = np.arange(len(values))
    else:
        found = np.array([i for i, value in enumerate(values) if value is not None], dtype=np.int64)
    rows, updated = unpack_rows(ask.table.name, ask.table.schema, ask.table.row_bytes, held)
    ask.cache.put(ask.keys, ask.frames, found, rows, updated)
    return len(held)
