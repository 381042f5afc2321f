"""The record-batch producer against a real Kafka: order, places, sizes, refusals."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer
from kafka.partitioner.default import murmur2

from tests.integration.copying import produce, read, some
from tests.integration.kafka_broker import Broker
from weir.streams.errors import BrokerError, UsageError
from weir.streams.kafka.kafka_errors import DeliveryError, RecordTooLarge
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.produce.record_batches import Columns
from weir.streams.kafka.transport_settings import TransportSettings
from weir.streams.records import Record

pytestmark = pytest.mark.integration
NewTopic = Callable[..., str]


def test_batches_are_in_order_and_where_kafkas_partitioner_puts_them(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic(7)
    records = [*some(5_000), Record(b"", b"no key", time.time()), Record("ключ".encode(), b"", time.time())]
    produce(kafka, topic, records, produce_batch_bytes=2_048)  # many batches a partition
    expected = defaultdict(list)
    for r in records:
        expected[(murmur2(r.key) & 0x7FFFFFFF) % 7].append((r.key, r.value, int(r.ts * 1000)))
    got = defaultdict(list)
    for r in read(kafka, topic):
        got[r.partition].append((r.key, r.value, r.timestamp))
    assert got == expected


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_brokers_take_what_is_compressed_and_clients_read_it(
    kafka: Broker, new_topic: NewTopic, codec: str
) -> None:
    topic, records = new_topic(1), some(3_000)
    link = TransportSettings(bootstrap=kafka.address, group="tests", compression_type=codec, produce_batch_bytes=16_384)
    producer = BatchProducer(link)
    await producer.start()
    # The broker looks into compressed batches before it takes them, with Java's codecs.
    await (await producer.send(topic, records))
    await producer.stop()
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka.address, auto_offset_reset="earliest")
    await consumer.start()
    found = [await anext(consumer) for _ in records]
    await consumer.stop()
    assert [(r.key, r.value) for r in found] == [(r.key, r.value) for r in records]


async def test_a_send_tells_where_its_records_are(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic(3)

    producer = BatchProducer(TransportSettings(bootstrap=kafka.address, group="tests", produce_batch_bytes=1_024))
    await producer.start()
    assert await producer.partition_count(topic) == 3
    calls: list[tuple[int | None, list[Record]]] = [(None, some(300)), (1, some(200, 300)), (None, some(100, 500))]
    futures = [
        await (producer.send(topic, records) if p is None else producer.send_to(topic, p, records))
        for p, records in calls
    ]
    assert await (await producer.send(topic, [])) == await (await producer.send_to(topic, 2, [])) == []
    with pytest.raises(UsageError, match="has partitions 0 to 2, so none is 3"):
        await producer.send_to(topic, 3, some(1))
    with pytest.raises(UsageError, match="has partitions 0 to 2, so none is 7"):
        await producer.send_parts(topic, Columns.of(some(2)), [(0, np.arange(1)), (7, np.arange(1, 2))])
    parts = [(2, some(200, 600)), (0, some(200, 800)), (2, some(200, 1_000))]
    together = Columns.concat([Columns.of(records) for _, records in parts])
    rows = np.split(np.arange(600), 3)
    futures += await producer.send_parts(topic, together, [(p, own) for (p, _), own in zip(parts, rows, strict=True)])
    placed = await asyncio.gather(*futures)
    await producer.stop()
    there = {(r.partition, r.offset): r.value for r in read(kafka, topic)}
    for (partition, records), sent in zip([*calls, *parts], placed, strict=True):
        places = [(s.partition, offset) for s in sent for offset in range(s.base_offset, s.base_offset + s.count)]
        assert len(sent) >= 3
        assert places == sorted(places), "by partition, in order"
        assert {p for p, _ in places} == ({0, 1, 2} if partition is None else {partition})
        assert sorted(there[place] for place in places) == sorted(r.value for r in records)
        if partition is not None:
            assert [there[place] for place in places] == [r.value for r in records]
    assert len(there) == 1_200


async def test_calls_keep_their_order(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic(2)

    producer = BatchProducer(TransportSettings(bootstrap=kafka.address, group="tests", produce_batch_bytes=4_096))
    await producer.start()
    sends = [asyncio.ensure_future(producer.send(topic, some(100, i * 100))) for i in range(60)]
    await asyncio.gather(*[await send for send in sends])
    await producer.stop()
    by_partition = defaultdict(list)
    for r in read(kafka, topic):
        by_partition[r.partition].append(int(r.value[1:]))
    assert sum(map(len, by_partition.values())) == 6_000
    assert all(values == sorted(values) for values in by_partition.values())


async def test_a_record_that_is_too_large_is_the_callers_and_harms_nothing(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic(2)

    producer = BatchProducer(TransportSettings(bootstrap=kafka.address, group="tests"))
    await producer.start()
    with pytest.raises(RecordTooLarge, match=r"record 1 for topic .* at most 1048495 fit") as caught:
        await producer.send(topic, [Record(b"a", b"1", time.time()), Record(b"b", bytes(1_048_495), time.time())])
    assert caught.value.index == 1
    # The largest that fits does fit, and the producer still works.
    await producer.send_and_wait(topic, [Record(b"b", bytes(1_048_494), time.time())])
    await producer.stop()
    assert [len(r.value) for r in read(kafka, topic)] == [1_048_494]


async def test_what_the_broker_refuses_is_an_error_with_a_fix(kafka: Broker, new_topic: NewTopic) -> None:
    topic, other = new_topic(1, max_message_bytes="2000"), new_topic(1)

    producer = BatchProducer(TransportSettings(bootstrap=kafka.address, group="tests"))
    await producer.start()
    with pytest.raises(DeliveryError, match=r"max\.message\.bytes is smaller than max_record_bytes"):
        await producer.send_and_wait(topic, some(1_000))
    with pytest.raises(DeliveryError, match="an earlier send failed"):
        await producer.send(other, some(1))
    await producer.stop()
    assert read(kafka, topic) == []


def test_a_topic_that_is_not_there_is_an_error(kafka: Broker) -> None:
    settings = {"request_timeout_s": 2.0, "session_timeout_s": 1.5, "rebalance_timeout_s": 1.0, "hook_timeout_s": 1.0}
    with pytest.raises(DeliveryError, match="no-such-topic"):
        produce(kafka, "no-such-topic", some(1), heartbeat_s=0.2, drain_s=0.1, delivery_timeout_s=1.0, **settings)


def test_no_broker_is_an_error() -> None:
    with pytest.raises(BrokerError, match=r"no broker at 127\.0\.0\.1:1 takes us: .*Nothing listens there"):
        produce(Broker("127.0.0.1:1", "nowhere"), "any", some(1))
