"""What a consumer group has committed, asked outside of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from faust.types import TP

from weir.streams.config.settings import KafkaSettings
from weir.streams.errors import BrokerError
from weir.streams.kafka.kafka_errors import said


async def committed_offsets(settings: KafkaSettings, group: str) -> dict[TP, int]:
    """Committed offset of each partition that the group ever committed; raises `BrokerError` when nobody answers."""
    async with _admin(settings, group) as admin:
        held = await admin.list_consumer_group_offsets(group)
    return {TP(tp.topic, tp.partition): int(meta.offset) for tp, meta in held.items()}


async def active_members(settings: KafkaSettings, group: str) -> int:
    """How many workers are in the group now; raises `BrokerError` when nobody answers."""
    async with _admin(settings, group) as admin:
        (response,) = await admin.describe_consumer_groups([group])
    # (error code, group, state, protocol type, protocol, members, ...)
    return sum(len(described[5]) for described in response.groups)


@asynccontextmanager
async def _admin(settings: KafkaSettings, group: str) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**settings.client_options("group"))
    try:
        await admin.start()
        yield admin
    except KafkaError as error:
        where = ", ".join(settings.bootstrap)
        raise BrokerError(f"{where}: group {group!r} cannot be looked at: {said(error)}") from error
    finally:
        await admin.close()
