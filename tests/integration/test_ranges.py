"""Ranges of a topic, read from real Kafka: exact, with gaps, and errors for what is not there."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import NodeNotReadyError

from tests.integration.follow import (
    NewTopic,
    Place,
    Server,
    delete_before,
    examples,
    options,
)
from tests.integration.kafka_broker import Broker
from weir.streams.errors import BrokerError, UsageError
from weir.streams.kafka.consume import range_reader as ranges
from weir.streams.kafka.consume.point_reader import PointReader
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.kafka_errors import RecordsDeleted

pytestmark = pytest.mark.integration


@pytest.fixture
def place(kafka: Broker, redis_server: Server, new_topic: NewTopic) -> Place:
    return Place(kafka, redis_server, new_topic(retention_ms="-1"))


async def _numbers(kafka: Broker, topic: str, start: int, stop: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    async with RangeReader(options(kafka), topic) as reader:
        async for offsets, records, *_ in reader.read(0, start, stop):
            found += [(offset, int(record.value)) for offset, record in zip(offsets, records, strict=True)]
    return found


async def test_a_range_is_exact_and_may_have_gaps(kafka: Broker, new_topic: NewTopic) -> None:
    """Transactions leave markers, and records that were taken back: offsets without a record, also at the ends."""
    topic = new_topic()

    made = AIOKafkaProducer(bootstrap_servers=kafka.address, transactional_id=f"t-{topic}")
    await made.start()
    expected: list[tuple[int, int]] = []
    offset = 0
    for number in range(6):
        await made.begin_transaction()
        for part in range(3):
            await made.send_and_wait(topic, b"%d" % (10 * number + part))
            if number % 2 == 0:
                expected.append((offset, 10 * number + part))
            offset += 1
        await (made.commit_transaction() if number % 2 == 0 else made.abort_transaction())
        offset += 1
    await made.stop()
    for start, stop in ((0, offset), (1, 2), (2, 9), (3, 8), (4, 8), (7, 8), (5, 5), (9, 22)):
        wanted = [pair for pair in expected if start <= pair[0] < stop]
        assert await _numbers(kafka, topic, start, stop) == wanted, (start, stop)


async def test_a_range_that_is_not_there_is_an_error(place: Place) -> None:
    await place.send(("fraud", examples(30)))
    delete_before(place, 10)
    with pytest.raises(
        RecordsDeleted, match="from offset 9 on were deleted by retention: the first that is left is 10"
    ):
        await _read(place, 9, 20)
    assert await _read(place, 10, 30) == 20
    with pytest.raises(BrokerError, match="ends at 30, wanted up to 31: the topic was made anew"):
        await _read(place, 25, 31)
    place.topic = "no-such-topic"
    with pytest.raises(UsageError, match="no topic no-such-topic"):
        await _read(place, 0, 1)


async def test_bounds_are_asked_over_one_connection_and_over_a_new_one_after_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(AIOKafkaConsumer):  # type: ignore[misc] # aiokafka has no types
        away = False

        async def start(self) -> None:
            started.append(self)
            await super().start()

        async def end_offsets(self, lanes: list[TopicPartition]) -> dict[TopicPartition, int]:
            if self.away:
                raise NodeNotReadyError
            return dict(await super().end_offsets(lanes))

    started: list[Counted] = []
    monkeypatch.setattr(ranges, "AIOKafkaConsumer", Counted)

    log = PointReader(options(place.kafka), place.topic)
    assert await log.bounds(0) == (0, 0)
    await place.send(("fraud", examples(30)))
    assert await asyncio.gather(*(log.bounds(0) for _ in range(5))) == [(0, 30)] * 5
    assert len(started) == 1
    started[0].away = True
    with pytest.raises(BrokerError, match=f"topic {place.topic} cannot be read"):
        await log.bounds(0)
    assert await log.bounds(0) == (0, 30)
    assert len(started) == 2
    await log.close()


async def _read(place: Place, start: int, stop: int) -> int:
    async with RangeReader(options(place.kafka), place.topic, patience_s=1.0) as reader:
        return sum([len(piece.records) async for piece in reader.read(0, start, stop)])
