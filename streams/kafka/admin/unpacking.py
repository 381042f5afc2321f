"""Lets a consumer of kafka-python unpack what it fetches as workers do: every codec, and within the same bounds.

kafka-python itself reads zstd, lz4 and snappy with packages of its own only, and decompresses without a bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from weir.online.codec.limits import InputLimits
from weir.streams.kafka.admin.clients import kafka_module
from weir.streams.kafka.consume.fetched import FetchedRecords, Unpacking
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.records import RefusedRecord

VIEW_LIMITS: Final = InputLimits(record_bytes=1 << 28, batch_bytes=64 << 20)
"""Of what a person may look at: of a record that workers refuse, too."""


def unpack_within(consumer: Any, limits: InputLimits = VIEW_LIMITS) -> None:
    """Have a ``KafkaConsumer`` give what was refused as a record too, whose value says why."""
    module, unpacking = kafka_module("kafka.consumer.fetcher"), Unpacking(limits)
    theirs = consumer._fetcher.PartitionRecords

    class BoundedRecords(theirs):  # type: ignore[misc, valid-type] # kafka-python has no types
        def _unpack_records(self, tp: Any, records: Any, *_: Any) -> Iterator[Any]:
            aborted = [(each.producer_id, each.first_offset) for each in self.aborted_transactions]
            fetched = FetchedRecords(unpacking, tp, bytes(records._buffer), self.fetch_offset, aborted)
            for piece in fetched:
                for offset, ts, key, value in _shown(piece):
                    self.next_fetch_offset = offset + 1
                    sizes = (len(key or b""), len(value or b""), -1)
                    yield module.ConsumerRecord(*tp, -1, offset, round(ts * 1000), 0, key, value, [], None, *sizes)
            self.next_fetch_offset = fetched.next_fetch_offset
            self.drain()

    consumer._fetcher.PartitionRecords = BoundedRecords


def _shown(piece: Slice) -> Iterator[tuple[int, float, bytes | None, bytes | None]]:
    """Everything in the order of its offsets: offset, time, key, value; what has none has ``None``."""
    held: list[tuple[int, Any]] = [*zip(piece.offsets, piece.records, strict=True)]
    held += [(refused.offset, refused) for refused in piece.refused]
    for offset, each in sorted(held, key=lambda pair: pair[0]):
        if isinstance(each, RefusedRecord):
            yield offset, each.record.ts, each.record.key or None, each.reason.encode()
        else:
            yield offset, each.ts, each.key or None, each.value or None
