"""What a rebuild keeps in the store while it is under way, or was cut short: what is gone once it has cleared a lane.

A hash, ``<prefix>:{identity}:rebuild``, has by place the offset up to which a partition is filled, and under
``timers:PLACE`` where there is what its timers held. While there is one no worker starts, as what is stored is half of
before and half of now. Beside it ``<prefix>:{identity}:rebuild:by`` says who is at work, for as long as that one lives.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

import msgspec

from weir.streams.errors import StateError, UsageError
from weir.streams.redis.blobs import BlobRef, get_blob, put_blob
from weir.streams.redis.client import RedisClient
from weir.streams.redis.resp import Script
from weir.streams.redis.stored_rows import Lane, place_of

_BEGUN: Final = "begun"
UNDER_WAY: Final = (
    "'weir features rebuild' is under way, or was cut short, so what is stored is half of before and half of now. Wait "
    "for its end, or run it again; then start the workers"
)

# KEYS: the lease. ARGV: who, for how many ms. Nobody's is taken; another's is told.
_HOLD: Final = Script("""
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
""")

_LET_GO: Final = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
""")

# KEYS: the hash, then the parts of a blob. ARGV: field, reference.
_NOTE: Final = Script("""
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then return 0 end
  redis.call('PERSIST', KEYS[i])
end
return 1 + redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
""")


class StoredRebuild:
    """One run, or what one before it left.

    Parameters
    ----------
    link : a started link.
    by : who runs it, for people.
    """

    def __init__(self, link: RedisClient, by: str = "") -> None:
        self._link, self._key = link, f"{link.prefix}:{{identity}}:rebuild"
        # One that waits for an answer that was lost asks again, and is to know itself.
        self._me = f"{by} {secrets.token_hex(4)}"
        self.begun = False
        """Whether workers wait for the end of this one."""

    async def hold(self, lease_s: float) -> str:
        """Be the only one at work for so long; who is, where that is another, else nothing."""
        held = (await self._link.run(_HOLD, [f"{self._key}:by"], [self._me, round(lease_s * 1000)])).decode()
        return "" if held == self._me else str(held).rpartition(" ")[0]

    async def let_go(self) -> None:
        """Another may begin at once."""
        await self._link.run(_LET_GO, [f"{self._key}:by"], [self._me])

    async def under_way(self) -> bool:
        """Whether one has begun and none has come to its end."""
        return bool(await self._link.execute("EXISTS", self._key))

    async def check(self) -> None:
        """Raises ``UsageError`` while what is stored is half of before."""
        if await self.under_way():
            raise UsageError(UNDER_WAY)

    async def begin(self) -> None:
        """From now on no worker starts."""
        self.begun = True
        await self._link.execute("HSET", self._key, _BEGUN, "1")

    async def fill_up_to(self, lane: Lane, offset: int) -> int:
        """Note where a rebuild ends; where one that was killed was to end, if that is further."""
        held = await self._link.execute("HGET", self._key, place_of(lane))
        further = max(offset, int(held or 0))
        await self._link.execute("HSET", self._key, place_of(lane), str(further))
        return further

    async def timers(self, lane: Lane) -> dict[str, bytes] | None:
        """What was noted of the timers of a lane; ``None`` where nothing was."""
        packed = await self._link.execute("HGET", self._key, field := f"timers:{place_of(lane)}")
        if packed is None:
            return None
        ref = msgspec.msgpack.decode(packed, type=BlobRef)
        if (blob := await get_blob(self._link, ref)) is None:
            raise StateError(
                f"{ref.key}: what a rebuild noted of the timers of {place_of(lane)} is gone or damaged; Redis must not "
                f"evict (maxmemory-policy noeviction). To have it read from the events that Kafka still has: redis-cli "
                f"HDEL {self._key!r} {field}, then run 'weir features rebuild' again"
            )
        return msgspec.msgpack.decode(blob, type=dict[str, bytes])

    async def note_timers(self, lane: Lane, timers: Mapping[str, bytes]) -> None:
        """Keep what the timers of a lane hold, by task."""
        key = f"{self._key}:{place_of(lane)}:{secrets.token_hex(4)}"
        ref = await put_blob(self._link, key, msgspec.msgpack.encode(dict(timers)))
        packed = msgspec.msgpack.encode(ref)
        if not await self._link.run(_NOTE, [self._key, *ref.part_keys()], [f"timers:{place_of(lane)}", packed]):
            raise StateError(f"{key}: written a moment ago and gone; Redis must not evict: run it again")

    async def done(self) -> None:
        """It has come to its end: nothing that it kept is needed any more."""
        flat = await self._link.execute("HGETALL", self._key)
        held = dict(zip(flat[::2], flat[1::2], strict=True))
        refs = [msgspec.msgpack.decode(held[field], type=BlobRef) for field in held if field.startswith(b"timers:")]
        # In one command: a worker starts as soon as the hash is gone.
        await self._link.execute("UNLINK", self._key, *(key for ref in refs for key in ref.part_keys()))
        self.begun = False
