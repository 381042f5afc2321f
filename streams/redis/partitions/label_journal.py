"""The journal of a label lane: which ranges of its topics it took, in the order taken, since its newest snapshot.

A label lane keeps its state in memory and is a fold over two logs at once, so what must survive it is the order in
which it took from them. Each step is written here before its outputs count; a lane that starts again loads the newest
snapshot and takes the same steps again from Kafka.

Two things can go wrong. A worker that lost the lane may write late (a zombie): every writer claims the lane, which
gives it a higher generation, and writes of a lower one are refused. And Redis may lose its last second when it crashes:
the writer remembers its steps since the snapshot before the newest, and writes again what is missing.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple, Self

import msgspec

from weir.streams.errors import ShellError, StateError
from weir.streams.redis.blobs import PART_BYTES, BlobRef, get_blob, put_blob
from weir.streams.redis.client import RedisClient
from weir.streams.redis.resp import Script


class StepsTaken(ShellError):  # noqa: N818 - named for what happened, as in weir.streams.errors
    """Another worker claimed this lane: stop working on it, and load it again only when it is assigned again."""


class StepsLost(ShellError):  # noqa: N818 - named for what happened, as in weir.streams.errors
    """Redis holds an older journal than can be mended from memory: load the lane again, and go on from there."""


TICK: Final = "tick"
"""In place of a topic: time passed without records, up to ``stop`` in ms of event time."""


class OffsetRange(NamedTuple):
    """Offsets ``[start, stop)`` of a topic, taken in one go; the partition is the lane's."""

    topic: str
    start: int
    stop: int

    def encode(self) -> str:
        """As it is stored: readable with ``redis-cli LRANGE``."""
        return f"{self.topic} {self.start} {self.stop}"

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read what ``encode`` made.

        >>> OffsetRange.decode(OffsetRange("labels", 5, 9).encode().encode())
        OffsetRange(topic='labels', start=5, stop=9)
        """
        topic, start, stop = raw.decode().split(" ")
        return cls(topic, int(start), int(stop))


@dataclass(frozen=True, slots=True)
class StoredLane:
    """What is stored of a lane. Steps are numbered from 1 on, for ever."""

    snapshot: bytes | None
    snapshot_step: int
    """The last step in the snapshot; 0 without one."""
    steps: list[OffsetRange]
    """The steps behind it: numbers ``snapshot_step + 1`` and on."""
    done: int
    """The outputs of steps up to this number were acknowledged; 0 for none."""

    @property
    def next_step(self) -> int:
        """The number of the next step to append."""
        return self.snapshot_step + 1 + len(self.steps)


_CLAIM: Final = Script("""
local owner = redis.call('HGET', KEYS[1], 'owner')
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
return {redis.call('HINCRBY', KEYS[1], 'generation', 1), owner}
""")

# KEYS: meta, list. ARGV: owner, generation. A lower generation than ours means that Redis lost our claim.
_FENCE: Final = """
local meta, list = KEYS[1], KEYS[2]
local held = redis.call('HMGET', meta, 'generation', 'owner', 'snapshot_step')
local generation = tonumber(held[1] or 0)
if generation > tonumber(ARGV[2]) or (generation == tonumber(ARGV[2]) and held[2] ~= ARGV[1]) then
  return {'taken', generation}
end
local step = tonumber(held[3] or 0)
local last = step + redis.call('LLEN', list)
"""


def _fenced(source: str) -> Script:
    return Script(_FENCE + source)


_READ: Final = Script("""
local held = redis.call('HMGET', KEYS[1], 'snapshot_step', 'snapshot', 'done')
return {held[1], held[2], held[3], redis.call('LRANGE', KEYS[2], 0, -1)}
""")

# ARGV[3] is the number of the first step, the steps follow.
_APPEND: Final = _fenced("""
if generation < tonumber(ARGV[2]) or last + 1 ~= tonumber(ARGV[3]) then
  return {'differs', step}
