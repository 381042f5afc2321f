"""Holds the topics that there are against those that the stored state belongs to, whenever partitions are assigned.

And asks the brokers, outside of the group, what it has committed and who is in it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from faust.types import TP

from weir.streams.config.settings import KafkaSettings
from weir.streams.errors import BrokerError, UsageError
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.admin.cluster import TopicIdentity, read_identities
from weir.streams.kafka.reachable import METADATA_S, PAUSE_S
from weir.streams.ops.repeated_trouble import RepeatedTrouble
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.redis.stored_rebuild import StoredRebuild
from weir.streams.redis.topic_identity import StoredIdentity

if TYPE_CHECKING:
    from weir.streams.worker.context import Context

log = logging.getLogger(__name__)
AGAIN_S = 1.0


class TopicCheck:
    """The topics of one worker."""

    def __init__(self, ctx: Context) -> None:
        self._ctx, self._stored = ctx, StoredIdentity(ctx.link)
        self._now: dict[str, TopicIdentity] = {}
        """By Weir's own names, as of the last look."""
        self._said = False

    async def look(self, owns: Iterable[str]) -> dict[str, TopicIdentity]:
        """Ask the brokers anew; raises ``UsageError`` where there is no such topic."""
        name = self._ctx.name
        names = {name(own): own for own in owns}
        found = await identities(self._ctx.settings.kafka, list(names), self._ctx.settings.worker.delivery_timeout_s)
        if absent := names.keys() - found.keys():
            raise UsageError(f"no topic {', '.join(sorted(absent))}; weir topics create")
        now = {own: found[actual] for actual, own in names.items()}
        self._now |= now
        if not self._said and not all(identity.id for identity in now.values()):
            self._said = True
            log.warning("these brokers give topics no ids (Kafka 2.8 and newer do): one made anew is not noticed")
        return now

    async def check_partitions(self, own: str) -> None:
        """See `StoredIdentity`; ``own`` is any topic keyed by entity, as it was last looked at.

        Raises ``UsageError`` also while a rebuild is under way, or was cut short.
        """
        await self._stored.check_partitions(self._now[own].partitions)
        await StoredRebuild(self._ctx.link).check()

    async def check(self, lane: Lane) -> None:
        """See `StoredIdentity.check_topic`."""
        if lane[0] in self._now:
            await self._stored.check_topic(lane, self._ctx.name(lane[0]), self._now[lane[0]])

    async def look_again(self, lane: Lane) -> None:
        """`check`, after another look: the topic may have been made anew since."""
        await self.look([lane[0]])
        await self.check(lane)

    async def sought(self, lane: Lane) -> None:
        """A person chose a position in the topic that is there now."""
        await self.look([lane[0]])
        await self.accept(lane)

    async def accept(self, lane: Lane) -> None:
        """The positions of a partition are of the topic that is there now."""
        await self._stored.accept(lane, self._now.get(lane[0]) or (await self.look([lane[0]]))[lane[0]])


async def identities(settings: KafkaSettings, names: list[str], patience_s: float) -> dict[str, TopicIdentity]:
    """Those of ``names`` that exist; raises ``BrokerError`` when nobody answers for ``patience_s``.

    One that a broker does not show is asked for again for ``METADATA_S``.
    """

    def ask() -> dict[str, TopicIdentity]:
        with admin_client(settings) as admin:
            return read_identities(admin, names)

    loop = asyncio.get_running_loop()
    failures = RepeatedTrouble(log, "topics cannot be looked at")
    until, shown_by = loop.time() + patience_s, math.inf
    while True:
        try:
            found = await asyncio.to_thread(ask)
            # From the first answer on: while nobody answered, nobody could have shown it.
            shown_by = min(shown_by, loop.time() + METADATA_S)
            failures.over()
            if len(found) == len(set(names)) or loop.time() >= shown_by:
                return found
            await asyncio.sleep(PAUSE_S)
        except BrokerError as error:
            if loop.time() > until:
                raise
            # A rebalance asks this, and one that fails ends the worker: brokers that restart are worth waiting for.
            failures.failed(error)
            await asyncio.sleep(AGAIN_S)


async def committed_offsets(settings: KafkaSettings, group: str) -> dict[TP, int]:
    """Committed offset of each partition that the group ever committed; raises `BrokerError` when nobody answers."""

    def ask() -> Any:
        with admin_client(settings) as admin:
            return admin.list_group_offsets([group])[group]

    held = await asyncio.to_thread(ask)
    return {TP(tp.topic, tp.partition): meta.offset for tp, meta in held.items()}


async def active_members(settings: KafkaSettings, group: str) -> int:
    """How many workers are in the group now; raises `BrokerError` when no broker can say."""

    def ask() -> Any:
        with admin_client(settings) as admin:
            return admin.describe_groups([group])[group]

    found = await asyncio.to_thread(ask)
    # Kafka 4 calls it an error that nobody ever joined. Whatever else is wrong, it does not mean that nobody is there.
    if found["error"] and "GroupIdNotFound" not in found["error"]:
        raise BrokerError(f"group {group!r} cannot be looked at: {found['error']}; try again")
    return len(found["members"])
