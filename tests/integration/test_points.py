"""Single records read back from real Kafka: near and far ones, gaps, deleted ones, and brokers that fail once."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import NodeNotReadyError

from tests.integration.follow import NewTopic, Place, Server, delete_before, options
from tests.integration.kafka_broker import Broker
from weir.streams.errors import BrokerError
from weir.streams.kafka.consume import range_reader as ranges
from weir.streams.kafka.consume.point_reader import PointReader

pytestmark = pytest.mark.integration


@pytest.fixture
def place(kafka: Broker, redis_server: Server, new_topic: NewTopic) -> Place:
    return Place(kafka, redis_server, new_topic(retention_ms="-1"))


async def _fill(place: Place, count: int, transactional: bool = False) -> None:
    """Records whose value is their number, in batches of a hundred; a transaction leaves a marker after each."""
    more = {"transactional_id": f"t-{place.topic}"} if transactional else {}
    async with AIOKafkaProducer(bootstrap_servers=place.kafka.address, linger_ms=200, **more) as producer:
        for start in range(0, count, 100):
            async with producer.transaction() if transactional else nullcontext():
                for number in range(start, start + 100):
                    await producer.send(place.topic, b"%d" % number + b"x" * 200, partition=0)
            await producer.flush()


async def test_records_are_found_wherever_they_are_and_gaps_are_left_out(place: Place) -> None:
    await _fill(place, 5_000, transactional=True)  # 101 offsets a batch, the last of each a marker
    reader = PointReader(options(place.kafka), place.topic)
    random = np.random.default_rng(0)
    for size in (1, 3, 40, 400):
        offsets = sorted({int(o) for o in random.choice(5_050, size, replace=False)})
        found = await reader.read(0, offsets)
        assert {o: int(r.value.rstrip(b"x")) for o, r in found.items()} == {
            o: o // 101 * 100 + o % 101 for o in offsets if o % 101 != 100
        }
    await reader.close()


async def test_who_reads_one_after_the_other_asks_a_broker_once_a_batch(place: Place) -> None:
    await _fill(place, 3_000)
    reader = PointReader(options(place.kafka), place.topic)
    for offset in range(3_000):
        assert list(await reader.read(0, [offset])) == [offset]
    assert reader.fetches <= 30
    await reader.close()


async def test_what_was_deleted_and_what_never_was_is_left_out(place: Place) -> None:
    await _fill(place, 1_000)
    delete_before(place, 300)
    reader = PointReader(options(place.kafka), place.topic)
    assert list(await reader.read(0, [5, 299, 300, 700, 1_500])) == [300, 700]
    assert list(await reader.read(0, [2])) == []
    await reader.close()


async def test_it_connects_anew_after_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(AIOKafkaConsumer):  # type: ignore[misc] # aiokafka has no types
        async def getmany(self, *lanes: object, **how: object) -> object:
            if len(started) == 1:
                raise NodeNotReadyError
            return await super().getmany(*lanes, **how)

        async def start(self) -> None:
            started.append(self)
            await super().start()

    started: list[Failing] = []
    monkeypatch.setattr(ranges, "AIOKafkaConsumer", Failing)

    await _fill(place, 100)
    reader = PointReader(options(place.kafka), place.topic)
    with pytest.raises(BrokerError):
        await reader.read(0, [7])
    found = await asyncio.gather(*(reader.read(0, [offset]) for offset in (7, 8)))
    assert [list(some) for some in found] == [[7], [8]]
    assert len(started) == 2
    await reader.close()
