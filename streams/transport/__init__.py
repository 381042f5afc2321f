"""Faust on Kafka in record batches: agents receive batches, completed offsets are committed, output is acknowledged."""

from streams.transport.app import BatchApp
from streams.transport.batch import FetchedBatch
from streams.transport.completed import CompletedOffsets, Partition, Ticket
from streams.transport.consumer import BatchConsumer
from streams.transport.errors import DeliveryError, RecordsDeleted, RecordTooLarge
from streams.transport.producer import BatchProducer
from streams.transport.settings import TransportSettings

__all__ = [
    "BatchApp",
    "BatchConsumer",
    "BatchProducer",
    "CompletedOffsets",
    "DeliveryError",
    "FetchedBatch",
    "Partition",
    "RecordTooLarge",
    "RecordsDeleted",
    "Ticket",
    "TransportSettings",
]
