"""Metrics of a process beside a fleet: each example counts once, also where it arrives while the newest are read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from tests.service.memory_log import MemoryServiceLog
from tests.service.running import TASKS
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import BrokerError
from weir.streams.records import Record, RecordBatch
from weir.streams.service.kafka.kafka_serving import KafkaServing
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
