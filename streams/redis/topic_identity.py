"""Which topics the stored state belongs to: an offset means nothing in another log of the same name.

Kept in one hash, ``<prefix>:{identity}``: ``partitions`` is the number that keys were spread over, and a place such as
``user-events-3`` has the id (a UUID of Kafka's) of the topic that the positions of that partition are in. A field such
as ``table:fraud.user`` is the schema of the rows that have the table's plain name; rows of another lie beside them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from weir.streams.config import topics
from weir.streams.errors import StateError, UsageError
from weir.streams.kafka.admin.cluster import TopicIdentity
from weir.streams.redis.client import RedisClient
from weir.streams.redis.resp import Script
from weir.streams.redis.stored_rows import Lane, place_of

_PARTITIONS: Final = "partitions"
_TABLE: Final = "table:"
# ARGV: what the fields begin with that go. HDEL is no right that workers have.
_DROP: Final = Script("""
local held, rest = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #held, 2 do
  local goes = false
  for _, start in ipairs(ARGV) do goes = goes or string.sub(held[i], 1, #start) == start end
  if not goes then
    rest[#rest + 1] = held[i]
    rest[#rest + 1] = held[i + 1]
  end
end
redis.call('DEL', KEYS[1])
for i = 1, #rest, 2 do redis.call('HSET', KEYS[1], rest[i], rest[i + 1]) end
return #rest
""")
_ANEW: Final = {
    topics.PREDICTIONS: "stop the workers and run 'weir features rebuild'",
    topics.EXAMPLES: "delete the stored models (keys PREFIX:{models}:*), which learn anew, then weir topics accept "
    "examples",
}
"""What to do where `weir partitions seek` is not for the topic."""


class StoredIdentity:
    """What is stored, and the comparing with it.

    Parameters
    ----------
    link : a started link.
    """

    def __init__(self, link: RedisClient) -> None:
        self._link, self._key = link, f"{link.prefix}:{{identity}}"

    async def load(self) -> dict[str, str]:
        """Everything, by field."""
        flat = await self._link.execute("HGETALL", self._key)
        words = [word.decode() for word in flat]
        return dict(zip(words[::2], words[1::2], strict=True))

    async def store(self, fields: Mapping[str, str]) -> None:
        """Replace some fields."""
        for field, value in fields.items():
            await self._link.execute("HSET", self._key, field, value)

    async def _first(self, field: str, value: str) -> str:
        """What a field holds; ``value`` from now on where it held nothing."""
        # Set if absent, then read: of several workers that start together one is first, and all see the same.
        await self._link.execute("HSETNX", self._key, field, value)
        held = await self._link.execute("HGET", self._key, field)
        return str(held.decode())

    async def schema_of(self, table: str, schema: int, recorded: Callable[[], Awaitable[int | None]]) -> int:
        """The schema of the rows that have the plain name of a table; ``schema`` from now on where there are none.

        ``recorded`` tells what lanes say that were written before this was noted.
        """
        field = f"{_TABLE}{table}"
        # Asked first, as looking through the records of all lanes is needed once in the life of a deployment.
        if await self._link.execute("HGET", self._key, field) is None:
            found = await recorded()
            return int(await self._first(field, f"{schema if found is None else found:08x}"), 16)
        return int(await self._first(field, ""), 16)

    async def partitions(self) -> int | None:
        """The number that the state was made with; ``None`` where there is none yet."""
        held = await self._link.execute("HGET", self._key, _PARTITIONS)
        return None if held is None else int(held)

    async def check_partitions(self, partitions: int) -> None:
        """Raises ``UsageError`` where the state was made with another number; notes it where there is none yet."""
        if why := other_partitions(await self._first(_PARTITIONS, str(partitions)), partitions):
            raise UsageError(why)

    async def check_topic(self, lane: Lane, name: str, identity: TopicIdentity) -> None:
        """Raises ``StateError`` where the positions of a partition are of another topic called ``name``."""
        # Brokers before 2.8 have no ids; nothing can be held against one that is not there.
        if not identity.id:
            return
        if why := other_topic(lane, name, await self._first(place_of(lane), identity.id), identity.id):
            raise StateError(why)

    async def accept(self, lane: Lane, identity: TopicIdentity) -> None:
        """From now on the positions of a partition are of this topic."""
        if identity.id:
            await self.store({place_of(lane): identity.id})

    async def accept_partitions(self, partitions: int) -> None:
        """From now on keys are spread over so many partitions."""
        await self.store({_PARTITIONS: str(partitions)})

    async def tasks(self) -> set[str]:
        """Those that have tables of rows."""
        return {field.removeprefix(_TABLE).split(".")[0] for field in await self.load() if field.startswith(_TABLE)}

    async def drop(self, tasks: Iterable[str]) -> None:
        """Forget the tables of these tasks."""
        await self._link.run(_DROP, [self._key], [f"{_TABLE}{task}." for task in tasks])


def other_partitions(held: str | None, partitions: int) -> str:
    """What is wrong with a number of partitions, and what to do; empty where nothing is."""
    if held is None or held == str(partitions):
        return ""
    return (
        f"topics keyed by entity have {partitions} partitions, the stored state was made with {held}: entities whose "
        "partition changed would start from nothing. Stop the workers and run 'weir features rebuild', which fills the "
        "rows from what Kafka still has, and brings what waits for labels to its new partition; or go back to topics "
        f"of {held} partitions"
    )


def other_topic(lane: Lane, name: str, held: str | None, now: str) -> str:
    """What is wrong with the topic of a partition, and what to do; empty where nothing is."""
    if not now or held is None or held == now:
        return ""
    anew = _ANEW.get(lane[0], f"weir partitions seek {place_of(lane)} earliest")
    return (
        f"{place_of(lane)}: the stored position is of a topic {name} that is gone (id {held}); the one there now (id "
        f"{now}) was made anew, so its offsets mean other records. To take the new one from its beginning: {anew}. "
        f"Where it was restored with its offsets as they were: weir topics accept {lane[0]}"
    )


def differences(
    held: Mapping[str, str], there: Mapping[str, TopicIdentity], names: Mapping[str, str], counted: str
) -> list[tuple[str, str]]:
    """What a worker would refuse: topic and reason, the first partition of each.

    Parameters
    ----------
    held : as `StoredIdentity.load` gives it.
    there, names : what there is and what it is called there, by Weir's own names.
    counted : the topic whose number of partitions counts.
    """
    found: list[tuple[str, str]] = []
    if counted in there and (why := other_partitions(held.get(_PARTITIONS), there[counted].partitions)):
        found.append((names[counted], why))
    for own, identity in there.items():
        lanes = [(own, partition) for partition in range(identity.partitions)]
        whys = [why for at in lanes if (why := other_topic(at, names[own], held.get(place_of(at)), identity.id))]
        found += [(names[own], why) for why in whys[:1]]
    return found
