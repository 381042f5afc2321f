"""Producing record batches: acks=all, in order within a partition, built whole instead of record by record.

aiokafka's idempotent producer retries inside (leader moved, broker away, request timed out) without repeats and
without reordering. Around it: keys to partitions by batch, one queue per partition so that calls keep their order, a
size check before anything is sent, and patience while a broker is away. After a `DeliveryError` the producer refuses
everything: what was sent behind the lost batch is unknown, and the worker starts again from its committed offsets.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from ssl import SSLContext
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from faust.types.auth import CredentialsT

from streams.log import Record
from streams.transport.errors import DeliveryError, RecordTooLarge
from streams.transport.partition import partitions_of
from streams.transport.settings import TransportSettings

log = logging.getLogger(__name__)

# Batch header and the most that one record's own fields take (Kafka's message format 2), with room to spare.
_OVERHEAD_BYTES = 61 + 21 + 6


class BatchProducer:
    """Sends records in batches; start and use it in one event loop.

    Parameters
    ----------
    settings : addresses, sizes, patience.
    credentials, ssl_context : as Faust takes them.
    """

    def __init__(
        self,
        settings: TransportSettings,
        *,
        credentials: CredentialsT | None = None,
        ssl_context: SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._auth = credentials_to_aiokafka_auth(credentials, ssl_context)
        self._producer: Any = None
        self._turns: dict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._failed: DeliveryError | None = None

    async def start(self) -> None:
        """Connect; raises `DeliveryError` when no broker answers."""
        s = self._settings
        self._failed = None
        self._producer = AIOKafkaProducer(
            bootstrap_servers=s.bootstrap,
            acks="all",
            enable_idempotence=True,
            max_batch_size=s.produce_batch_bytes,
            request_timeout_ms=int(s.request_timeout_s * 1000),
            compression_type=s.compression,
            **self._auth,
        )
        # While a partition has no leader, aiokafka drops batches older than this; its default is one request's time.
        self._producer._message_accumulator._batch_ttl = s.delivery_timeout_s
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            raise DeliveryError(f"no broker at {s.bootstrap} answers: {error}; check the address") from error

    async def stop(self) -> None:
        """Deliver what was sent, then disconnect."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()

    async def send(self, topic: str, records: Sequence[Record]) -> asyncio.Future[None]:
        """Send records; returns when they are queued, with a future that ends when all in-sync replicas have them.

        Records of one partition keep their order, within a call and from call to call. A record's partition is that
        of its key under Kafka's default partitioner; ``b""`` is a key like others. ``ts`` becomes the record's
        timestamp, by which the broker's retention deletes: give the time of sending, not of an event long ago.

        Raises
        ------
        RecordTooLarge : a record exceeds ``max_record_bytes``; nothing of this call was sent.
        DeliveryError : also from the future: the broker refused, or did not answer for ``delivery_timeout_s``.
        """
        self._usable()
        self._check_sizes(topic, records)
        acknowledged: list[asyncio.Future[Any]] = []
        for partition, lane in await self._lanes(topic, records):
            async with self._turns[topic, partition]:
                acknowledged += [await self._enqueue(batch, topic, partition) for batch in self._batches(lane)]
        return asyncio.ensure_future(self._all(topic, acknowledged))

    async def send_and_wait(self, topic: str, records: Sequence[Record]) -> None:
        """Send records and wait for their acknowledgement."""
        await (await self.send(topic, records))

    def _usable(self) -> None:
        if self._failed is not None:
            raise DeliveryError(f"an earlier send failed: {self._failed}; restart the worker") from self._failed
        if self._producer is None:
            raise DeliveryError("the producer is not running; start it first")

    def _check_sizes(self, topic: str, records: Sequence[Record]) -> None:
        room = self._settings.max_record_bytes - _OVERHEAD_BYTES
        for index, (key, value, _) in enumerate(records):
            if len(key) + len(value) > room:
                raise RecordTooLarge(
                    f"record {index} for topic {topic!r} (key {key[:64]!r}) has {len(key) + len(value)} bytes, and at "
                    f"most {room} fit; send it to the dead letters, or raise max_record_bytes and the topic's "
                    "max.message.bytes",
                    index,
                )

    async def _lanes(self, topic: str, records: Sequence[Record]) -> list[tuple[int, Sequence[Record]]]:
        """The records of each partition, in order."""
        partitions = await self._patiently(topic, lambda: self._producer.partitions_for(topic))
        if len(partitions) == 1:
            return [(0, records)] if records else []
        lanes: dict[int, list[Record]] = defaultdict(list)
        for record, partition in zip(
            records, partitions_of([r.key for r in records], len(partitions)).tolist(), strict=True
        ):
            lanes[partition].append(record)
        return sorted(lanes.items())

    def _batches(self, records: Sequence[Record]) -> Iterator[Any]:
        """Full batches of at most ``produce_batch_bytes``; a larger single record has one to itself."""
        batch = self._producer.create_batch()
        for key, value, ts in records:
            timestamp = int(ts * 1000)
            if batch.append(timestamp=timestamp, key=key, value=value) is None:
                yield batch
                batch = self._producer.create_batch()
                batch.append(timestamp=timestamp, key=key, value=value)
        batch.close()
        yield batch

    async def _enqueue(self, batch: Any, topic: str, partition: int) -> asyncio.Future[Any]:
        acknowledged: asyncio.Future[Any] = await self._patiently(
            topic, lambda: self._producer.send_batch(batch, topic, partition=partition)
        )
        return acknowledged

    async def _patiently(self, topic: str, attempt: Any) -> Any:
        """Repeat an attempt that times out before it has any effect, for ``delivery_timeout_s``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.delivery_timeout_s
        while True:
            self._usable()
            try:
                return await attempt()
            except KafkaTimeoutError as error:
                if loop.time() >= deadline:
                    raise self._fail(topic, error) from error
                log.warning("topic %s: %s; still trying", topic, error)
            except KafkaError as error:
                raise self._fail(topic, error) from error

    async def _all(self, topic: str, acknowledged: list[asyncio.Future[Any]]) -> None:
        for result in await asyncio.gather(*acknowledged, return_exceptions=True):
            if isinstance(result, BaseException):
                raise self._fail(topic, result) from result

    def _fail(self, topic: str, error: BaseException) -> DeliveryError:
        """Remember that order and delivery are not known any more."""
        hint = "restart the worker, which repeats the batch"
        if isinstance(error, MessageSizeTooLargeError):
            hint = (
                f"the topic's max.message.bytes is smaller than max_record_bytes={self._settings.max_record_bytes} or "
                f"produce_batch_bytes={self._settings.produce_batch_bytes}; make them agree"
            )
        failed = DeliveryError(f"topic {topic!r}: {type(error).__name__}: {error}; {hint}")
        self._failed = self._failed or failed
        return failed
