"""Which partitioner a deployment's producers use: found once in what they wrote, and kept with the state.

An entity's state lies in the partition that its id has by this partitioner. Java, Weir and aiokafka hash by murmur2;
librdkafka (Python, Go, C, .NET) by CRC32 unless told otherwise. Where all producers agree nothing has to be passed on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from weir.online.errors import UNREADABLE
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.partitioners import PartitionerName, partitions_of_text
from weir.streams.redis.client import RedisClient

if TYPE_CHECKING:
    from weir.streams.worker.context import Context

log = logging.getLogger(__name__)

ENOUGH: Final = 8
"""Different entities that have to agree: by chance so many do so once in 4^8 times."""
NEWEST: Final = 500
"""Records of a partition that are looked at."""
WAIT_S: Final = 1.0
"""How long to wait for more, where there are few."""
_FITS: Final = 0.95
_FIELD: Final = {topics.USER_EVENTS: "user_id", topics.DEVICE_EVENTS: "device_id", topics.LABELS: "entity_id"}


class _Ids(msgspec.Struct):
    user_id: str = ""
    device_id: str = ""
    entity_id: str = ""


def which(entities: Mapping[str, int], partitions: int) -> PartitionerName | None:
    """The partitioner by which entities are in their partitions; ``None`` where these are too few to say.

    Where neither fits, producers set no key, or several kinds are at work: then it is Kafka's own.

    >>> ids = [f"u{i}" for i in range(20)]
    >>> which(dict(zip(ids, partitions_of_text(ids, 4, "crc32").tolist())), 4)
    'crc32'
    >>> which(dict.fromkeys(ids, 1), 4), which({"u1": 0}, 4)
    ('murmur2', None)
    """
    if len(entities) < ENOUGH:
        return None
    ids, at = list(entities), np.fromiter(entities.values(), np.int64, len(entities))
    # A share, as not all have to fit: a producer of another kind may have written some of the newest.
    fit = {name: float(np.mean(partitions_of_text(ids, partitions, name) == at)) for name in ("murmur2", "crc32")}
    # Where both fit (few partitions, by chance) it is Kafka's own too: murmur2 is what every other client writes.
    return "crc32" if fit["crc32"] >= _FITS > fit["murmur2"] else "murmur2"


async def settle_partitioner(ctx: Context) -> PartitionerName:
    """The partitioner of the deployment; looks at what producers wrote where nobody has settled it yet.

    Raises ``UsageError`` where the settings name another one than the state was made by.
    """
    key, wanted = f"{ctx.link.prefix}:partitioner", ctx.settings.topics.partitioner
    name = await stored_partitioner(ctx.link)
    if name is None:
        found = await _find(ctx) if wanted == "auto" else wanted
        await ctx.link.execute("SET", key, found, "NX")  # whoever is first settles it
        name = await stored_partitioner(ctx.link) or found
        log.info("producers partition by %s; that is kept with the state", name)
    if wanted not in ("auto", name):
        raise UsageError(
            f"[topics] partitioner = {wanted!r}, and the state in Redis was made by {name!r}: entities would be looked "
            f"for in other partitions. Set {name!r}, or stop all workers, delete the key {key!r} and run "
            "'weir features rebuild'"
        )
    return name


async def stored_partitioner(link: RedisClient) -> PartitionerName | None:
    """What is settled; ``None`` where nothing is yet."""
    held = await link.execute("GET", f"{link.prefix}:partitioner")
    return None if held is None else "crc32" if held == b"crc32" else "murmur2"


async def _find(ctx: Context) -> PartitionerName:
    streams = dict.fromkeys(task.stream for task in ctx.tasks)
    found = await _look(ctx, (*streams, topics.LABELS))
    if found is None:
        await asyncio.sleep(WAIT_S)  # the first record has just come: more of its kind are on their way
        found = await _look(ctx, (*streams, topics.LABELS))
    return found or "murmur2"


async def _look(ctx: Context, names: Sequence[str]) -> PartitionerName | None:
    """What the first topic says that has enough to say."""
    for name in names:
        if (found := which(await _entities(ctx, name), ctx.partitions)) is not None:
            return found
    return None


async def _entities(ctx: Context, topic: str) -> dict[str, int]:
    """The entities of a topic's newest records, each with its partition."""
    decoder, found, field = msgspec.json.Decoder(_Ids), dict[str, int](), _FIELD[topic]
    options, limits = ctx.settings.kafka.client_options("partitioner"), ctx.settings.limits_of(topic)
    async with RangeReader(options, ctx.name(topic), limits=limits) as reader:
        for partition in reader.partitions():
            first, end = await reader.bounds(partition)
            async for _, records, *_ in reader.read(partition, max(first, end - NEWEST), end):
                for record in records:
                    try:
                        entity = getattr(decoder.decode(record.value), field)
                    except UNREADABLE:  # a dead letter, soon
                        continue
                    if entity:
                        found.setdefault(entity, partition)
    return found
