"""What our readers and producers do around aiokafka's clients; these are stood in for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, cast
from uuid import UUID

import pytest
from aiokafka import TopicPartition

from weir.streams.config.settings import KafkaSettings
from weir.streams.errors import BrokerError
from weir.streams.kafka import reachable
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.consume.point_reader import PointReader
from weir.streams.kafka.consume.tail_reader import TailReader
from weir.streams.kafka.kafka_errors import DeliveryError
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import TransportSettings
from weir.streams.records import Record, RefusedRecord
from weir.streams.worker.identity import topic_check
from weir.streams.worker.inference.result_reader import ResultsReader

OPTIONS = {"bootstrap_servers": ["nowhere:9092"]}


class Results:
    """A consumer of ``inference-results``; its brokers tell no position while ``away`` is set."""

    def __init__(self) -> None:
        self.assigned: list[int] = []
        self.away = asyncio.Event()
        self.at_end: list[int] = []

    def assign(self, lanes: Iterable[TopicPartition]) -> None:
        self.assigned = sorted(lane.partition for lane in lanes)

    async def seek_to_end(self, *lanes: TopicPartition) -> None:
        self.at_end += [lane.partition for lane in lanes]

    async def position(self, lane: TopicPartition) -> int:
        while self.away.is_set():
            await asyncio.Event().wait()
        return 7

    async def getmany(self, **_: object) -> dict[TopicPartition, list[Record]]:
        await asyncio.sleep(0)  # as every fetch does; whoever reads for ever would else stop for nobody
        return {TopicPartition("r", 0): [Record(b"", b"answer", 0.0)]}


async def test_answers_are_read_although_the_first_taking_over_was_cut_short() -> None:
    """As in a rebalance behind another while the brokers are slow: the partitions are the same again."""
    taken: list[bytes] = []
    reader, consumer = ResultsReader(OPTIONS, "r", taken.append), Results()
    cast(Any, reader)._consumer = consumer
    consumer.away.set()
    cut_short = asyncio.ensure_future(reader.own([0, 1]))
    await asyncio.sleep(0)
    cut_short.cancel()
    await asyncio.gather(cut_short, return_exceptions=True)
    consumer.away.clear()
    await reader.own([0, 1])
    assert (consumer.assigned, sorted(set(consumer.at_end))) == ([0, 1], [0, 1])
    running = asyncio.ensure_future(reader.run())
    async with asyncio.timeout(10):
        while not taken:
            await asyncio.sleep(0)
    running.cancel()
    assert taken[0] == b"answer"


class Tail:
    """A consumer that has fetched one slice, of which one record cannot be used."""

    async def getmany(self, **_: object) -> dict[TopicPartition, list[Slice]]:
        bad = RefusedRecord(5, "oversized: 9 bytes, allowed 8", Record(b"", b"", 0.0))
        return {TopicPartition("alerts", 2): [Slice([6], [Record(b"k", b"v", 0.0)], [bad])]}


async def test_a_reader_of_a_tail_says_what_it_leaves_out(caplog: pytest.LogCaptureFixture) -> None:
    reader = TailReader(OPTIONS, {})
    cast(Any, reader)._consumer = Tail()
    with caplog.at_level(logging.ERROR):
        (batch,) = await reader.fetch()
    assert [record.value for record in batch.records] == [b"v"]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == "alerts-2 at offset 5: cannot be used: oversized: 9 bytes, allowed 8"


class Taking:
    """A producer of aiokafka's that knows one partition."""

    async def partitions_for(self, topic: str) -> set[int]:
        return {0}

    async def stop(self) -> None:
        """Nothing is under way."""


async def test_a_send_that_waits_for_its_turn_while_the_producer_stops_is_told_so() -> None:
    producer = BatchProducer(TransportSettings(group="g"))
    cast(Any, producer)._producer = Taking()
    async with producer._turns["t", 0]:
        sending = asyncio.ensure_future(producer.send_to("t", 0, [Record(b"", b"v", 0.0)]))
        while not producer._turns["t", 0]._waiters:
            await asyncio.sleep(0)
        await producer.stop()
    with pytest.raises(DeliveryError, match="not running"):
        await sending


class Thin:
    """A reader of a log in which every fetch brings one small record, or none."""

    def __init__(self) -> None:
        self.at = 0

    def stand(self, partition: int, start: int) -> None:
        self.at = start

    async def fetch(self) -> Slice:
        at, self.at = self.at, self.at + 1
        return Slice([at], [Record(b"k", b"%d" % at, 0.0)]) if at % 2 else Slice((), ())

    async def position(self) -> int:
        return self.at


async def test_what_a_reader_of_points_keeps_is_bounded_however_thin_it_is() -> None:
    points = PointReader(OPTIONS, "t", keep_bytes=64 << 10)
    cast(Any, points)._reader = Thin()
    for offset in range(1, 2_000):
        found = await points.read(0, [offset])
        assert [record.value for record in found.values()] == ([b"%d" % offset] if offset % 2 else [])
    assert len(points._kept) <= 64
    before = points.fetches
    assert list(await points.read(0, [1_999])) == [1_999]
    assert points.fetches == before


class Showing:
    """A broker that shows the topic ``late`` when asked for the third time, as one does just after it was made."""

    def __init__(self) -> None:
        self.asked = self.away = 0

    async def topics(self) -> set[str]:
        self.asked += 1
        return {"there", "late"} if self.asked > 2 else {"there"}

    def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        if self.away:
            self.away -= 1
            raise BrokerError("nobody answers")
        self.asked += 1
        shown = {"there", "late"} if self.asked > 2 else {"there"}
        return [
            {"name": name, "error_code": 0 if name in shown else 3, "topic_id": UUID(int=1), "partitions": [{}]}
            for name in names
        ]


@pytest.fixture
def showing(monkeypatch: pytest.MonkeyPatch) -> Showing:
    broker = Showing()
    for module in (reachable, topic_check):
        monkeypatch.setattr(module, "PAUSE_S", 0.0)
        monkeypatch.setattr(module, "METADATA_S", 0.05)
    monkeypatch.setattr(topic_check, "admin_client", lambda _: nullcontext(broker))
    return broker


async def test_a_topic_that_was_made_a_moment_ago_is_waited_for(showing: Showing) -> None:
    assert await reachable.absent_topics(showing, ["there", "late"]) == []
    assert showing.asked == 3
    assert await reachable.absent_topics(showing, ["there", "never"]) == ["never"]


async def test_the_identity_of_a_topic_that_was_made_a_moment_ago_is_waited_for(showing: Showing) -> None:
    settings = KafkaSettings()
    assert set(await topic_check.identities(settings, ["there", "late"], 1.0)) == {"there", "late"}
    assert showing.asked == 3
    assert set(await topic_check.identities(settings, ["there", "never"], 1.0)) == {"there"}


async def test_it_is_waited_for_also_behind_brokers_that_were_away(
    showing: Showing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_check, "AGAIN_S", 2 * reachable.METADATA_S)
    showing.away = 1
    assert set(await topic_check.identities(KafkaSettings(), ["there", "late"], 1.0)) == {"there", "late"}