end
for i = 4, #ARGV do redis.call('RPUSH', list, ARGV[i]) end
return {'ok', last}
""")

# ARGV[3] is the step that the stored snapshot must end with; every step behind it follows.
_REWRITE: Final = _fenced("""
if step ~= tonumber(ARGV[3]) then return {'differs', step} end
redis.call('HSET', meta, 'generation', ARGV[2], 'owner', ARGV[1])
redis.call('DEL', list)
for i = 4, #ARGV do redis.call('RPUSH', list, ARGV[i]) end
return {'ok', last}
""")

_DONE: Final = _fenced("""
if generation < tonumber(ARGV[2]) or last < tonumber(ARGV[3]) then return {'differs', step} end
if tonumber(ARGV[3]) > tonumber(redis.call('HGET', meta, 'done') or 0) then
  redis.call('HSET', meta, 'done', ARGV[3])
end
return {'ok', last}
""")

# ARGV: ..., number, blob key, parts, reference, steps behind the snapshot.
_SNAPSHOT: Final = _fenced("""
for i = 0, tonumber(ARGV[5]) - 1 do
  if redis.call('EXISTS', ARGV[4] .. ':' .. i) == 0 then return {'absent', i} end
  redis.call('PERSIST', ARGV[4] .. ':' .. i)
end
local old = redis.call('HMGET', meta, 'blob', 'parts')
redis.call('HSET', meta, 'generation', ARGV[2], 'owner', ARGV[1], 'snapshot_step', ARGV[3], 'blob', ARGV[4],
           'parts', ARGV[5], 'snapshot', ARGV[6])
redis.call('DEL', list)
for i = 7, #ARGV do redis.call('RPUSH', list, ARGV[i]) end
if old[1] and old[1] ~= ARGV[4] then
  for i = 0, tonumber(old[2]) - 1 do redis.call('UNLINK', old[1] .. ':' .. i) end
