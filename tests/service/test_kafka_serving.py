"""Metrics of a process beside a fleet: each example counts once, also where it arrives while the newest are read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from tests.service.memory_log import MemoryServiceLog
from tests.service.running import TASKS
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import Example
from weir.online.task.task_shape import shape_of
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import BrokerError
from weir.streams.records import Record, RecordBatch
from weir.streams.service.kafka.kafka_service_log import KafkaServiceLog
from weir.streams.service.kafka.kafka_serving import KafkaServing
from weir.streams.service.parts import OverloadError
from weir.streams.task_files import load_task

pytestmark = pytest.mark.anyio


def example(n: int) -> Record:
    return Record(b"u1", b"%d" % n, 1.7e9)


class BusyLog(MemoryServiceLog):
    """Gets another example whenever somebody reads; the listeners hear of each at once."""

    def __init__(self) -> None:
        super().__init__()
        self.away, self.written = False, 0
        for _ in range(5):
            self.one_more()

    def one_more(self) -> None:
        self.add(topics.EXAMPLES, [example(self.written)], self.written % 2)
        self.written += 1

    async def read(self, topic: str, partition: int, offset: int, max_bytes: int = 1 << 20) -> Sequence[RecordBatch]:
        self.one_more()
        await asyncio.sleep(0)
        if self.away:
            raise BrokerError("the brokers did not answer")
        found = await super().read(topic, partition, offset, max_bytes)
        self.one_more()
        return found


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was evaluated, in its order."""
    values: list[bytes] = []
    monkeypatch.setattr(KafkaServing, "_evaluate", lambda _, given: values.extend(given))
    return values


async def test_each_example_counts_once(counted: list[bytes]) -> None:
    log = BusyLog()
    serving = KafkaServing(Settings(), cast(Any, log), [load_task(TASKS / "fraud.toml")])
    await asyncio.gather(*(serving.metrics("fraud") for _ in range(3)))
    log.one_more()
    assert sorted(map(int, counted)) == list(range(log.written))


async def test_a_reading_that_failed_is_begun_again(counted: list[bytes]) -> None:
    log = BusyLog()
    serving = KafkaServing(Settings(), cast(Any, log), [load_task(TASKS / "fraud.toml")])
    log.away = True
    with pytest.raises(BrokerError):
        await serving.metrics("fraud")
    log.away = False
    log.one_more()
    counted.clear()
    await serving.metrics("fraud")
    assert sorted(map(int, counted)) == list(range(log.written))


async def test_what_a_lane_publishes_again_counts_once() -> None:
    task = load_task(TASKS / "fraud.toml")
    about = {"task": task.name, "features": dict.fromkeys(shape_of(task).features, 0.0), "ts": 1.7e9, "entity_id": "u1"}
    made = [Example.model_validate({**about, "event_id": f"e{n}", "score": 0.5, "value": n % 2}) for n in range(6)]
    records = [Record(b"u1", encode_model(each), 1.7e9) for each in made]
    log = MemoryServiceLog()
    await log.append(topics.EXAMPLES, records)
    serving = KafkaServing(Settings(), cast(Any, log), [task])
    assert (await serving.metrics(task.name))["cumulative"]["n"] == 6
    corrected = made[0].model_copy(update={"n": 1, "value": 1, "correction": True})
    await log.append(topics.EXAMPLES, [*records, Record(b"u1", encode_model(corrected), 1.7e9)])
    now = (await serving.metrics(task.name))["cumulative"]
    assert (now["n"], round(now["positive_rate"] * 6)) == (6, 4), "a correction is no repeat"


async def test_a_body_that_is_larger_than_what_may_wait_is_taken_where_nothing_waits() -> None:
    log = KafkaServiceLog(Settings.model_validate({"serve": {"intake": {"waiting_records": 5}}}))
    sent, answered = list[int](), asyncio.Event()

    async def publish(_: str, records: Sequence[Record]) -> None:
        sent.append(len(records))
        await answered.wait()

    log._publish = publish  # type: ignore[method-assign,assignment]
    first = asyncio.create_task(log.append(topics.USER_EVENTS, [example(n) for n in range(8)]))
    await asyncio.sleep(0)
    with pytest.raises(OverloadError, match="8 records wait for the brokers, allowed 5"):
        await log.append(topics.USER_EVENTS, [example(9)])
    answered.set()
    assert len(await first) == 8
    assert len(await log.append(topics.USER_EVENTS, [example(9)])) == 1
    assert sent == [8, 1]


async def test_a_topic_that_takes_nothing_is_told_until_it_takes_something_whatever_others_do() -> None:
    log, broken = KafkaServiceLog(Settings()), {topics.LABELS}

    async def publish(topic: str, _: Sequence[Record]) -> None:
        if topic in broken:
            raise BrokerError(f"{topic} has no leader")

    log._publish = publish  # type: ignore[method-assign,assignment]
    for _ in range(3):
        with pytest.raises(BrokerError, match="labels has no leader"):
            await log.append(topics.LABELS, [example(1)])
        await log.append(topics.USER_EVENTS, [example(2)])
        assert log.trouble() == ["the brokers did not take records: labels has no leader"]
    broken.clear()
    await log.append(topics.LABELS, [example(1)])
    assert log.trouble() == []
