"""What a consumer group has committed, asked outside of it."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from faust.types import TP

from streams.errors import BrokerError
from streams.settings import KafkaSettings


async def committed_offsets(settings: KafkaSettings, group: str) -> dict[TP, int]:
    """Committed offset of each partition that the group ever committed; raises `BrokerError` when nobody answers."""
    admin = AIOKafkaAdminClient(**settings.client_options("group"))
    try:
        await admin.start()
        held = await admin.list_consumer_group_offsets(group)
    except KafkaError as error:
        where = ", ".join(settings.bootstrap)
        raise BrokerError(f"{where}: the offsets of group {group!r} cannot be read: {error}; see [kafka]") from error
    finally:
        await admin.close()
    return {TP(tp.topic, tp.partition): int(meta.offset) for tp, meta in held.items()}
