"""Kafka as the service's log: appends are published, outputs are tailed by every process, places are Kafka's own."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final, NamedTuple

from weir.online.batch import EventBatch
from weir.online.codec.decode import DecodedEvents
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import BrokerError, UsageError, WeirError, in_words
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.consume.tail_reader import TailedBatch, TailReader
from weir.streams.kafka.kafka_errors import DeliveryError, RecordsDeleted
from weir.streams.kafka.partitioners import PartitionerName, partitions_of_text
from weir.streams.kafka.produce.producer import AGAIN, BatchProducer
from weir.streams.kafka.transport_settings import link_security, transport_settings
from weir.streams.ops.repeated_trouble import RepeatedTrouble
from weir.streams.records import Record, RecordBatch
from weir.streams.redis.client import RedisClient
from weir.streams.service.parts import NoLongerKept, OverloadError, ended
from weir.streams.service.ports import Decoded, Listener, Listeners, Outcome, Span
from weir.streams.worker.identity.partitioner import stored_partitioner
from weir.streams.worker.identity.topic_check import identities

log = logging.getLogger(__name__)

PATIENCE_S: Final = 10.0
"""How long brokers may take to acknowledge what a caller sent, or to answer what one asks, before that is an error."""
_AGAIN_S: Final = 1.0
_STOP_S: Final = 3.0
"""How long a stop waits for brokers to take what waits."""
_NEEDED: Final = (
    *topics.INPUTS, *topics.OUTPUTS, topics.DECISIONS, topics.MODEL_UPDATES, topics.DEAD_LETTERS_DONE,
    topics.CASE_EVENTS, topics.AUDIT, topics.NOTIFICATIONS,
)  # fmt: skip
"""What the service reads or writes."""


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
        self._redis: RedisClient | None = None
        self._listeners = Listeners()
        self._outbox: dict[str, deque[_Waiting]] = defaultdict(deque)
        self._waiting_records = 0
        self._readers: dict[str, RangeReader] = {}
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._following: asyncio.Task[None] | None = None
        self.epoch = ""
        self.on_fault: Callable[[str], None] = log.error
        """Called with why listeners get no batches any more; the process must end then."""
        self.repeats: Callable[[str, EventBatch], Collection[int]] | None = None
        """The rows of a batch of events on which this process has seen decisions already."""
        self._not_sent: dict[str, str] = {}
        """By topic, why nothing of it goes out; another topic may go well meanwhile."""
        self._not_read: str | None = None
        self._following_fails = RepeatedTrouble(log, "outputs are not read")

    def trouble(self) -> list[str]:
        """Why records do not come or go now, a sentence each."""
        return [*dict.fromkeys([*self._not_sent.values(), *filter(None, [self._not_read])])]

    async def start(self) -> None:
        """Connect; raises ``BrokerError`` where no broker answers, ``UsageError`` where a topic is not there."""
        try:
            self.epoch = await self._identity()
            await self._open_producer()
            await self._tail.start()
            followed = self._listeners.topics()
            await self._tail.follow(map(self._name, followed))
        except BaseException:
            await self.stop()
            raise
        self._following = asyncio.create_task(self._follow(followed))
        self._following.add_done_callback(self._ended)

    async def _identity(self) -> str:
        """Digest of the topics' ids: topics that are made anew begin at offset 0 again, with other records."""
        found = await identities(self._settings.kafka, [self._name(own) for own in _NEEDED], PATIENCE_S)
        if absent := [self._name(own) for own in _NEEDED if self._name(own) not in found]:
            where = ", ".join(self._settings.kafka.bootstrap)
            raise UsageError(f"{where}: no topic {', '.join(absent)} that you may see; run weir topics create")
        names = [self._name(own) for own in (*topics.INPUTS, *topics.OUTPUTS)]
        # Ids, not names: a topic that was deleted and made again has the name of before.
        ids = sorted(f"{name}={found[name].id}" for name in names)
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12]

    async def _open_producer(self) -> None:
        transport = transport_settings(self._settings, "weir-serve")
        self._producer = BatchProducer(transport, link_security(self._settings.kafka))
        await self._producer.start()

    async def stop(self) -> None:
        """Send what waits, then disconnect; brokers that are away are not waited for."""
        await ended(self._following)
        if self._senders:
            await asyncio.wait(self._senders.values(), timeout=_STOP_S)
        for sender in self._senders.values():
            sender.cancel()
        await asyncio.gather(*self._senders.values(), return_exceptions=True)
        if self._producer is not None:
            await self._producer.stop(_STOP_S)
        for reader in self._readers.values():
            await reader.__aexit__(None, None, None)
        await self._tail.stop()
        if self._redis is not None:
            await self._redis.stop()

    async def redis(self) -> RedisClient:
        """The link to Redis, where workers keep rows; it stays open. ``StoreUnavailable`` where nobody answers."""
        async with self._turns["redis"]:
            if self._redis is None:
                held = self._settings.redis
                # Not a worker's patience, which is a minute: a person waits for the answer.
                link = RedisClient(held, patience_s=held.timeout_s, prefix=held.prefix)
                try:
                    # Rows are their workers'; nothing here may need the right to write.
                    await link.start(writes=False)
                except BaseException:
                    await link.stop()
                    raise
                self._redis = link
        return self._redis

    async def append(self, topic: str, records: Sequence[Record], decoded: Decoded | None = None) -> list[Outcome]:
        """See ``ServiceLog``: acknowledged by all in-sync replicas.

        A repeat is told of an event on which this process has seen decisions; it is sent all the same, as workers
        know of more.
        """
        room = self._settings.serve.intake.waiting_records
        # One body alone may be larger than the limit: it can not wait for less, and 503 would send it here for ever.
        if self._waiting_records and self._waiting_records + len(records) > room:
            raise OverloadError(
                f"{self._waiting_records} records wait for the brokers, allowed {room}; send again later"
            )
        repeats: Collection[int] = ()
        if self.repeats is not None and isinstance(decoded, DecodedEvents):
            repeats = self.repeats(topic, decoded.batch)
        waiting = _Waiting(records, asyncio.get_running_loop().create_future())
        self._waiting_records += len(records)
        self._outbox[topic].append(waiting)
        if topic not in self._senders:
            self._senders[topic] = asyncio.create_task(self._send_all(topic))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await waiting.sent
        except TimeoutError:
            why = f"the brokers did not acknowledge within {PATIENCE_S:g} s; send the records again: repeats are known"
            self._not_sent[topic] = why
            raise BrokerError(why) from None
        return [Outcome("repeat" if row in repeats else "accepted") for row in range(len(records))]

    async def _send_all(self, own: str) -> None:
        """Send what waits for a topic, all of it as one call: what comes while brokers answer goes out together.

        Topics do not wait for each other: a partition without a leader holds up its own topic alone.
        """
        try:
            while waiting := self._outbox.pop(own, None):
                await self._send(own, list(waiting))
        finally:
            # No await lies between the last look at the outbox and this, so nothing that came is left without a sender.
            del self._senders[own]

    async def _send(self, own: str, waiting: list[_Waiting]) -> None:
        records = [record for each in waiting for record in each.records]
        # What callers hear where this task is cancelled, as `stop` does to those that wait too long.
        error: BrokerError | None = BrokerError("the service stops; send the records again: repeats are known")
        try:
            await self._publish(own, records)
            self._not_sent.pop(own, None)
            error = None
        except WeirError as failed:
            self._not_sent[own] = f"the brokers did not take records: {str(failed).removesuffix(f'; {AGAIN}')}"
            error = BrokerError(f"{self._not_sent[own]}; send them again: repeats are known")
            if isinstance(failed, DeliveryError):
                await self._renew_producer()
        finally:
            self._waiting_records -= len(records)
            for each in waiting:
                if each.sent.done():  # its caller has gone
                    continue
                if error is None:
                    each.sent.set_result(None)
                else:
                    each.sent.set_exception(error)

    async def _publish(self, own: str, records: Sequence[Record]) -> None:
        assert self._producer is not None
        if self._partitioner is None and own in topics.INPUTS:
            self._partitioner = await stored_partitioner(await self.redis())
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
                await self._producer.stop(_STOP_S)
            await self._open_producer()

    def subscribe(self, topics: Sequence[str], listener: Listener) -> Callable[[], None]:
        """See ``ServiceLog``; a topic that nobody listens to is not read."""
        return self._listeners.add(topics, listener)

    async def _follow(self, followed: set[str]) -> None:
        while True:
            try:
                # Looked at each time: a part may listen to another topic later.
                if (now := self._listeners.topics()) != followed:
                    await self._tail.follow(map(self._name, now))
                    followed = now
                for batch in await self._tail.fetch():
                    self._listeners.tell(replace(batch, topic=self._settings.topics.own(batch.topic) or batch.topic))
                self._not_read = None
                self._following_fails.over()
            except BrokerError as error:
                self._not_read = str(error)
                self._following_fails.failed(error)
                await asyncio.sleep(_AGAIN_S)

    def _ended(self, following: asyncio.Task[None]) -> None:
        """Listeners would miss records and not know it: a process that is started again reads on from its places."""
        if not following.cancelled() and (error := following.exception()):
            self._not_read = f"outputs are not read any more: {in_words(error)}; start this process again"
            self.on_fault(self._not_read)

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
                    # Its end is where the reader stands: offsets without a record after it are then behind whoever
                    # reads on.
                    made.append(TailedBatch(topic, partition, piece.offsets[0], at, piece.records, piece.offsets))
                    size += sum(len(record.value) for record in piece.records)
            return made

    @asynccontextmanager
    async def _reader(self, own: str) -> AsyncIterator[RangeReader]:
        """The reader of a topic; its callers take turns, and after an error it connects anew."""
        try:
            # Also where brokers are away, when a reader only sees that nothing comes.
            async with asyncio.timeout(PATIENCE_S), self._turns[own]:
                if own not in self._readers:
                    reader = RangeReader(self._options, self._name(own), limits=self._settings.limits_of(own))
                    self._readers[own] = await reader.__aenter__()
                try:
                    yield self._readers[own]
                except (BrokerError, asyncio.CancelledError):
                    await self._readers.pop(own).__aexit__(None, None, None)
                    raise
        except TimeoutError:
            raise BrokerError(f"the brokers did not answer within {PATIENCE_S:g} s; ask again later") from None
