"""One, two and four workers on the same filled topics: where the machine saturates; and the pauses when one goes.

Run: ``python -m benchmarks.bench_scaling [--events 200000] [--workers 1,2,4] [--rate 1000]``. Starts a broker and a
Redis (AOF every second) of its own; the work is that of peers/ (fraud.toml). Throughput runs from the first prediction
to the last, so start-up does not count; CPU is that of each process over that time. Then two workers take a steady rate
and one of them is stopped or killed for good: the pause is the longest time that any partition of predictions got
nothing. Prints tables and one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
from rich.console import Console
from rich.table import Table

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.arrivals import Arrivals
from benchmarks.scrape import samples
from benchmarks.servers import start_broker, start_redis
from benchmarks.torture.supervisor import Supervisor
from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker, free_ports
from weir.streams.config import topics
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import TransportSettings
from weir.streams.records import Record

PARTITIONS, USERS, DAY_S = 4, 5_000, 86_400.0
TASK = Path(__file__).resolve().parent / "peers" / "fraud.toml"


def events(count: int, seed: int) -> list[Record]:
    """Events as ``workload.py`` of the peers makes them: users of log-normal activity, 60 days of event time."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0.0, 1.0, USERS)
    users = rng.choice(USERS, count, p=activity / activity.sum()).tolist()
    ts = (1.7e9 + np.sort(rng.uniform(0, 60 * DAY_S, count))).tolist()
    amounts = np.round(rng.lognormal(3.2, 0.8, count), 2).tolist()
    now = time.time()
    columns = enumerate(zip(users, ts, amounts, strict=True))
    return [Record(b"u%d" % user, event(i, user, at, amount), now) for i, (user, at, amount) in columns]


def event(number: int, user: int, ts: float, amount: float) -> bytes:
    """One of them."""
    return orjson.dumps({
        "v": 1, "event_id": f"s-{number:09d}", "type": "purchase", "user_id": f"u{user}", "ts": ts, "amount": amount,
        "merchant_id": f"m{number % 997}", "device_id": f"d{user % 1511}", "channel": "web",
    })  # fmt: skip


async def fill(address: str, topic: str, records: Sequence[Record]) -> None:
    """Send all of them."""
    producer = BatchProducer(TransportSettings(bootstrap=address, group="bench"))
    await producer.start()
    try:
        for start in range(0, len(records), 20_000):
            await producer.send_and_wait(topic, records[start : start + 20_000])
    finally:
        await producer.stop()


class Drip:
    """Sends at a steady rate from a thread of its own, for ten minutes at most; a context manager."""

    def __init__(self, address: str, topic: str, rate: int) -> None:
        self._to, self._rate, self._enough = (address, topic), rate, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()), name="drip")

    def __enter__(self) -> Drip:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    async def _send(self) -> None:
        address, topic = self._to
        records, sent, started = events(self._rate * 600, 3), 0, time.monotonic()
        producer = BatchProducer(TransportSettings(bootstrap=address, group="bench"))
        await producer.start()
        while not self._enough.is_set() and sent < len(records):
            await asyncio.sleep(0.01)  # the pace of a source
            upto = min(int((time.monotonic() - started) * self._rate), len(records))
            now = time.time()
            await producer.send(topic, [r._replace(ts=now) for r in records[sent:upto]])
            sent = upto
        await producer.stop()


class Cpu:
    """CPU seconds of groups of processes since it was made."""

    def __init__(self, groups: Mapping[str, Sequence[int]]) -> None:
        self._groups = {name: [psutil.Process(pid) for pid in pids] for name, pids in groups.items()}
        self._since, self._before = time.monotonic(), self._now()

    def _now(self) -> dict[str, float]:
        return {name: sum(sum(p.cpu_times()[:2]) for p in group) for name, group in self._groups.items()}

    def cores(self) -> dict[str, float]:
        """Cores that each group kept busy."""
        took = time.monotonic() - self._since
        return {name: round((after - self._before[name]) / took, 2) for name, after in self._now().items()}


