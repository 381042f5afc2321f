"""Kafka as the service's log: appends are published, outputs are tailed by every process, places are Kafka's own."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final, NamedTuple

from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import BrokerError, WeirError
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.consume.tail_reader import TailedBatch, TailReader
from weir.streams.kafka.kafka_errors import DeliveryError, RecordsDeleted
from weir.streams.kafka.partitioners import PartitionerName, partitions_of_text
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import link_security, transport_settings
from weir.streams.records import Record, RecordBatch
from weir.streams.redis.client import opened
from weir.streams.service.ports import Decoded, Listener, Outcome, Span
from weir.streams.service.problems import NoLongerKept, Overloaded
from weir.streams.worker.identity.partitioner import stored_partitioner
from weir.streams.worker.identity.topic_check import identities

log = logging.getLogger(__name__)

PATIENCE_S: Final = 10.0
"""How long brokers may take to acknowledge what a caller sent, before the caller is told to send it again."""
_AGAIN_S: Final = 1.0


class _Waiting(NamedTuple):
    records: Sequence[Record]
    sent: asyncio.Future[None]


class KafkaServiceLog:
    """See ``ServiceLog``; nothing it does is in a consumer group.

    Parameters
    ----------
    settings : where the brokers and Redis are, what topics are called.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._name = settings, settings.topics.name
        self._options = settings.kafka.client_options("serve")
        special = {self._name(own): settings.limits_of(own) for own in topics.ALL}
        self._tail = TailReader(self._options, special)
        self._producer: BatchProducer | None = None
        self._partitioner: PartitionerName | None = None
        self._listeners: dict[str, list[Listener]] = defaultdict(list)
        self._outbox: dict[str, deque[_Waiting]] = defaultdict(deque)
        self._waiting_records = 0
        self._news = asyncio.Event()
        self._readers: dict[str, RangeReader] = {}
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: list[asyncio.Task[None]] = []
        self.epoch = ""
        self._not_sent: str | None = None
        self._not_read: str | None = None

    def trouble(self) -> list[str]:
        """Why records do not come or go now, a sentence each."""
        return [why for why in (self._not_sent, self._not_read) if why is not None]

    async def start(self) -> None:
        """Connect; raises ``BrokerError`` where no broker answers, ``UsageError`` where a topic is not there."""
        self.epoch = await self._identity()
        await self._open_producer()
        await self._tail.start()
        await self._tail.follow([self._name(own) for own in self._followed()])
        self._tasks = [asyncio.create_task(self._send_for_ever()), asyncio.create_task(self._tail_for_ever())]

    async def _identity(self) -> str:
        """Digest of the topics' ids: topics that are made anew begin at offset 0 again, with other records."""
        names = [self._name(own) for own in (*topics.INPUTS, *topics.OUTPUTS)]
        found = await identities(self._settings.kafka, names, PATIENCE_S)
        ids = sorted(f"{name}={identity.id}" for name, identity in found.items())
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12]

    async def _open_producer(self) -> None:
        transport = transport_settings(self._settings, "weir-serve")
        self._producer = BatchProducer(transport, link_security(self._settings.kafka))
        await self._producer.start()

    async def stop(self) -> None:
        """Send what waits, then disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for own in list(self._outbox):
            await self._send(own)
        if self._producer is not None:
            await self._producer.stop()
        for reader in self._readers.values():
            await reader.__aexit__(None, None, None)
        await self._tail.stop()

    async def append(self, topic: str, records: Sequence[Record], decoded: Decoded | None = None) -> list[Outcome]:
        """See ``ServiceLog``: acknowledged by all in-sync replicas; whether one is a repeat its worker finds out."""
        del decoded
        room = self._settings.serve.intake.waiting_records
        if self._waiting_records + len(records) > room:
            raise Overloaded(f"{self._waiting_records} records wait for the brokers, allowed {room}; send again later")
        waiting = _Waiting(records, asyncio.get_running_loop().create_future())
        self._waiting_records += len(records)
        self._outbox[topic].append(waiting)
        self._news.set()
        try:
            await asyncio.wait_for(waiting.sent, PATIENCE_S)
        except TimeoutError:
            raise BrokerError(
                f"the brokers did not acknowledge within {PATIENCE_S:g} s; send the records again: repeats are known"
            ) from None
        return [Outcome("accepted")] * len(records)

    async def _send_for_ever(self) -> None:
        """Send all that waits as one call for each topic: what comes while brokers answer goes out together."""
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.gather(*(self._send(own) for own in list(self._outbox)))

    async def _send(self, own: str) -> None:
        waiting = list(self._outbox.pop(own, ()))
        if not waiting:
            return
        records = [record for each in waiting for record in each.records]
        error: BaseException | None = None
        try:
            await self._publish(own, records)
        except WeirError as failed:
            error = failed
            self._not_sent = str(failed)
            if isinstance(failed, DeliveryError):
                await self._renew_producer()
        else:
            self._not_sent = None
        self._waiting_records -= len(records)
        for each in waiting:
            if each.sent.done():  # its caller has gone
                continue
            if error is None:
                each.sent.set_result(None)
            else:
                each.sent.set_exception(BrokerError(str(error)))

    async def _publish(self, own: str, records: Sequence[Record]) -> None:
        assert self._producer is not None
        if self._partitioner is None and own in topics.INPUTS:
            async with opened(self._settings.redis) as link:
                self._partitioner = await stored_partitioner(link)
        if self._partitioner != "crc32" or own not in topics.INPUTS:
            await self._producer.send_and_wait(self._name(own), records)
            return
        # Other producers of this deployment partition by CRC32, and an entity has one partition.
        count = await self._producer.partition_count(self._name(own))
        at = partitions_of_text([record.key.decode() for record in records], count, "crc32").tolist()
        lanes: dict[int, list[Record]] = defaultdict(list)
        for partition, record in zip(at, records, strict=True):
            lanes[partition].append(record)
        sending = [await self._producer.send_to(self._name(own), p, lane) for p, lane in lanes.items()]
        await asyncio.gather(*sending)

    async def _renew_producer(self) -> None:
        """A producer refuses everything after it lost a batch, as a worker's order depends on it; ours does not."""
        with suppress(WeirError):
            if self._producer is not None:
                await self._producer.stop()
            await self._open_producer()

    def subscribe(self, topics: Sequence[str], listener: Listener) -> Callable[[], None]:
        """See ``ServiceLog``; a topic that nobody listens to is not read."""
        for topic in topics:
            self._listeners[topic].append(listener)

        def end() -> None:
            for topic in topics:
                self._listeners[topic].remove(listener)

        return end

    def _followed(self) -> list[str]:
        return [own for own, listeners in self._listeners.items() if listeners]

    async def _tail_for_ever(self) -> None:
        followed = set(self._followed())
        while True:
            try:
                if (now := set(self._followed())) != followed:
                    await self._tail.follow([self._name(own) for own in now])
                    followed = now
                for batch in await self._tail.fetch():
                    self._hand_out(batch)
                self._not_read = None
            except RecordsDeleted as error:
                # Listeners would miss records and not know it: who looks after this process starts it again.
                self._not_read = f"{error}; start this process again"
                log.error("%s", self._not_read)
                return
            except BrokerError as error:
                self._not_read = str(error)
                log.error("%s; trying again", error)
                await asyncio.sleep(_AGAIN_S)

    def _hand_out(self, batch: TailedBatch) -> None:
        own = self._settings.topics.own(batch.topic) or batch.topic
        for listener in self._listeners[own]:
            listener(replace(batch, topic=own))

    async def spans(self, topic: str) -> Mapping[int, Span]:
        """See ``ServiceLog``."""
        async with self._reader(topic) as reader:
            return {p: Span(*await reader.bounds(p)) for p in reader.partitions()}

    async def offsets_at(self, topic: str, ts: float) -> Mapping[int, int]:
        """See ``ServiceLog``."""
        async with self._reader(topic) as reader:
            return {p: await reader.offset_at(p, ts) for p in reader.partitions()}

    async def read(self, topic: str, partition: int, offset: int, max_bytes: int = 1 << 20) -> Sequence[RecordBatch]:
        """See ``ServiceLog``."""
        async with self._reader(topic) as reader:
            first, end = await reader.bounds(partition)
            if offset < first:
                raise NoLongerKept(topic, partition, offset, first)
            made: list[RecordBatch] = []
            size, at = 0, offset
            reader.stand(partition, offset)
            while at < end and size < max_bytes:
                try:
                    piece = await reader.fetch()
                except RecordsDeleted:
                    raise NoLongerKept(topic, partition, at, (await reader.bounds(partition))[0]) from None
                at = await reader.position()
                if piece.records:
                    made.append(TailedBatch(topic, partition, piece.offsets[0], at, piece.records, piece.offsets))
                    size += sum(len(record.value) for record in piece.records)
            return made

    @asynccontextmanager
    async def _reader(self, own: str) -> AsyncIterator[RangeReader]:
        """The reader of a topic; its callers take turns, and after an error it connects anew."""
        async with self._turns[own]:
            if own not in self._readers:
                reader = RangeReader(self._options, self._name(own), limits=self._settings.limits_of(own))
                self._readers[own] = await reader.__aenter__()
            try:
                yield self._readers[own]
            except BrokerError:
                await self._readers.pop(own).__aexit__(None, None, None)
                raise
