"""Records a second between Faust and a real Kafka: a plain agent and a record-batch agent, and three ways to produce.

Run: ``python benchmarks/bench_transport.py [--records 400000] [--plain-records 60000]``; needs what the integration
tests need (see tests/integration/kafka_broker.py), starts a broker of its own, prints a table and one JSON line. Every
agent has a process of its own with the same fetch size and commit interval; its time runs from its first record to its
last, so that start-up does not count. CPU is that of the agent's process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import faust
from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.table import Table

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.integration.kafka_broker import find_broker
from weir.streams.kafka.consume.app import BatchApp
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import TransportSettings
from weir.streams.records import Record

PARTITIONS, VALUE_BYTES, FETCH_BYTES, COMMIT_S = 4, 200, 1 << 20, 0.5


def records_of(count: int) -> list[Record]:
    """Records of a size like an event's."""
    return [Record(b"user-%d" % (i % 5_000), b"%0*d" % (VALUE_BYTES, i), time.time()) for i in range(count)]


class Count:
    """Counts to ``total``, then commits, says what it took, and stops the worker."""

    def __init__(self, app: Any, total: int) -> None:
        self.app, self.total, self.seen, self.bytes = app, total, 0, 0
        self.start, self.cpu = 0.0, 0.0

    def begin(self) -> None:
        """Start the clock at the first record."""
        if not self.seen:
            self.start, self.cpu = time.perf_counter(), time.process_time()

    async def end(self) -> None:
        """Stop the clock at the last."""
        if self.seen < self.total:
            return
        took = {"seconds": time.perf_counter() - self.start, "cpu": time.process_time() - self.cpu}
        print(json.dumps({**took, "records": self.seen, "bytes": self.bytes}), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


def plain_app(address: str, topic: str, total: int) -> Any:
    """An agent as Faust's documentation writes it."""
    app = faust.App(
        "plain",
        broker=f"kafka://{address}",
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=FETCH_BYTES,
        broker_commit_interval=COMMIT_S,
        topic_disable_leader=True,
        web_enabled=False,
        datadir=tempfile.mkdtemp(),
    )
    count = Count(app, total)

    async def agent(stream: Any) -> None:
        async for value in stream:
            count.begin()
            count.seen += 1
            count.bytes += len(value)
            await count.end()

    app.agent(app.topic(topic, value_serializer="raw", value_type=bytes))(agent)
    return app


def batch_app(address: str, topic: str, total: int) -> Any:
    """An agent that gets record batches and looks at every value."""
    settings = TransportSettings(
        bootstrap=address, group="batch", max_partition_fetch_bytes=FETCH_BYTES, commit_interval_s=COMMIT_S
    )
    app = BatchApp(settings, datadir=tempfile.mkdtemp())
    count = Count(app, total)

    async def agent(stream: Any) -> None:
        async for batch in stream:
            if not app.batch_consumer.take(batch):
                continue
            count.begin()
            count.seen += len(batch.records)
            count.bytes += sum(len(record.value) for record in batch.records)
            app.batch_consumer.complete(batch)
            await count.end()

    app.agent(app.batch_topic(topic))(agent)
    return app


def consume(role: str, address: str, topic: str, total: int) -> dict[str, float]:
    """Run one agent in a process of its own."""
    command = [sys.executable, __file__, "--role", role, "--address", address, "--topic", topic]
    done = subprocess.run([*command, "--records", str(total)], capture_output=True, text=True, timeout=300, check=False)
    # Faust's spinner writes its escapes into the same line.
    lines = [line[line.index("{") :] for line in done.stdout.splitlines() if '{"seconds"' in line]
    if not lines:
        raise SystemExit(f"the {role} agent failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(lines[0])
    return result


Took = dict[str, float]
"""``seconds`` and ``cpu`` seconds."""


async def produce_batches(address: str, topic: str, records: list[Record], size: int = 2_000) -> Took:
    """Batches through `BatchProducer`, keys hashed and all acknowledged."""
    producer = BatchProducer(TransportSettings(bootstrap=address, group="bench"))
    await producer.start()
    await producer.send_and_wait(topic, records[:1])  # connections and the compiled partitioner
    start, cpu = time.perf_counter(), time.process_time()
    acknowledged = [await producer.send(topic, records[i : i + size]) for i in range(1, len(records), size)]
    await asyncio.gather(*acknowledged)
    took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    await producer.stop()
    return took


async def produce_singly(address: str, topic: str, records: list[Record]) -> Took:
    """One aiokafka ``send`` a record, acknowledged at the end; same acks and batch size."""
    sizes = {"max_batch_size": TransportSettings(group="bench").produce_batch_bytes}
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", enable_idempotence=True, **sizes)
    await producer.start()
    await producer.send_and_wait(topic, b"first")
    start, cpu = time.perf_counter(), time.process_time()
    futures = [await producer.send(topic, record.value, key=record.key) for record in records]
    await asyncio.gather(*futures)
    took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    await producer.stop()
    return took


async def make_topics(address: str, *names: str) -> None:
    """Create topics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from kafka.admin import KafkaAdminClient, NewTopic
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    admin.close()


def measure(address: str, count: int, plain_count: int) -> dict[str, dict[str, float]]:
    """All rates, in records a second."""
    records, plain = records_of(count), records_of(plain_count)
    asyncio.run(make_topics(address, "many", "few", "singly"))
    results: dict[str, dict[str, float]] = {}
    for name, total, took in [
        ("produce: aiokafka, one send a record", plain_count, asyncio.run(produce_singly(address, "singly", plain))),
        ("produce: BatchProducer", count, asyncio.run(produce_batches(address, "many", records))),
    ]:
        results[name] = {"rate": total / took["seconds"], "cpu_us": took["cpu"] / total * 1e6}
    asyncio.run(produce_batches(address, "few", plain))
    for name, role, topic, total in [
        ("consume: plain Faust agent", "plain", "few", plain_count),
        ("consume: record-batch agent", "batch", "many", count),
    ]:
        took = consume(role, address, topic, total)
        results[name] = {"rate": total / took["seconds"], "cpu_us": took["cpu"] / total * 1e6}
    return results


def report(results: dict[str, dict[str, float]], origin: str) -> None:
    """Print the table and the JSON line."""
    table = Table(title=f"{VALUE_BYTES} B values, {PARTITIONS} partitions, acks=all; broker {origin}")
    for column in ("what", "records/s", "CPU us/record", "times the first"):
        table.add_column(column, justify="left" if column == "what" else "right")
    first: dict[str, float] = {}
    for name, result in results.items():
        base = first.setdefault(name.split(":")[0], result["rate"])
        table.add_row(name, f"{result['rate']:,.0f}", f"{result['cpu_us']:.2f}", f"{result['rate'] / base:.1f}")
    Console(width=110).print(table)
    rates = {name: round(result["rate"]) for name, result in results.items()}
    consume_ratio = rates["consume: record-batch agent"] / rates["consume: plain Faust agent"]
    produce_ratio = rates["produce: BatchProducer"] / rates["produce: aiokafka, one send a record"]
    cpu = {name: round(result["cpu_us"], 2) for name, result in results.items()}
    line = {
        "records_per_s": rates,
        "cpu_us": cpu,
        "consume_ratio": round(consume_ratio, 1),
        "produce_ratio": round(produce_ratio, 1),
    }
    print(json.dumps(line))


def main() -> None:
    """Measure, then print; or, with ``--role``, be one of the agents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--plain-records", type=int, default=60_000)
    parser.add_argument("--role", choices=["plain", "batch"], help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--topic", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        app = {"plain": plain_app, "batch": batch_app}[args.role](args.address, args.topic, args.records)
        faust.Worker(app, loglevel="ERROR", redirect_stdouts=False, quiet=True).execute_from_commandline()
    with tempfile.TemporaryDirectory() as directory:
        broker = find_broker(Path(directory) / "broker")
        broker.start()
        try:
            report(measure(broker.address, args.records, args.plain_records), broker.origin)
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
