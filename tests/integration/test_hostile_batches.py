"""What producers may put into batches ends no worker: each codec is read, what is too large or damaged is refused."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from aiokafka import AIOKafkaProducer
from kafka.admin import KafkaAdminClient

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import unique
from tests.integration.worker_process import Watcher, Worker, run_weir
from tests.streams.kafka_batches import batch, framed
from tests.streams.test_fetched import ENCODERS
from weir.online.codec.wire import DeadLetter
from weir.streams.config import topics
from weir.streams.kafka.consume.codecs import NAMES

pytestmark = pytest.mark.integration

T0 = 1_790_000_000.0
EACH = 20
"""Events of each codec."""
LARGE = 3_000_000
BOMB = 200_000_000


def event(number: int, key: str, **fields: object) -> bytes:
    held = {"v": 1, "event_id": f"{key}-{number}", "type": "purchase", "user_id": key, "ts": T0 + number, "amount": 5.0}
    return orjson.dumps(held | fields)


class Raw:
    """A batch as it is, with what aiokafka's producer asks of one."""

    def __init__(self, made: bytes, count: int) -> None:
        self._made, self._count = bytearray(made), count

    def record_count(self) -> int:
        return self._count

    def size(self) -> int:
        return len(self._made)

    def close(self) -> None:
        """It is."""

    def closed(self) -> bool:
        return True

    def _set_producer_state(self, *_: int) -> None:
        """It is nobody's."""

    def _build(self) -> bytearray:
        return self._made


async def _send(kafka: Broker, topic: str, works: Sequence[tuple[str | None, Sequence[tuple[bytes, bytes]]]]) -> None:
    for codec, records in works:
        producer = AIOKafkaProducer(
            bootstrap_servers=kafka.direct, compression_type=codec, max_request_size=1 << 23, acks="all"
        )
        await producer.start()
        try:
            for key, value in records:
                await producer.send(topic, value, key, partition=0)
        finally:
            await producer.stop()


async def _send_raw(kafka: Broker, topic: str, made: Sequence[tuple[bytes, int]]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.direct, acks="all")
    await producer.start()
    try:
        for each, count in made:
            await (await producer.send_batch(Raw(each, count), topic, partition=0))
    finally:
        await producer.stop()


def letters(deployment: Deployment) -> list[DeadLetter]:
    found = [DeadLetter.model_validate_json(s.record.value) for s in deployment.read(topics.DEAD_LETTERS)[0]]
    return sorted(found, key=lambda letter: (letter.topic, letter.offset))


def segment(kafka: Broker, topic: str) -> Path:
    """The file of the topic's only partition on the broker's disk."""
    admin = KafkaAdminClient(bootstrap_servers=kafka.direct)
    try:
        (log_dir,) = {each["log_dir"] for each in admin.describe_log_dirs() for each in each.get("log_dirs", [each])}
    finally:
        admin.close()
    return Path(log_dir) / f"{topic}-0" / f"{0:020d}.log"


