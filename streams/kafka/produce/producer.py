"""Producing record batches: acks=all, in order within a partition, built whole instead of record by record.

aiokafka's idempotent producer retries inside (leader moved, broker away, request timed out) without repeats and
without reordering. Around it: keys to partitions by batch, one queue per partition so that calls keep their order, a
size check before anything is sent, and patience while a broker is away. After a `DeliveryError` the producer refuses
everything: what was sent behind the lost batch is unknown, and the worker starts again from its committed offsets.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)
from numpy.typing import NDArray

from weir.streams.errors import UsageError, in_words
from weir.streams.kafka.kafka_errors import DeliveryError, RecordTooLarge
from weir.streams.kafka.partitioners import partitions_of_joined
from weir.streams.kafka.produce.record_batches import (
    HEADER_BYTES,
    RECORD_BYTES,
    Columns,
    EncodedBatch,
    encoded_batches,
)
from weir.streams.kafka.reachable import calm_logs, grant, not_let_in, pace_connecting
from weir.streams.kafka.transport_settings import LinkSecurity, TransportSettings
from weir.streams.records import Record

log = logging.getLogger(__name__)

AGAIN: Final = "restart the worker, which repeats the batch"
"""What to do after most errors of a send."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Where one batch of records is in Kafka: ``count`` consecutive offsets from ``base_offset`` on.

    A call's next batch in the same partition need not follow at once when others write there too.
    """

    partition: int
    base_offset: int
    count: int


@dataclass(frozen=True, slots=True)
class _Sending:
    partition: int
    count: int
    acknowledged: asyncio.Future[Any]


class BatchProducer:
    """Sends records in batches; start and use it in one event loop.

    Parameters
    ----------
    settings : addresses, sizes, patience.
    security : of the link; plain text without it.
    """

    def __init__(self, settings: TransportSettings, security: LinkSecurity | None = None) -> None:
        self._settings = settings
        self._security = security or LinkSecurity()
        self._producer: Any = None
        self._turns: dict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._failed: DeliveryError | None = None
        self._waiting: dict[object, float] = {}
        """When each call that is not over began, the oldest first, monotonic."""
        self.limits: Mapping[str, int] = {}
        """``max.message.bytes`` of topics, where somebody has looked."""

    def limit(self, topic: str) -> int:
        """Bytes that a record of a topic may have, its frame included: as set, and as the topic takes them."""
        as_set = self._settings.larger.get(topic, self._settings.max_record_bytes)
        return min(as_set, self.limits.get(topic, as_set))

    async def start(self) -> None:
        """Connect, unless connected; raises ``BrokerError`` when no broker takes us, saying why."""
        if self._producer is not None:
            return
        s = self._settings
        self._failed = None
        calm_logs()
        self._producer = AIOKafkaProducer(
            bootstrap_servers=s.bootstrap,
            client_id=f"{s.client_id}-producer",
            acks="all",
            enable_idempotence=True,
            max_batch_size=s.produce_batch_bytes,
            request_timeout_ms=int(s.request_timeout_s * 1000),
            **self._security.options,
        )
        pace_connecting(self._producer.client)
        # While a partition has no leader, aiokafka drops batches older than this; its default is one request's time.
        self._producer._message_accumulator._batch_ttl = s.delivery_timeout_s
        try:
            await self._producer.start()
        except KafkaError as error:
            await self.stop()
            raise await not_let_in(s.bootstrap, self._security, s.request_timeout_s, error) from error

    async def stop(self, within_s: float | None = None) -> None:
        """Deliver what was sent, then disconnect; what no broker takes ``within_s`` seconds is given up."""
        if self._producer is not None:
            # First: a send from now on is refused, not queued behind the end.
            producer, self._producer = self._producer, None
            try:
                async with asyncio.timeout(within_s):
                    await producer.stop()
            except TimeoutError:
                sender = producer._sender.sender_task
                sender.cancel()  # then it waits for what is under way, which ends with the connections
                await producer.client.close()
                await asyncio.wait([sender], timeout=1.0)

    async def send(self, topic: str, records: Sequence[Record]) -> asyncio.Future[list[Sent]]:
        """Send records; returns when they are queued, with a future that ends when all in-sync replicas have them.

        The future tells where they are, by partition, in the order of each.

        Records of one partition keep their order, within a call and from call to call. A record's partition is that
        of its key under Kafka's default partitioner; ``b""`` is a key like others. ``ts`` becomes the record's
        timestamp, by which the broker's retention deletes: give the time of sending, not of an event long ago.

        Raises
        ------
        RecordTooLarge : a record exceeds ``max_record_bytes``; nothing of this call was sent.
        DeliveryError : also from the future: the broker refused, or did not answer for ``delivery_timeout_s``.
        """
        self._usable()
        columns = self._fitting(topic, Columns.of(records))
        sending: list[_Sending] = []
        for partition, rows in await self._lanes(topic, columns):
            sending += await self._enqueue(topic, partition, columns, rows)
        return self._delivery(topic, sending)

    async def send_to(self, topic: str, partition: int, records: Sequence[Record]) -> asyncio.Future[list[Sent]]:
        """`send`, but to one partition whatever the keys; raises ``UsageError`` when the topic does not have it."""
        (delivery,) = await self.send_parts(topic, Columns.of(records), [(partition, np.arange(len(records)))])
        return delivery

    async def send_parts(
        self, topic: str, columns: Columns, parts: Sequence[tuple[int, NDArray[np.int64]]]
    ) -> list[asyncio.Future[list[Sent]]]:
        """`send_to` for each of some partitions with the rows of ``columns`` that go there; a future for each."""
        self._usable()
        columns = self._fitting(topic, columns)
        count = await self.partition_count(topic)
        if wrong := [partition for partition, _ in parts if not 0 <= partition < count]:
            raise UsageError(f"topic {topic!r} has partitions 0 to {count - 1}, so none is {wrong[0]}; correct it")
        return [
            self._delivery(topic, await self._enqueue(topic, partition, columns, rows)) for partition, rows in parts
        ]

    async def send_and_wait(self, topic: str, records: Sequence[Record]) -> list[Sent]:
        """Send records and wait for their acknowledgement."""
        return await (await self.send(topic, records))

    async def reachable(self) -> bool:
        """Whether a broker answers a question now."""
        return self._producer is not None and bool(await self._producer.client.force_metadata_update())

    def waiting_s(self) -> float:
        """How long the oldest records wait for their acknowledgement, or for room; may be asked from any thread."""
        began = next(iter(list(self._waiting.values())), None)
        return 0.0 if began is None else max(time.monotonic() - began, 0.0)

    async def partition_count(self, topic: str) -> int:
        """How many partitions a topic has; `DeliveryError` when it is not there."""
        return len(await self._patiently(topic, lambda: self._producer.partitions_for(topic)))

    def _usable(self) -> None:
        if self._failed is not None:
            raise DeliveryError(f"an earlier send failed: {self._failed}; restart the worker") from self._failed
        if self._producer is None:
            raise DeliveryError("the producer is not running; start it first")

    def _fitting(self, topic: str, columns: Columns) -> Columns:
        """The records, each small enough."""
        room = self.limit(topic) - HEADER_BYTES - RECORD_BYTES
        sizes = columns.sizes()
        too_large = np.flatnonzero(sizes > room)
        if len(too_large):
            index = int(too_large[0])
            key = columns.record(index).key[:64]
            raise RecordTooLarge(
                f"record {index} for topic {topic!r} (key {key!r}) has {sizes[index]} bytes, and at most {room} fit; "
                "send it to the dead letters, or raise max_record_bytes and the topic's max.message.bytes",
                index,
            )
        return columns

    async def _lanes(self, topic: str, columns: Columns) -> list[tuple[int, NDArray[np.int64]]]:
        """Partitions and the places of their records, in order."""
        key_sizes = np.diff(columns.key_ends, prepend=0)
        partitions = partitions_of_joined(columns.keys, key_sizes, await self.partition_count(topic))
        # Stable, as the records of a partition keep the order of the call.
        order = np.argsort(partitions, kind="stable")
        found, starts = np.unique(partitions[order], return_index=True)
        return list(zip(found.tolist(), np.split(order, starts[1:]), strict=True)) if len(found) else []

    async def _enqueue(self, topic: str, partition: int, columns: Columns, rows: NDArray[np.int64]) -> list[_Sending]:
        """Hand one partition's records over, in their turn."""
        sending, s = [], self._settings
        # Over all batches of the call: each may wait to be tried again, and another call must not come between them.
        async with self._turns[topic, partition]:
            for batch in encoded_batches(columns, rows, s.produce_batch_bytes, s.compression_type):
                send = functools.partial(self._send_batch, batch, topic, partition)
                sending.append(_Sending(partition, batch.record_count(), await self._patiently(topic, send)))
        return sending

    def _send_batch(self, batch: EncodedBatch, topic: str, partition: int) -> Any:
        # The producer of now: one that stopped while the call waited for its turn is told of by `_usable`.
        return self._producer.send_batch(batch, topic, partition=partition)

    async def _patiently(self, topic: str, attempt: Any) -> Any:
        """Repeat an attempt that times out before it has any effect, for ``delivery_timeout_s``."""
        began, patience_s, call = time.monotonic(), self._settings.delivery_timeout_s, object()
        self._waiting[call] = began
        try:
            while True:
                self._usable()
                try:
                    return await attempt()
                except KafkaTimeoutError as error:
                    waited_s = time.monotonic() - began
                    if waited_s >= patience_s:
                        raise self._fail(topic, error) from error
                    words = "topic %s: brokers take nothing for %.0f s; trying for %g s"
                    log.warning(words, topic, waited_s, patience_s)
                except KafkaError as error:
                    raise self._fail(topic, error) from error
        finally:
            del self._waiting[call]

    def _delivery(self, topic: str, sending: list[_Sending]) -> asyncio.Future[list[Sent]]:
        """Ends when all of ``sending`` has been answered."""
        delivery: asyncio.Future[list[Sent]] = asyncio.get_running_loop().create_future()
        left = len(sending)
        if sending:
            self._waiting[delivery] = time.monotonic()

        def answered(_: asyncio.Future[Any] | None) -> None:
            nonlocal left
            # The last answer ends the call, also behind a failure: until then some of it is under way.
            left -= 1
            if left > 0:
                return
            self._waiting.pop(delivery, None)
            try:
                sent = [self._sent(topic, batch) for batch in sending]
            except DeliveryError as error:
                if not delivery.done():
                    delivery.set_exception(error)
            else:
                if not delivery.done():
                    delivery.set_result(sent)

        for batch in sending:
            batch.acknowledged.add_done_callback(answered)
        if not sending:
            answered(None)
        return delivery

    def _sent(self, topic: str, batch: _Sending) -> Sent:
        """Where an answered batch is; raises ``DeliveryError``, after which the producer takes nothing more."""
        if batch.acknowledged.cancelled():
            raise self._fail(topic, KafkaError("the producer gave the records up"))
        error = batch.acknowledged.exception()
        if error is not None:
            raise self._fail(topic, error) from error
        offset = batch.acknowledged.result().offset
        if offset < 0:  # a repeated request found the batch there, too long ago for the broker to say where
            raise self._fail(topic, KafkaError("the broker has the records and does not know any more where"))
        return Sent(batch.partition, offset, batch.count)

    def _fail(self, topic: str, error: BaseException) -> DeliveryError:
        """Remember that order and delivery are not known any more."""
        failed = DeliveryError(f"topic {topic!r}: {in_words(error)}; {self._hint(error)}")
        self._failed = self._failed or failed
        return failed

    def _hint(self, error: BaseException) -> str:
        if isinstance(error, MessageSizeTooLargeError):
            return (
                f"the topic's max.message.bytes is smaller than max_record_bytes={self._settings.max_record_bytes} or "
                f"produce_batch_bytes={self._settings.produce_batch_bytes}; make them agree"
            )
        if isinstance(error, TopicAuthorizationFailedError):
            return grant(self._security, "write it")
        if isinstance(error, InvalidTimestampError):
            return "a record's time is too far from the broker's clock (message.timestamp.after.max.ms): correct either"
        return AGAIN
