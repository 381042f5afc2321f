"""What Kafka transactions around a batch cost: throughput, time until a batch is safe and until a reader has it, CPU.

Run: ``python benchmarks/bench_transactions.py [--seconds 6]``; needs what the integration tests need (see
tests/integration/kafka_broker.py), starts a broker of its own, prints two tables and one JSON line. A batch goes to
three topics, as a score lane's does: every event makes a prediction and an update, every hundredth an alert. Flat out,
nothing waits but what the way itself waits for; paced, batches of 200 come at 5,000 events/s. The ways take turns in
rounds and the medians of the rounds count, because a machine is never quite alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from rich.console import Console
from rich.table import Table

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_transport import VALUE_BYTES
from tests.integration.kafka_broker import find_broker
from weir.streams.kafka.produce.record_batches import Columns, EncodedBatch, encoded_batches
from weir.streams.records import Record

TOPICS, PARTITIONS = ("predictions", "updates", "alerts"), 4
ROUNDS, PACED_BATCH, PACED_RATE = 3, 200, 5_000


@dataclass
class Way:
    """How batches are made safe: how many at once wait for it, or how many make a transaction."""

    name: str
    in_flight: int = 1
    transaction: int = 0
    """Batches of one transaction; 0: none, only idempotent and acks=all."""


WAYS = (
    Way("idempotent, acks=all"),
    Way("the same, 3 batches in flight", in_flight=3),
    Way("a transaction a batch", transaction=1),
    Way("a transaction for 5 batches", transaction=5),
)


@dataclass
class Run:
    """What one run of one way took."""

    events: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    broker_cpu_s: float = 0.0
    safe_ms: list[float] = field(default_factory=list)
    """Of each batch, from its send until it was acknowledged or committed."""
    seen_ms: list[float] = field(default_factory=list)
    """Of each batch, from its send until a reader of predictions had it."""


def batch_of(size: int) -> list[tuple[str, Columns]]:
    """The records of one batch for each topic, stamped with the present."""
    now = time.time()
    records = [Record(b"user-%d" % (i % 5_000), b"%0*d" % (VALUE_BYTES, i), now) for i in range(size)]
    return [(topic, Columns.of(part)) for topic, part in zip(TOPICS, (records, records, records[::100]), strict=True)]


class TransactionalBatch(EncodedBatch):
    """A batch of a transaction, of which Weir's own producer makes none."""

    def _compress(self) -> int:
        return super()._compress() | 0x10


async def send(producer: Any, transactional: bool, size: int, partition: int) -> list[Awaitable[Any]]:
    """Queue one batch; what to wait for."""
    encoded = [
        (topic, TransactionalBatch(e._buffer, e._count, e._times, e._compression) if transactional else e)
        for topic, columns in batch_of(size)
        for e in encoded_batches(columns, np.arange(len(columns.times_ms)), 1 << 18)
    ]
    return [await producer.send_batch(each, topic, partition=partition) for topic, each in encoded]