def test_each_codec_is_read_and_what_is_too_large_is_refused(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    """Each of these ended every worker that met it, or took all of its memory."""
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("hostile"), partitions=1, tasks=("spend",),
        worker={"web_port": "auto"},
    )  # fmt: skip
    events = deployment.settings.topics.name(topics.USER_EVENTS)
    labels = deployment.settings.topics.name(topics.LABELS)
    large, key = b"{" + b"0" * LARGE, b"large"
    bombs = [
        (framed(batch([(b"k", b"v")]), ENCODERS[codec](batch([(b"k", b"0" * BOMB)])[61:]), codec, 1), codec)
        for codec in ("gzip", "zstd")
    ]
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "worker.log") as worker:
        worker.until(worker.ready, "it is ready")
        before = psutil.Process(worker.process.pid).memory_info().rss
        works: list[Any] = [(None, [(b"plain", event(i, "plain")) for i in range(EACH)])]
        works += [(codec, [(codec.encode(), event(i, codec)) for i in range(EACH)]) for codec in NAMES[1:]]
        asyncio.run(_send(kafka, events, works))
        asyncio.run(_send(kafka, events, [("gzip", [(key, large)]), ("zstd", [(key, large)])]))
        asyncio.run(_send(kafka, labels, [("gzip", [(key, large)]), ("lz4", [(b"l", b"{broken")])]))
        asyncio.run(_send_raw(kafka, events, [(made, 1) for made, _ in bombs]))
        asyncio.run(_send(kafka, events, [("snappy", [(b"last", event(1, "last"))])]))
        watcher.settle(worker, "everything is read")
        grown = psutil.Process(worker.process.pid).memory_info().rss - before
        assert grown < 150e6, f"{grown / 1e6:.0f} MB more"
        at = 5 * EACH
        found = letters(deployment)
        assert [(x.topic, x.offset, x.raw_bytes, x.last_offset) for x in found] == [
            (labels, 0, LARGE + 1, None),
            (labels, 1, None, None),
            (events, at, LARGE + 1, None),
            (events, at + 1, LARGE + 1, None),
            (events, at + 2, len(bombs[0][0]), at + 2),
            (events, at + 3, None, at + 3),
        ]
        why = f"oversized: {LARGE + 1} bytes, allowed 1048576; send smaller records or raise [limits] record_bytes"
        assert {x.reason for x in found if x.raw_bytes == LARGE + 1} == {why}
        assert "more than 16777216 bytes after decompression" in found[-1].reason
        scored = [orjson.loads(s.record.value)["event_id"] for s in deployment.read(topics.PREDICTIONS)[0]]
        assert len(scored) == 5 * EACH + 1
        assert worker.end() == 0
    assert "oversized" in run_weir(deployment, "dlq", "list", "--each").out
    told = run_weir(deployment, "tail", topics.USER_EVENTS, "--from", "earliest", "--no-follow")
    assert (told.status, "zstd-19" in told.out) == (0, True)


def test_a_batch_that_is_damaged_on_the_brokers_disk_is_a_letter_by_its_offsets(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("damaged"), partitions=1, tasks=("spend",),
        worker={"web_port": "auto"},
    )  # fmt: skip
    events = deployment.settings.topics.name(topics.USER_EVENTS)
    made = [batch([(b"u", event(10 * n + i, "u")) for i in range(10)], codec="lz4") for n in range(3)]
    asyncio.run(_send_raw(kafka, events, [(each, 10) for each in made]))
    path = segment(kafka, events)
    if not os.access(path, os.W_OK):
        pytest.skip(f"the broker's disk is not ours to damage: {path}")
    with path.open("r+b") as file:
        file.seek(len(made[0]) + 70)
        (byte,) = struct.unpack("B", file.read(1))
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "worker.log") as worker:
        watcher.settle(worker, "everything is read")
        (found,) = letters(deployment)
        assert (found.offset, found.last_offset) == (10, 19)
        assert "its checksum is wrong, in two fetches" in found.reason
        assert len(deployment.read(topics.PREDICTIONS)[0]) == 20
        assert worker.end() == 0


def test_a_cut_letter_is_replayed_from_where_it_was_refused(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("cut"), partitions=1, tasks=("spend",),
        worker={"web_port": "auto"}, limits={"record_bytes": 2_048},
    )  # fmt: skip
    events = deployment.settings.topics.name(topics.USER_EVENTS)
    whole = event(1, "u", more="x" * 100_000)
    asyncio.run(_send(kafka, events, [("gzip", [(b"u", whole)])]))
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "worker.log") as worker:
        watcher.settle(worker, "it is read")
        assert worker.end() == 0
    (found,) = letters(deployment)
    assert found.raw_bytes == len(whole) > len(found.raw)
    assert found.raw == whole[: len(found.raw)]
    shown = run_weir(deployment, "dlq", "show", "0-0")
    assert f"of {len(whole):,} (sha256 " in shown.out
    done = run_weir(deployment, "dlq", "replay", "0-0", "--yes")
    assert done.status == 0, done.err
    assert [s.record.value for s in deployment.read(topics.USER_EVENTS)[0]] == [whole, whole]
