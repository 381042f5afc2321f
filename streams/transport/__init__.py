"""Faust on Kafka in record batches: agents receive batches, completed offsets are committed, output is acknowledged."""

from streams.transport.app import BatchApp
from streams.transport.batch import FetchedBatch
from streams.transport.completed import CompletedOffsets, Partition, Ticket
from streams.transport.consumer import BatchConsumer
from streams.transport.errors import DeliveryError, RebalanceHookError, RecordsDeleted, RecordTooLarge
from streams.transport.producer import BatchProducer, Sent
from streams.transport.security import LinkSecurity, link_security, transport_settings
from streams.transport.settings import TransportSettings

__all__ = [
    "BatchApp",
    "BatchConsumer",
    "BatchProducer",
    "CompletedOffsets",
    "DeliveryError",
    "FetchedBatch",
    "LinkSecurity",
    "Partition",
    "RebalanceHookError",
    "RecordTooLarge",
    "RecordsDeleted",
    "Sent",
    "Ticket",
    "TransportSettings",
    "link_security",
    "transport_settings",
]
