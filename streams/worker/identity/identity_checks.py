"""Whether topics are those that the stored state belongs to, and records in the partitions of their keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from weir.online.task.spec import STREAM_KEYS
from weir.streams.checks.findings import Check
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import ShellError, UsageError
from weir.streams.kafka.admin.clients import admin_client, consumer
from weir.streams.kafka.admin.cluster import TopicIdentity, read_identities
from weir.streams.kafka.admin.reader import Start, read_present
from weir.streams.kafka.partitioners import PartitionerName, partitions_of_text
from weir.streams.redis.client import opened
from weir.streams.redis.stored_rebuild import UNDER_WAY, StoredRebuild
from weir.streams.redis.topic_identity import StoredIdentity, differences
from weir.streams.worker.identity.partitioner import stored_partitioner
from weir.streams.worker.scoring.misplaced import FIX

SAMPLED: Final = 200
"""Records looked at in each partition."""
_KEYS: Final = STREAM_KEYS | {topics.LABELS: "entity_id"}


def check_identity(settings: Settings) -> list[Check]:
    """Compare with the store, and look at the newest records; what cannot be looked at is a finding."""
    names = {own: settings.topics.name(own) for own in topics.ALL}
    try:
        with admin_client(settings.kafka) as admin:
            there = read_identities(admin, list(names.values()))
        found = {own: there[name] for own, name in names.items() if name in there}
        held, by, under_way = asyncio.run(stored_identity(settings))
        wrong = differences(held, found, names, topics.PREDICTIONS)
        checks = [Check(f"topic {name}", "FAIL", why) for name, why in wrong]
        if under_way:
            checks.append(Check("stored state", "FAIL", UNDER_WAY))
        elif not wrong:
            checks.append(Check("stored state", "OK", "of these topics" if held else "no topics noted yet"))
        # Before a worker has settled it, that is what it finds out itself.
        return checks + (check_keys(settings, found, by) if by is not None else [])
    except ShellError as error:
        return [Check("stored state", "WARN", f"not compared with the topics: {error}")]


async def stored_identity(settings: Settings) -> tuple[dict[str, str], PartitionerName | None, bool]:
    """What the store holds of topics, the partitioner that it was made by, and whether a rebuild is under way."""
    async with opened(settings.redis) as link:
        held, by = await StoredIdentity(link).load(), await stored_partitioner(link)
        return held, by, await StoredRebuild(link).under_way()


def accept_topic(settings: Settings, own: str) -> TopicIdentity:
    """Have the stored positions of a topic belong to the one that is there now; raises ``UsageError`` without one."""
    name = settings.topics.name(own)
    with admin_client(settings.kafka) as admin:
        there = read_identities(admin, [name])
    if name not in there:
        raise UsageError(f"no topic {name}; see weir topics describe")

    async def accept() -> None:
        async with opened(settings.redis) as link:
            for partition in range(there[name].partitions):
                await StoredIdentity(link).accept((own, partition), there[name])

    asyncio.run(accept())
    return there[name]


def check_keys(settings: Settings, found: Mapping[str, TopicIdentity], by: PartitionerName) -> list[Check]:
    """Look at the newest records of events and labels: whether each is in the partition that owns its entity."""
    checks: list[Check] = []
    if settings.topics.misplaced == "keep":
        return checks
    with consumer(settings.kafka, "check") as reader:
        for own, key in _KEYS.items():
            # In a topic of one partition no record can be misplaced.
            if own in found and found[own].partitions > 1:
                name = settings.topics.name(own)
                records = read_present(reader, name, Start(SAMPLED))
                checks += _misplaced(name, [(r.partition, r.value) for r in records], key, found[own].partitions, by)
    return checks


def _misplaced(
    name: str, records: list[tuple[int, Any]], key: str, partitions: int, by: PartitionerName
) -> list[Check]:
    placed = [(at, entity) for at, value in records if (entity := _entity(value, key)) is not None]
    owners = partitions_of_text([entity for _, entity in placed], partitions, by).tolist()
    wrong = [(at, entity, owner) for (at, entity), owner in zip(placed, owners, strict=True) if at != owner]
    if not wrong:
        return []
    at, entity, owner = wrong[0]
    said = f"{len(wrong)} of the last {len(placed)} records are in a partition that does not own their key"
    return [Check(f"keys of {name}", "WARN", f"{said}: {entity!r} is in {at} and belongs to {owner}", FIX[by])]


def _entity(value: bytes | None, key: str) -> str | None:
    try:
        found = msgspec.json.decode(value or b"")
    except ValueError:
        return None
    entity = found.get(key) if isinstance(found, dict) else None
    return entity if isinstance(entity, str) else None