class Group:
    """Workers of one deployment, each with a web port, not started."""

    def __init__(self, deployment: Deployment, count: int, folder: Path) -> None:
        self.ports = free_ports(count)
        self.workers = Supervisor(
            lambda n: deployment.command("--instance-id", f"w{n}", "--web", f"127.0.0.1:{self.ports[n]}"), count, folder
        )

    def assigned(self, number: int) -> float:
        """Event partitions that a worker has; 0 where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[number]}/metrics", timeout=2) as answer:
                found = samples(answer.read().decode(), "weir_partitions_assigned")
        except (urllib.error.URLError, OSError):
            return 0.0
        return found.get((("topic", topics.USER_EVENTS),), 0.0)


class Scaling:
    """A broker and a Redis, and what is measured on them."""

    def __init__(self, kafka: Broker, redis_url: str, folder: Path) -> None:
        self._kafka, self._redis_url, self._folder = kafka, redis_url, folder

    def _deploy(self, name: str) -> tuple[Deployment, Path]:
        folder = self._folder / name
        folder.mkdir()
        made = Deployment.create(
            folder, self._kafka, self._redis_url, prefix=name, partitions=PARTITIONS, tasks=(TASK,),
            worker={"commit_interval_s": 0.5, "snapshot_every_s": 30.0},
        )  # fmt: skip
        return made, folder

    def throughput(self, count: int, total: int) -> dict[str, Any]:
        """``count`` workers on topics that are filled."""
        deployment, folder = self._deploy(f"scale-{count}")
        name, address = deployment.settings.topics.name, self._kafka.direct
        asyncio.run(fill(address, name(topics.USER_EVENTS), events(total, 7)))
        group = Group(deployment, count, folder)
        ports = {"broker": int(address.rpartition(":")[2]), "redis": int(self._redis_url.split(":")[2].split("/")[0])}
        servers = {server: [listener(port)] for server, port in ports.items()}
        with Arrivals(address, name(topics.PREDICTIONS), PARTITIONS, every_s=0.1) as seen:
            started = time.monotonic()
            with group.workers as workers:
                workers.until(lambda: seen.count > 0, "the first prediction", 180)
                pids = [slot.process.pid for slot in workers.slots if slot.process is not None]
                cpu = Cpu({"workers": pids, **servers})
                workers.until(lambda: seen.count >= total, "every prediction", 900)
                cores = cpu.cores()
                workers.stop()
            first, last, rows = seen.span()
        rate = rows / max(last - first, 1e-9)
        return {
            "workers": count, "events_per_s": round(rate), "per_worker": round(rate / count), "cores": cores,
            "first_score_s": round(first - started, 1), "repeats": seen.count - total,
        }  # fmt: skip

    def pause(self, how: signal.Signals, rate: int) -> dict[str, Any]:
        """Two workers at a steady rate; one goes for good."""
        deployment, folder = self._deploy(f"pause-{how.name.lower()}")
        name, address = deployment.settings.topics.name, self._kafka.direct
        group = Group(deployment, 2, folder)
        with Arrivals(address, name(topics.PREDICTIONS), PARTITIONS) as seen, group.workers as workers:
            workers.until(lambda: all(group.assigned(n) == PARTITIONS / 2 for n in (0, 1)), "a share each", 180)
            with Drip(address, name(topics.USER_EVENTS), rate):
                since = time.monotonic()
                workers.until(lambda: seen.flows_since(since + 2.0), "a steady flow", 60)
                gone = time.monotonic()
                workers.slots[1].retired = True
                workers.kill(1, how)
                workers.until(lambda: group.assigned(0) == PARTITIONS, "all partitions at the other", 120)
                over = time.monotonic()
                workers.until(lambda: seen.flows_since(over), "all partitions flow", 60)
            paused = seen.longest_gap(gone)
            workers.stop()
        return {"how": how.name, "pause_s": round(paused, 2)}


def listener(port: int) -> int:
    """The process that listens on a port of this machine."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return int(connection.pid)
    raise SystemExit(f"nothing that we may look at listens on port {port}")


def report(scaling: list[dict[str, Any]], pauses: list[dict[str, Any]], load: float) -> None:
    """Print the tables and the JSON line."""
    console, cpus = Console(width=110), os.cpu_count()
    table = Table(title=f"Throughput on {cpus} cores that broker and Redis share")
    for column in ("workers", "events/s", "per worker", "first score after s", "cores: workers", "broker", "Redis"):
        table.add_column(column, justify="right")
    for row in scaling:
        rates = [f"{row['events_per_s']:,}", f"{row['per_worker']:,}", f"{row['first_score_s']:.1f}"]
        cores = [f"{row['cores'][name]:.2f}" for name in ("workers", "broker", "redis")]
        table.add_row(str(row["workers"]), *rates, *cores)
    console.print(table)
    for row in pauses:
        console.print(
            f"one of two workers goes ({row['how']}): the longest pause of a partition {row['pause_s']:.2f} s"
        )
    print(json.dumps({"cpus": cpus, "load_before": load, "scaling": scaling, "pauses": pauses}))


def main() -> None:
    """Measure, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--workers", default="1,2,4", help="how many, with commas; empty leaves the throughput out")
    parser.add_argument("--rate", type=int, default=1_000, help="events/s while a worker goes; 0 leaves the pauses out")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kafka = start_broker(stack, folder / "broker")
        bench = Scaling(kafka, start_redis(stack, folder / "redis", durable=True), folder)
        scaling = [bench.throughput(int(n), args.events) for n in args.workers.split(",") if n]
        ways = (signal.SIGTERM, signal.SIGKILL) if args.rate else ()
        pauses = [bench.pause(how, args.rate) for how in ways]
    report(scaling, pauses, load)


if __name__ == "__main__":
    main()
