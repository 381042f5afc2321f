"""Where to read a partition whose offset cannot be used: none yet, deleted since, or behind the end of the log."""

from __future__ import annotations

import logging
from typing import Any

from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from weir.streams.kafka.kafka_errors import RecordsDeleted
from weir.streams.kafka.transport_settings import TransportSettings

log = logging.getLogger(__name__)


async def resolve(consumer: Any, tp: Any, failed: Any, settings: TransportSettings) -> None:
    """Choose where an `AIOKafkaConsumer` goes on after a `FetchError`; raises every error that is not about that."""
    try:
        failed.check_raise()
    except NoOffsetForPartitionError:
        log.info("%s-%d: the group has no offset yet, so it starts at the earliest", tp.topic, tp.partition)
    except OffsetOutOfRangeError as error:
        offset, name = error.args[0].get(tp), f"{tp.topic}-{tp.partition}"
        end = (await consumer.end_offsets([tp]))[tp]
        if offset > end:
            raise RecordsDeleted(
                f"{name}: the log ends at offset {end}, and we are at {offset}: somebody made the topic anew, or Kafka "
                "lost records. Restore them, or clear what was stored about the old ones"
            ) from error
        if settings.when_deleted == "stop":
            raise RecordsDeleted(
                f"{name}: offset {offset} is not in Kafka any more: retention deleted records before group "
                f"{settings.group!r} processed them. Restore them, or set when_deleted='skip' to go on with the first "
                "that is left; and give the topic more retention"
            ) from error
        log.error("%s: offset %d is not in Kafka any more: going on with the first that is left", name, offset)
    assignment = consumer._fetcher._subscriptions.subscription.assignment
    state = assignment.state_value(tp) if assignment is not None else None
    if state is not None:  # else it was revoked meanwhile
        state.await_reset(OffsetResetStrategy.EARLIEST)
