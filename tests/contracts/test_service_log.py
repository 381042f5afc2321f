"""What the service may rely on of its log, without a broker and on Kafka."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import REPOSITORY, Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from weir.streams.config.settings import Settings
from weir.streams.records import Record, RecordBatch
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.service.kafka.kafka_service_log import KafkaServiceLog
from weir.streams.service.ports import ServiceLog, Span
from weir.streams.task_files import load_task

pytestmark = pytest.mark.anyio
TASK = REPOSITORY / "streams" / "demo" / "tasks" / "fraud.toml"
LABELS = "labels"


def label(n: int) -> Record:
    value = f'{{"v":1,"task":"fraud","entity_id":"u{n}","event_id":"e{n}","ts":1700000000.0,"value":1}}'
    return Record(f"u{n}".encode(), value.encode(), time.time())


def embedded_log(tmp_path: Path) -> ServiceLog:
    settings = Settings.model_validate({"serve": {"directory": str(tmp_path)}})
    return embedded_service(settings, [load_task(TASK)]).log


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.integration)])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """Opens the log, again and again, as processes do one after the other."""
    if request.param == "embedded":
        made: Callable[[], ServiceLog] = lambda: embedded_log(tmp_path)  # noqa: E731 - one of two
    else:
        broker: Broker = request.getfixturevalue("kafka")
        redis: RedisServer | NamedRedis = request.getfixturevalue("redis_server")
        prefix = f"log-{os.urandom(3).hex()}"
        deployment = Deployment.create(tmp_path, broker, redis.settings().url.get_secret_value(), prefix=prefix)
        made = lambda: KafkaServiceLog(deployment.settings)  # noqa: E731

    @asynccontextmanager
    async def opened(*listeners: Callable[[RecordBatch], None]) -> AsyncIterator[ServiceLog]:
        log = made()
        for listener in listeners:
            log.subscribe([LABELS], listener)
        await log.start()
        try:
            yield log
        finally:
            await log.stop()

    return opened


async def everything(log: ServiceLog, topic: str = LABELS) -> dict[int, list[tuple[int, Record]]]:
    found: dict[int, list[tuple[int, Record]]] = {}
    for partition, span in (await log.spans(topic)).items():
        at = span.first
        while at < span.end:
            for batch in await log.read(topic, partition, at):
                found.setdefault(partition, []).extend(
                    (batch.offset_of(i), r) for i, r in enumerate(batch.records) if batch.offset_of(i) >= at
                )
                at = batch.next_offset
    return found


async def test_what_was_appended_is_read_back_by_its_place(open_log: Any) -> None:
    async with open_log() as log:
        outcomes = await log.append(LABELS, [label(n) for n in range(40)])
        assert [o.status for o in outcomes] == ["accepted"] * 40
        stored = await everything(log)
        assert {r.value for lane in stored.values() for _, r in lane} == {label(n).value for n in range(40)}
        for partition, lane in stored.items():
            assert (await log.spans(LABELS))[partition].end == lane[-1][0] + 1
            offset, record = lane[len(lane) // 2]
            first = (await log.read(LABELS, partition, offset))[0]
            at = [first.offset_of(i) for i in range(len(first.records))].index(offset)
            assert first.records[at].value == record.value


async def test_a_key_keeps_its_order(open_log: Any) -> None:
    async with open_log() as log:
        for n in range(12):
            await log.append(LABELS, [Record(b"u1", label(n).value, time.time())])
        (lane,) = [lane for lane in (await everything(log)).values() if lane]
        assert [r.value for _, r in lane] == [label(n).value for n in range(12)]


async def test_appends_at_the_same_time_are_all_kept(open_log: Any) -> None:
    async with open_log() as log:
        await asyncio.gather(*(log.append(LABELS, [label(n)]) for n in range(60)))
        stored = [r.value for lane in (await everything(log)).values() for _, r in lane]
        assert sorted(stored) == sorted(label(n).value for n in range(60))


async def test_listeners_see_each_record_once_in_its_partitions_order(open_log: Any) -> None:
    seen: list[RecordBatch] = []
    async with open_log(seen.append) as log:
        for n in range(0, 30, 3):
            await log.append(LABELS, [label(n), label(n + 1), label(n + 2)])
        async with asyncio.timeout(20):
            while sum(len(batch.records) for batch in seen) < 30:
                await asyncio.sleep(0.01)
        found: dict[int, list[tuple[int, Record]]] = {}
        for batch in seen:
            found.setdefault(batch.partition, []).extend(
                (batch.offset_of(i), record) for i, record in enumerate(batch.records)
            )
        assert found == await everything(log)


async def test_a_listener_that_left_hears_nothing(open_log: Any) -> None:
    seen: list[RecordBatch] = []
    heard: list[RecordBatch] = []
    async with open_log(heard.append) as log:
        end = log.subscribe([LABELS], seen.append)
        end()
        await log.append(LABELS, [label(1)])
        async with asyncio.timeout(20):
            while not heard:
                await asyncio.sleep(0.01)
        assert not seen


async def test_places_and_the_epoch_outlive_the_process(open_log: Any) -> None:
    async with open_log() as log:
        await log.append(LABELS, [label(n) for n in range(10)])
        before, epoch = await everything(log), log.epoch
    async with open_log() as log:
        assert log.epoch == epoch
        assert await everything(log) == before
        await log.append(LABELS, [label(11)])
        assert sum(map(len, (await everything(log)).values())) == 11


async def test_a_place_is_found_by_time(open_log: Any) -> None:
    async with open_log() as log:
        old = [Record(b"u1", label(n).value, time.time()) for n in range(5)]
        await log.append(LABELS, old)
        await asyncio.sleep(0.02)  # the clock of Kafka's index has milliseconds
        since = time.time()
        await log.append(LABELS, [Record(b"u1", label(n).value, time.time()) for n in range(5, 8)])
        (partition, lane), *_ = (item for item in (await everything(log)).items() if item[1])
        assert (await log.offsets_at(LABELS, since))[partition] == lane[5][0]
        assert (await log.offsets_at(LABELS, since + 3600))[partition] == lane[-1][0] + 1
        assert (await log.offsets_at(LABELS, 1e9))[partition] == lane[0][0]


async def test_a_topic_that_nobody_wrote_to_is_empty(open_log: Any) -> None:
    async with open_log() as log:
        assert all(span == Span(0, 0) for span in (await log.spans("retrain-requests")).values())
