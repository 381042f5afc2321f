"""The contract of record batches (tests/contracts/test_record_batches.py) on Kafka, through the transport."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from faust.types import TP

from tests.contracts.test_record_batches import PARTITIONS, Reader, RecordBatchContract
from tests.integration.kafka_broker import Broker
from weir.streams.kafka.consume.app import BatchApp
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import TransportSettings
from weir.streams.records import Record, RecordBatch

pytestmark = pytest.mark.integration


class KafkaReader:
    """A `BatchApp` in a thread, whose agent hands batches over."""

    def __init__(self, broker: Broker, topic: str, group: str) -> None:
        self._broker, self._topic, self._group = broker, topic, group
        self._batches: queue.Queue[FetchedBatch] = queue.Queue()
        self._app: BatchApp
        self._loop: asyncio.AbstractEventLoop
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name=f"reader-{group}")
        self._enough: asyncio.Event

    async def _run(self) -> None:
        self._loop, self._enough = asyncio.get_running_loop(), asyncio.Event()
        settings = TransportSettings(
            bootstrap=self._broker.address, group=f"{self._topic}-{self._group}", max_batch=64, max_in_flight=1_000
        )
        app = self._app = BatchApp(settings, loop=self._loop)

        async def take(stream: Any) -> None:
            async for batch in stream:
                if not app.batch_consumer.take(batch):
                    continue
                self._batches.put(batch)

        app.agent(app.batch_topic(self._topic))(take)
        app.finalize()
        try:
            await app.start()
            self._started.set_result(None)
            await self._enough.wait()
        except Exception as error:  # noqa: BLE001 - raised where the reader is entered
            self._started.set_exception(error)
        finally:
            await app.stop()

    def __enter__(self) -> KafkaReader:
        self._thread.start()
        self._started.result(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._enough.set)
        self._thread.join(30)

    def read(self, records: int) -> list[RecordBatch]:
        found: list[RecordBatch] = []
        while (count := sum(len(batch.records) for batch in found)) < records:
            found.append(self._batches.get(timeout=20))
        assert count == records
        assert self._batches.empty()
        return found

    def complete(self, batch: RecordBatch) -> bool:
        assert isinstance(batch, FetchedBatch)
        return self._call(lambda: self._app.batch_consumer.complete(batch))

    def rewind(self, partition: int, offset: int) -> None:
        assert self._call(lambda: self._app.batch_consumer.rewind(TP(self._topic, partition), offset))

    def _call(self, what: Callable[[], bool]) -> bool:
        async def call() -> bool:
            return what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)


class KafkaLog:
    """A topic of its own on a broker."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.topic, self._broker = topic, broker

    def append(self, records: Sequence[Record]) -> None:
        async def run() -> None:
            producer = BatchProducer(TransportSettings(bootstrap=self._broker.address, group="tests"))
            await producer.start()
            try:
                await producer.send_and_wait(self.topic, records)
            finally:
                await producer.stop()

        asyncio.run(run())

    @contextmanager
    def reader(self, group: str) -> Iterator[Reader]:
        with KafkaReader(self._broker, self.topic, group) as reader:
            yield reader


class TestKafka(RecordBatchContract):
    """The suite on Kafka."""

    @pytest.fixture
    def log(self, kafka: Broker, new_topic: Callable[..., str]) -> KafkaLog:
        return KafkaLog(kafka, new_topic(PARTITIONS))
