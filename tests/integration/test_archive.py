"""Histories and archives from real Kafka: the same as from the embedded log that holds the same records."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import numpy as np
import pytest
import typer
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner

from tests.integration.kafka_broker import Broker
from tests.streams.host_runs import process_all
from tests.streams.logged_run import read_embedded
from weir.online.task.spec import TaskSpec
from weir.streams.cli.models.archive import archive_command
from weir.streams.config import topics
from weir.streams.config.settings import KafkaSettings, Settings, TopicSettings
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import BrokerError, UsageError
from weir.streams.records import Record
from weir.streams.simulate import SimulationConfig, simulate
from weir.streams.trainer.history.history_builder import LoggedHistory
from weir.streams.trainer.history.log_sources import KafkaSource
from weir.streams.trainer.history.read_history import read_history

pytestmark = pytest.mark.integration

FRAUD = """
name = "fraud"
entity = "user"
types = ["purchase"]
entities = [{ name = "user", key = "user_id", aggregates = [{ name = "seen", ops = ["count"], windows = ["1d"] }] }]
[model]
kind = "logistic"
"""
TASK = TaskSpec.from_toml(FRAUD)
READ = (topics.USER_EVENTS, topics.PREDICTIONS, topics.EXAMPLES)


@functools.cache
def log() -> EmbeddedLog:
    made = EmbeddedLog(dict.fromkeys((topics.USER_EVENTS, topics.PREDICTIONS), 3))
    host = EmbeddedHost([TASK], made)
    config = SimulationConfig(
        seed=4, events=2_000, days=4, users=30, devices=0, label_delay_days=0.5, review_share=0.5, block_s=3600.0
    )
    for block in simulate(config):
        for topic, records in block.topics.items():
            made.append(topic, [Record(*r) for r in records])
            process_all(host)
    return made


async def fill(address: str, names: TopicSettings, records: list[tuple[str, int, Record]]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=address, linger_ms=20)
    await producer.start()
    try:
        sent = [
            await producer.send(names.name(topic), r.value, r.key, partition, timestamp_ms=round(r.ts * 1000))
            for topic, partition, r in records
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


@pytest.fixture(scope="module")
def filled(kafka: Broker) -> TopicSettings:
    """Topics that hold what the embedded log holds, partition by partition."""
    from kafka.admin import KafkaAdminClient, NewTopic

    names = TopicSettings(names={topic: f"archive-{id(log())}-{topic}" for topic in READ})
    admin = KafkaAdminClient(bootstrap_servers=kafka.address)
    forever = {"retention.ms": "-1"}
    parts = {topics.EXAMPLES: 1}
    wanted = [NewTopic(names.name(t), parts.get(t, 3), 1, topic_configs=forever) for t in READ]
    admin.create_topics(wanted, wait_for_metadata=True)
    admin.close()
    records = [(b.topic, b.partition, r) for b in log().read(READ, 0) for r in b.records]
    asyncio.run(fill(kafka.address, names, records))
    return names


def source(kafka: Broker, names: TopicSettings) -> KafkaSource:
    return KafkaSource(Settings(kafka=KafkaSettings(bootstrap=(kafka.address,)), topics=names), "test")


def check(found: LoggedHistory, wanted: LoggedHistory) -> None:
    """Equal, but for the order among what was written in one millisecond."""
    order = [{event: i for i, event in enumerate(logged.history.event_id)} for logged in (found, wanted)]
    assert order[0].keys() == order[1].keys()
    at, to = (np.array([o[event] for event in order[0]]) for o in order)
    for name in ("ts", "x", "score", "type", "amount"):
        np.testing.assert_array_equal(getattr(found.history, name)[at], getattr(wanted.history, name)[to])
    told = [
        sorted(zip([one.history.event_id[r] for r in one.labels.row], one.labels.y, one.labels.weight, strict=True))
        for one in (found, wanted)
    ]
    assert told[0] == told[1]
    assert len(told[0]) > 100


def test_the_history_on_kafka_is_that_of_the_embedded_log(kafka: Broker, filled: TopicSettings) -> None:
    async def read(since: float | None = None) -> LoggedHistory:
        async with source(kafka, filled) as there:
            return await read_history(TASK, source=there, since=since)

    check(asyncio.run(read()), asyncio.run(read_embedded(TASK, log())))
    times = [r.ts for b in log().read([topics.PREDICTIONS], 0) for r in b.records]
    low = float(np.floor(np.quantile(times, 0.25)))
    part = asyncio.run(read(low))
    assert len(part.history) == sum(low <= t for t in times) > 0


def test_the_command_archives_topics_and_goes_on(kafka: Broker, filled: TopicSettings, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(archive_command)
    (tmp_path / "fraud.toml").write_text(FRAUD)
    named = "\n".join(f'{topic} = "{filled.name(topic)}"' for topic in READ)
    (tmp_path / "weir.toml").write_text(f"[topics.names]\n{named}\n")
    out = tmp_path / "out"
    arguments = ["--config", str(tmp_path / "weir.toml"), "--task", str(tmp_path / "fraud.toml"), "--out", str(out),
                 "--bootstrap", kafka.address]  # fmt: skip
    days = np.median([r.ts for b in log().read([topics.PREDICTIONS], 0) for r in b.records])
    until = str(np.datetime64(int(days), "s"))
    for extra in (["--until", until], [], []):
        done = CliRunner().invoke(app, [*arguments, *extra])
        assert done.exit_code == 0, (done.output, done.exception)
    assert done.output.splitlines()[1].split() == ["fraud", "0", "0", "0", "0"]
    check(asyncio.run(read_history(TASK, archive=out)), asyncio.run(read_embedded(TASK, log())))
    told = out / "fraud" / "predictions" / "topic"
    assert told.read_text().strip(), "the id that the brokers gave the topic"
    told.write_text("made-before\n")
    done = CliRunner().invoke(app, arguments)
    assert "of topic id made-before, but the brokers now have" in str(done.exception)


def test_what_cannot_be_read_says_why(kafka: Broker, filled: TopicSettings) -> None:
    async def read(names: TopicSettings, address: str) -> LoggedHistory:
        settings = Settings(kafka=KafkaSettings(bootstrap=(address,)), topics=names)
        async with KafkaSource(settings, "test") as there:
            return await read_history(TASK, source=there)

    with pytest.raises(UsageError, match="no topic nowhere"):
        asyncio.run(read(TopicSettings(names={topics.PREDICTIONS: "nowhere"}), kafka.address))
    with pytest.raises(BrokerError):
        asyncio.run(read(filled, "127.0.0.1:1"))