end
return {'ok', last}
""")


class StepLog:
    """The journal of one lane in Redis.

    All keys share the hash tag ``{lane}``: ``<prefix>:{<lane>}:steps`` (a list), ``:meta`` (a hash) and the snapshot's
    parts, whose names are in the hash. The order of calls is `claim`, `load`, then any of the others.

    Parameters
    ----------
    link : the way to Redis.
    lane : its name, such as ``predictions-3``.
    part_bytes : the largest value that a snapshot is cut into.
    """

    def __init__(self, link: RedisClient, lane: str, *, part_bytes: int = PART_BYTES) -> None:
        self.lane, self._part_bytes = lane, part_bytes
        self._link, self._tag = link, f"{link.prefix}:{{{lane}}}"
        self._keys = [f"{self._tag}:meta", f"{self._tag}:steps"]
        self._owner, self._generation = "", 0
        self._first = 1
        """Number of the first step in memory."""
        self._steps: deque[OffsetRange] = deque()
        self._snapshots = (0, 0)
        """The last steps of the newest snapshot and of the one before it."""

    async def claim(self) -> bool:
        """Become the only writer: whoever wrote before is refused from now on.

        Whether that was this writer, and nobody since: then the lane is as it left it.
        """
        before, mine = self._generation, self._owner
        # Anew at each claim: a repeat of the script, whose answer was lost, must not look like another life of ours.
        self._owner = secrets.token_hex(8)
        generation, owner = await self._link.run(_CLAIM, self._keys[:1], [self._owner])
        self._generation = int(generation)
        # Both: Redis may have lost a claim of somebody else, and then the number alone would be right.
        return self._generation == before + 1 and owner == mine.encode()

    async def load(self) -> StoredLane:
        """What is stored; raises ``StateError`` when the snapshot cannot be read."""
        before = b""
        while True:
            step, packed, done, raw = await self._link.run(_READ, self._keys, [])
            number, snapshot = 0 if step is None else int(step), None
            if packed is None:
                break
            ref = msgspec.msgpack.decode(packed, type=BlobRef)
            snapshot = await get_blob(self._link, ref)
            if snapshot is not None:
                break
            if packed == before:  # else the lane's owner put a newer one in its place just now
                raise StateError(
                    f"lane {self.lane}: its snapshot of {ref.size} B at {ref.key} is gone or damaged; Redis must not "
                    f"evict (maxmemory-policy noeviction). To start the lane afresh: redis-cli DEL {self._keys[0]!r} "
                    f"{self._keys[1]!r}"
                )
            before = packed
        steps = [OffsetRange.decode(item) for item in raw]
        self._first, self._steps, self._snapshots = number + 1, deque(steps), (number, number)
        return StoredLane(snapshot, number, steps, 0 if done is None else int(done))

    async def append(self, first_number: int, steps: Sequence[OffsetRange]) -> None:
        """Write steps ``first_number`` and on, behind all that were written before.

        Raises
        ------
        StepsTaken
            Another worker claimed the lane; nothing was written.
        StepsLost
            Redis went back further than this writer remembers.
        """
        if first_number != self._first + len(self._steps):
            raise ValueError(
                f"lane {self.lane}: step {first_number} follows {self._first + len(self._steps) - 1}; append in order"
            )
        # Before writing: what Redis loses afterwards is written again from here.
        self._steps.extend(steps)
        # Sent twice it finds its own steps there, which reads as a journal that differs; `_mend` then writes what is
        # there already.
        verdict = await self._write(_APPEND, first_number, *(step.encode() for step in steps))
        if verdict is not None:
            await self._mend(verdict)

    async def done(self, number: int) -> None:
        """Note that the outputs of steps up to ``number`` are acknowledged."""
        verdict = await self._write(_DONE, number)
        if verdict is not None:
            await self._mend(verdict)
            await self._write(_DONE, number)

    async def snapshot(self, number: int, blob: bytes) -> None:
        """Replace the snapshot by ``blob``, the state after step ``number``, and drop the steps in it.

        ``blob`` may be large: it is written in parts before one script makes it count, so a crash at any moment
        leaves the old or the new snapshot, whole.
        """
        if not self._snapshots[0] <= number < self._first + len(self._steps):
            raise ValueError(
                f"lane {self.lane}: a snapshot at step {number}; the newest is at {self._snapshots[0]}, the last step "
                f"is {self._first + len(self._steps) - 1}"
            )
        key = f"{self._tag}:snapshot:{number}-{secrets.token_hex(4)}"
        # A key of its own each time: the parts of the snapshot before stay whole until the script has replaced it.
        ref = await put_blob(self._link, key, blob, part_bytes=self._part_bytes)
        # All steps behind it, from memory: the list in Redis may have lost some, and is made anew with the snapshot.
        behind = [step.encode() for step in islice(self._steps, number + 1 - self._first, None)]
        verdict = await self._write(_SNAPSHOT, number, ref.key, ref.parts, msgspec.msgpack.encode(ref), *behind)
        if verdict is not None:
            raise StepsLost(f"lane {self.lane}: part {verdict} of a snapshot was gone before it counted; load again")
        self._snapshots = (number, self._snapshots[0])
        # Up to the snapshot before the newest, to which Redis may go back when it loses a second.
        while self._first <= self._snapshots[1]:
            self._steps.popleft()
            self._first += 1

    async def _write(self, script: Script, *args: Any) -> int | None:
        """Run a script behind the fence; ``None`` when it wrote, else what it found instead."""
        if not self._owner:
            raise StepsTaken(f"lane {self.lane}: it was not claimed; call claim first")
        verdict, detail = await self._link.run(script, self._keys, [self._owner, self._generation, *args])
        if verdict == b"taken":
            raise StepsTaken(
                f"lane {self.lane}: claimed by another worker (generation {int(detail)}, ours {self._generation}); "
                "this one must not write any more"
            )
        return None if verdict == b"ok" else int(detail)

    async def _mend(self, stored_snapshot: int) -> None:
        """Make the stored journal what it was, after Redis lost its newest writes."""
        if stored_snapshot + 1 < self._first or stored_snapshot > self._snapshots[0]:
            raise StepsLost(
                f"lane {self.lane}: Redis holds a snapshot at step {stored_snapshot}, this worker remembers steps "
                f"{self._first} and on; load the lane again"
            )
        steps = islice(self._steps, stored_snapshot + 1 - self._first, None)
        if await self._write(_REWRITE, stored_snapshot, *(step.encode() for step in steps)) is not None:
            raise StepsLost(f"lane {self.lane}: the journal in Redis changes under its writer; load the lane again")
