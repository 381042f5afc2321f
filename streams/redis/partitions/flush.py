"""From what the steps of a lane changed to the arguments of one flush: the last row of each key, header and all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weir.online.features.store import SPARE
from weir.streams.redis.partitions.row_cache import RowCache
from weir.streams.redis.resp import Script, argument
from weir.streams.redis.stored_rows import HEADER, VERSION, Lane, framed_values

FLUSH: Final = Script("""
local held = redis.call('GETRANGE', KEYS[1], 8, 23)
if held == string.sub(ARGV[2], 9, 24) then return 1 end
if held ~= ARGV[1] then return string.sub(held, 1, 8) end
local at, chunks, drop, groups = 6, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local call = redis.call
local rows = at + 2 * groups
if chunks > 0 then
  for i = rows, rows + chunks - 1 do call('RPUSH', KEYS[2], ARGV[i]) end
  rows = rows + chunks
end
if drop > 0 then call('LPOP', KEYS[2], drop) end
local now = call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local key = 3
for group = 1, groups do
  local expire = now + ARGV[at + 1]
  for i = 1, tonumber(ARGV[at]) do
    call('SET', KEYS[key], ARGV[rows], 'PXAT', expire)
    key, rows = key + 1, rows + 1
  end
  at = at + 2
end
call('SET', KEYS[1], ARGV[2])
return 0
""")
"""Keys: record, journal, rows. Arguments: expected position and nonce, new record, entries, entries to drop, groups of
rows; count and time to live (ms) of each group; the entries; the rows. Answers 0 done, 1 done before, or the position
held."""


_LONGEST_TTL_MS: Final = 10 * 365 * 86_400_000


@dataclass(frozen=True, slots=True)
class Change:
    """Rows of one table that a step saved."""

    table: str
    schema: int
    cache: RowCache
    slots: NDArray[np.int64]
    rows: NDArray[np.uint8]
    """As given to ``save``; not copied."""
    updated: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Writes:
    """What one step changed, until a flush takes it to Redis."""

    lane: Lane
    offset: int
    """Of the last record of the step."""
    step: int
    changes: Sequence[Change]

    @property
    def rows(self) -> int:
        """Rows saved; a flush writes fewer where steps changed the same."""
        return sum(len(change.slots) for change in self.changes)


def flush_arguments(
    lane_key: str, journal_key: str, expected: bytes, record: bytes, journal: Sequence[bytes], drop: int,
    writes: Sequence[Writes],
) -> tuple[int, bytes]:  # fmt: skip
    """Count and bytes of the flush script's number of keys, keys and arguments."""
    groups = list(_by_cache(writes).values())
    keys: list[bytes] = [argument(lane_key), argument(journal_key)]
    sizes: list[bytes] = []
    blocks: list[memoryview] = []
    for group in groups:
        frames, values = _group(group)
        keys += frames
        ttl_ms = int(min(group[0][1].cache.kept_s * SPARE * 1000, _LONGEST_TTL_MS))  # of `ttl = inf` too
        sizes += [argument(len(frames)), argument(max(ttl_ms, 1))]
        blocks += values
    head: list[bytes | int] = [expected, record, len(journal), drop, len(groups)]
    args = [*map(argument, head), *sizes, *map(argument, journal)]
    rows = len(keys) - 2
    return 1 + len(keys) + len(args) + rows, b"".join([argument(len(keys)), *keys, *args, *blocks])


def _by_cache(writes: Iterable[Writes]) -> dict[int, list[tuple[int, Change]]]:
    groups: dict[int, list[tuple[int, Change]]] = {}
    for step in writes:
        for change in step.changes:
            if len(change.slots):
                groups.setdefault(id(change.cache), []).append((step.offset, change))
    return groups


def _group(changes: Sequence[tuple[int, Change]]) -> tuple[list[bytes], list[memoryview]]:
    """Framed keys and blocks of framed values of one table's changes, oldest first; of a key the last row counts."""
    cache, schema = changes[0][1].cache, changes[0][1].schema
    slots = np.concatenate([change.slots for _, change in changes]) if len(changes) > 1 else changes[0][1].slots
    order = np.arange(len(slots))
    last = np.empty(len(cache.slab), dtype=np.int64)
    last[slots] = order  # where a slot repeats, numpy leaves the last value
    keep = last[slots] == order
    blocks, start = list[memoryview](), 0
    for offset, change in changes:
        mine = keep[start : start + len(change.slots)]
        start += len(mine)
        rows, updated = (change.rows, change.updated) if mine.all() else (change.rows[mine], change.updated[mine])
        heads = np.zeros(len(rows), dtype=HEADER)
        heads["version"], heads["schema"], heads["offset"], heads["updated_at"] = VERSION, schema, offset, updated
        blocks.append(framed_values(heads, rows).data)
    frames = cache.frames
    return [frames[slot] for slot in slots[keep].tolist()], blocks