class Pace:
    """When batches come: at once, or every so often."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._next = every_s, time.perf_counter()

    async def next(self) -> float:
        """Wait for the next batch; when it came."""
        if not self._every_s:
            await asyncio.sleep(0)
            return time.perf_counter()
        came, self._next = self._next, self._next + self._every_s
        await asyncio.sleep(max(0.0, came - time.perf_counter()))
        return came


async def run_plain(way: Way, producer: Any, size: int, seconds: float, pace: Pace) -> Run:
    """Batches that are acknowledged, ``way.in_flight`` at most at a time."""
    run, waiting = Run(), deque[asyncio.Task[None]]()

    async def safe(came: float, waits: Sequence[Awaitable[Any]]) -> None:
        await asyncio.gather(*waits)
        run.safe_ms.append((time.perf_counter() - came) * 1e3)

    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        came = await pace.next()
        waiting.append(
            asyncio.ensure_future(safe(came, await send(producer, False, size, run.events // size % PARTITIONS)))
        )
        run.events += size
        if len(waiting) >= way.in_flight:
            await waiting.popleft()
    await asyncio.gather(*waiting)
    return run


async def run_transactions(way: Way, producer: Any, size: int, seconds: float, pace: Pace) -> Run:
    """Batches in transactions; the next one begins when the last has been committed."""
    run, end = Run(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun, waits = [await pace.next()], []
        await producer.begin_transaction()
        for number in range(way.transaction):
            if number:
                begun.append(await pace.next())
            waits += await send(producer, True, size, run.events // size % PARTITIONS)
            run.events += size
        await asyncio.gather(*waits)
        await producer.commit_transaction()
        run.safe_ms += [(time.perf_counter() - came) * 1e3 for came in begun]
    return run


@asynccontextmanager
async def watching(address: str, run_seen: list[float] | None) -> Any:
    """Meanwhile read predictions as a downstream reader would, when asked."""
    if run_seen is None:
        yield
        return
    consumer = AIOKafkaConsumer(
        TOPICS[0], bootstrap_servers=address, isolation_level="read_committed", fetch_max_wait_ms=50
    )
    await consumer.start()
    await consumer.seek_to_end()

    async def watch() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                now = time.time()
                run_seen.extend((now - stamp / 1e3) * 1e3 for stamp in {r.timestamp for r in records})

    watcher = asyncio.ensure_future(watch())
    try:
        yield
        await asyncio.sleep(0.3)  # what was committed last is on its way
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await consumer.stop()


async def measure(address: str, way: Way, size: int, seconds: float, rate: int, cpu: Callable[[], float]) -> Run:
    """One run of one way; ``rate`` 0 is flat out."""
    options = {"transactional_id": f"bench-{os.getpid()}"} if way.transaction else {"enable_idempotence": True}
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", max_batch_size=1 << 18, **options)
    await producer.start()
    runner = run_transactions if way.transaction else run_plain
    seen: list[float] | None = [] if rate else None
    try:
        await runner(way, producer, size, 0.5, Pace(0))  # connections, partitions, the coordinator
        async with watching(address, seen):
            began = time.perf_counter(), time.process_time(), cpu()
            run = await runner(way, producer, size, seconds, Pace(size / rate if rate else 0))
            ended = time.perf_counter(), time.process_time(), cpu()
    finally:
        await producer.stop()
    run.seconds, run.cpu_s, run.broker_cpu_s = (b - a for a, b in zip(began, ended, strict=True))
    run.seen_ms = seen or []
    return run


def cpu_of(process: Any) -> Callable[[], float]:
    """CPU seconds of a broker that we started; 0 for others."""
    if process is None:
        return lambda: 0.0
    ticks = os.sysconf("SC_CLK_TCK")

    def seconds() -> float:
        parts = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(parts[11]) + int(parts[12])) / ticks

    return seconds


async def make_topics(address: str) -> None:
    """The three topics."""
    from kafka.admin import KafkaAdminClient, NewTopic

    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in TOPICS])
    admin.close()


def summary(runs: Sequence[Run]) -> dict[str, float]:
    """Medians over the rounds."""

    def percentile(of: str, q: float) -> float:
        values = [float(np.percentile(getattr(run, of), q)) for run in runs if getattr(run, of)]
        return median(values) if values else 0.0

    return {
        "events_per_s": round(median(run.events / run.seconds for run in runs)),
        "safe_p50_ms": round(percentile("safe_ms", 50), 2),
        "safe_p99_ms": round(percentile("safe_ms", 99), 2),
        "seen_p50_ms": round(percentile("seen_ms", 50), 2),
        "seen_p99_ms": round(percentile("seen_ms", 99), 2),
        "cpu_us": round(median(run.cpu_s / run.events for run in runs) * 1e6, 2),
        "broker_cpu_us": round(median(run.broker_cpu_s / run.events for run in runs) * 1e6, 2),
    }


def table(title: str, columns: Sequence[str], results: dict[str, dict[str, float]]) -> Table:
    """Ways down, numbers across."""
    made = Table(title=title)
    made.add_column("way")
    for column in columns:
        made.add_column(column.replace("_", " "), justify="right")
    for name, result in results.items():
        made.add_row(name, *(f"{result[column]:,.6g}" for column in columns))
    return made


def main() -> None:
    """Measure, then print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0)
    seconds = parser.parse_args().seconds
    cases = [(200, 0), (2_000, 0), (PACED_BATCH, PACED_RATE)]
    runs: dict[tuple[int, int, str], list[Run]] = {}
    with tempfile.TemporaryDirectory() as directory:
        broker = find_broker(Path(directory) / "broker")
        broker.start()
        try:
            asyncio.run(make_topics(broker.address))
            cpu = cpu_of(getattr(broker, "_process", None))
            for _ in range(ROUNDS):
                for size, rate in cases:
                    for way in WAYS:
                        run = asyncio.run(measure(broker.address, way, size, seconds, rate, cpu))
                        runs.setdefault((size, rate, way.name), []).append(run)
        finally:
            broker.stop()
    report({case: {way.name: summary(runs[*case, way.name]) for way in WAYS} for case in cases})


def report(results: dict[tuple[int, int], dict[str, dict[str, float]]]) -> None:
    """Print the tables and the JSON line."""
    console, lines = Console(width=130), {}
    for (size, rate), ways in results.items():
        name = f"batches of {size}, {f'{rate:,} events/s' if rate else 'flat out'}"
        columns = ["events_per_s", "safe_p50_ms", "safe_p99_ms", "cpu_us", "broker_cpu_us"]
        console.print(table(name, columns + (["seen_p50_ms", "seen_p99_ms"] if rate else []), ways))
        lines[name] = ways
    print(json.dumps({"transactions": lines, "load_1min": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
