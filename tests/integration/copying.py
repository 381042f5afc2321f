"""Workers that copy a topic (transport_worker.py), and what tests of the transport ask about the copies.

A copy says where its record came from, so that loss, repeats and order can be seen in the target topic.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from tests.integration.forked import start
from tests.integration.kafka_broker import Broker, eventually
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import TransportSettings
from weir.streams.records import Record

PARTITIONS = 4
LONG_SESSION = ("--session-timeout-s", "25")
"""For what must not happen before a session ends, also where processes start slowly."""


class Worker:
    """A worker process and what it said."""

    def __init__(self, log: Path, broker: Broker, source: str, target: str, group: str, *args: str) -> None:
        self._log = log
        with log.open("ab") as out:
            command = [
                *(sys.executable, "-m", "tests.integration.transport_worker", "--bootstrap", broker.address),
                *("--source", source, "--target", target, "--group", group, *args),
            ]
            self.process = start(command, {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}, out)

    @property
    def said(self) -> list[dict[str, Any]]:
        # Faust's spinner writes its escapes into the same line.
        lines = [line[line.index("{") :] for line in self.log.splitlines() if '{"t": ' in line and line.endswith("}")]
        return [json.loads(line) for line in lines]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def batches(self) -> list[dict[str, Any]]:
        return [said for said in self.said if "batch" in said]

    def assigned(self) -> list[int] | None:
        """The partitions it has, ``None`` before it has any."""
        said = [said["assigned"] for said in self.said if "assigned" in said]
        return said[-1] if said else None

    def has(self, count: int) -> bool:
        return len(self.assigned() or ()) == count

    def assignments(self) -> int:
        return sum("assigned" in said for said in self.said)

    def until(self, what: Callable[[], object], why: str, timeout_s: float = 40) -> None:
        eventually(lambda: what() or self.process.poll() is not None, timeout_s, f"{why}; its log is {self._log}")
        assert what(), f"{why}, but it ended with {self.process.returncode}: {self._log.read_text()[-3000:]}"

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@contextmanager
def copiers(logs: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers, ``start(broker, source, target, *arguments)``, and kills those that are left at the end."""
    workers: list[Worker] = []

    def start(broker: Broker, source: str, target: str, *args: str) -> Worker:
        log = logs / f"worker-{len(workers)}.log"
        workers.append(Worker(log, broker, source, target, f"g-{source}", *args))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


def make_topics(broker: Broker, *names: str, partitions: int = PARTITIONS) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    admin.create_topics([NewTopic(name, partitions, -1) for name in names], wait_for_metadata=True)
    admin.close()


def read(broker: Broker, topic: str) -> list[Any]:
    """Everything in a topic now, by partition and offset."""
    consumer = KafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest", enable_auto_commit=False)
    try:
        tps = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(tps)
        consumer.seek_to_beginning(*tps)
        ends, records = consumer.end_offsets(tps), []
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for batch in consumer.poll(timeout_ms=500).values():
                records += batch
    finally:
        consumer.close()
    return sorted(records, key=lambda r: (r.partition, r.offset))


class Offsets:
    """Looks at where a topic ends and what a group committed, through one client."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._client = KafkaConsumer(bootstrap_servers=broker.address, group_id=f"g-{topic}", enable_auto_commit=False)
        self._tps = [TopicPartition(topic, p) for p in sorted(self._client.partitions_for_topic(topic) or ())]

    def ends(self) -> dict[int, int]:
        return {tp.partition: end for tp, end in self._client.end_offsets(self._tps).items()}

    def committed(self) -> dict[int, int]:
        return {tp.partition: self._client.committed(tp) or 0 for tp in self._tps}

    def __enter__(self) -> Offsets:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def ends(broker: Broker, topic: str) -> dict[int, int]:
    with Offsets(broker, topic) as offsets:
        return offsets.ends()


def committed(broker: Broker, topic: str) -> dict[int, int]:
    with Offsets(broker, topic) as offsets:
        return offsets.committed()


def copied(records: Sequence[Any]) -> dict[int, list[int]]:
    """Source offsets in the order of their copies, by source partition."""
    seen: dict[int, list[int]] = defaultdict(list)
    for record in records:
        partition, offset, _ = record.value.split(b":", 2)
        seen[int(partition)].append(int(offset))
    return seen


def first_occurrences(offsets: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(offsets))


def check_nothing_lost(broker: Broker, source: str, target: str, ordered: bool = True) -> int:
    """Every record was copied, in order; returns how many copies were repeats."""
    seen, repeats = copied(read(broker, target)), 0
    for partition, end in ends(broker, source).items():
        offsets = seen[partition]
        firsts = first_occurrences(offsets)
        assert sorted(firsts) == list(range(end)), f"partition {partition} lost records"
        if ordered:
            assert firsts == list(range(end)), f"partition {partition} is out of order"
        repeats += len(offsets) - len(firsts)
    return repeats


def produce(broker: Broker, topic: str, records: Sequence[Record], **settings: Any) -> None:
    async def run() -> None:
        producer = BatchProducer(TransportSettings(bootstrap=broker.address, group="tests", **settings))
        await producer.start()
        try:
            await producer.send_and_wait(topic, records)
        finally:
            await producer.stop()

    asyncio.run(run())


def some(n: int, start: int = 0) -> list[Record]:
    # Retention goes by the records' timestamps: old ones would be deleted while the test runs.
    now = time.time()
    return [Record(b"k%d" % (i % 997), b"v%d" % i, now + i / 1000) for i in range(start, start + n)]


class Load:
    """Records at a steady pace from a thread of its own, until told to stop."""

    def __init__(self, broker: Broker, topic: str, batch: int = 40, every_s: float = 0.02) -> None:
        self._enough = threading.Event()
        self._run = (broker, topic, batch, every_s)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._produce(*self._run)))

    async def _produce(self, broker: Broker, topic: str, batch: int, every_s: float) -> None:
        producer = BatchProducer(TransportSettings(bootstrap=broker.address, group="tests"))
        await producer.start()
        sent, acknowledged = 0, []
        while not self._enough.is_set():
            acknowledged.append(await producer.send(topic, some(batch, sent)))
            sent += batch
            await asyncio.sleep(every_s)
        await asyncio.gather(*acknowledged)
        await producer.stop()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()


def wait_copied(broker: Broker, source: str, target: str, worker: Worker, timeout_s: float = 60) -> None:
    """Until everything is committed, which is after everything is copied."""
    with Offsets(broker, source) as offsets:
        worker.until(lambda: offsets.committed() == offsets.ends(), f"{source} copied", timeout_s)


def pauses(workers: Sequence[Worker], since: float, partitions: Sequence[int]) -> dict[int, float]:
    """The longest time that each partition went without a batch, from ``since`` on."""
    times: dict[int, list[float]] = {p: [since] for p in partitions}
    for worker in workers:
        for said in worker.batches():
            if said["t"] > since and said["batch"][0] in times:
                times[said["batch"][0]].append(said["t"])
    return {p: max(b - a for a, b in zip(sorted(t), sorted(t)[1:], strict=False)) for p, t in times.items()}


def flowing_since(workers: Sequence[Worker], since: float) -> bool:
    """Every partition has had a batch after ``since``."""
    return {s["batch"][0] for w in workers for s in w.batches() if s["t"] > since} == set(range(PARTITIONS))
