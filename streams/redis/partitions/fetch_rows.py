"""Reads rows of several tables at once, and with them the lane's position: a lane that moved is seen before use."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.open_partition import LaneState, Table
from weir.streams.redis.partitions.partition_record import POSITION_AND_NONCE, decode_position
from weir.streams.redis.partitions.row_cache import RowCache
from weir.streams.redis.resp import command, mget
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.redis.stored_rows import unpack_rows


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
