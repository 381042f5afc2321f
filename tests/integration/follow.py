"""What the tests of models that follow ``examples`` share: examples, folds, and a topic and keys of a test's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from weir.online.batch import ExampleBatch
from weir.online.codec.encode import encode_examples
from weir.online.learners.factory import LearnerSpec, build_learner
from weir.online.learners.online_model import OnlineModel
from weir.streams.config.settings import KafkaSettings
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import TransportSettings
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.follower import Follower, FollowPolicy
from weir.streams.model_replicas.model_snapshots import ModelSnapshots
from weir.streams.records import Record
from weir.streams.redis.client import RedisClient

Server = RedisServer | NamedRedis
NewTopic = Callable[..., str]

FEATURES = ("a", "b", "c")
BOOSTED = LearnerSpec(kind="boosted", params={"every": 20, "buffer": 80, "trees": 6, "depth": 3, "min_hessian": 0.5})
SPECS = {
    "fraud": LearnerSpec(kind="stack", members=(BOOSTED, LearnerSpec(kind="logistic"))),
    "churn": LearnerSpec(kind="adaptive_tree", params={"grace_period": 25}),
}


def options(kafka: Broker) -> dict[str, Any]:
    return KafkaSettings(bootstrap=(kafka.address,)).client_options("test")


def examples(count: int, first: int = 0, features: Sequence[str] = FEATURES) -> ExampleBatch:
    rng = np.random.default_rng(first)
    x = rng.normal(size=(count, len(features)))
    return ExampleBatch(
        event_id=[f"e{i}" for i in range(first, first + count)],
        n=np.zeros(count, np.int64),
        ts=1.7e9 + np.arange(count, dtype=np.float64),
        x=x,
        score=np.full(count, 0.5),
        y=x[:, 0] + x[:, 1] > 0.3,
        weight=rng.choice([1.0, 5.0], count),
        correction=np.zeros(count, np.bool_),
    )


def folds(tasks: Sequence[str] = ("fraud", "churn")) -> list[ExampleFold]:
    return [ExampleFold(task, SPECS[task], FEATURES) for task in tasks]


def linear(task: str, batches: Sequence[ExampleBatch]) -> str:
    """The digest of a model that learned each example once, in order."""
    model = OnlineModel(build_learner(SPECS[task], FEATURES))
    for batch in batches:
        model.learn(batch)
    return model.snapshot().digest


@dataclass
class Place:
    """Brokers, a Redis prefix and an ``examples`` topic of one test's own."""

    kafka: Broker
    redis: Server
    topic: str
    prefix: str = field(default_factory=lambda: f"t-{os.urandom(4).hex()}")

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[BatchProducer]:
        made = BatchProducer(TransportSettings(bootstrap=self.kafka.address, group="test"))
        await made.start()
        try:
            yield made
        finally:
            await made.stop()

    @asynccontextmanager
    async def snapshots(self) -> AsyncIterator[ModelSnapshots]:
        link = RedisClient(self.redis.settings(), patience_s=5.0, prefix=self.prefix)
        try:
            yield ModelSnapshots(link)
        finally:
            await link.stop()

    def follower(self, snapshots: ModelSnapshots | None = None, **policy: Any) -> Follower:
        return Follower(
            options(self.kafka), folds(), snapshots=snapshots, topic=self.topic, policy=FollowPolicy(**policy)
        )

    async def send(self, *batches: tuple[str, ExampleBatch]) -> None:
        records = [
            Record(task.encode(), value, 1.7e9)
            for task, batch in batches
            for value in encode_examples(batch, FEATURES, task)
        ]
        await self.send_records(records)

    async def send_records(self, records: list[Record]) -> None:
        async with self.producer() as made:
            await made.send_and_wait(self.topic, records)


def digests(follower: Follower) -> dict[str, tuple[int, str]]:
    return {task: (follower.version(task), follower.model(task).snapshot().digest) for task in SPECS}


@asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[asyncio.Task[None]]:
    """Caught up, and running in the background."""
    await follower.catch_up()
    task = asyncio.create_task(follower.run())
    try:
        yield task
    finally:
        await follower.stop()
        await asyncio.gather(task, return_exceptions=True)


def run(test: Awaitable[None]) -> None:
    async def go() -> None:
        await test

    asyncio.run(go())


async def until(what: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not what():
            await asyncio.sleep(0.01)


async def start_and_stop(follower: Follower) -> None:
    try:
        await follower.catch_up()
    finally:
        await follower.stop()


def delete_before(place: Place, offset: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=place.kafka.address)
    try:
        admin.delete_records({TopicPartition(place.topic, 0): offset})
    finally:
        admin.close()
