"""How many modules an event and a label pass in a worker, and how often their way goes to another folder.

Run: ``python -m benchmarks.way [--old CHECKOUT] [--modules]``; needs what the integration tests need (Kafka and Redis).
Two workers of a task with one model, one of events and one of labels, run under `way_probe` and get one record at a
time. A way is what its records have in common, at least four times in five, without what else went on meanwhile.
Compiled kernels are not seen, as they make no calls of Python. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.servers import start_broker, start_redis
from tests.integration.kafka_broker import Broker, eventually
from weir.streams.config import topics
from weir.streams.config.settings import load_settings
from weir.streams.kafka.admin import cluster
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.admin.topic_specs import wanted_topics
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import TransportSettings
from weir.streams.records import Record
from weir.streams.simulate import SimulationConfig, simulate

ROOT: Final = Path(__file__).resolve().parents[1]
RECORDS: Final = 15
COMMON: Final = 0.8
"""In this share of the ways a module has to be to count: the rest is of tasks that run beside them."""
GOALS: Final = {topics.USER_EVENTS: (38, 14), topics.LABELS: (50, 12)}
"""At most so many modules, and changes of folder."""
SIMULATED: Final = SimulationConfig(
    seed=6, events=2_000, days=1, users=20, merchants=4, devices=0, fraud_share=0.3, label_delay_days=0.1,
    review_share=0.3, malformed_share=0.0, duplicate_share=0.0, late_share=0.0,
)  # fmt: skip


def sent() -> list[tuple[Record, Record]]:
    """Events, each with the label that it got."""
    found: dict[str, dict[str, Record]] = {topics.USER_EVENTS: {}, topics.LABELS: {}}
    for block in simulate(SIMULATED):
        for topic, of in found.items():
            records = block.topics.get(topic, ())
            of |= {json.loads(value).get("event_id", ""): Record(key, value, time.time()) for key, value, _ in records}
    events, labels = found.values()
    return [(events[i], label) for i, label in labels.items() if i in events][:RECORDS]


class Ways:
    """What the probes of one checkout's workers have written."""

    def __init__(self, folder: Path) -> None:
        self.files = {role: folder / f"{role}.ways" for role in ("score", "label")}

    def of(self, topic: str) -> list[list[str]]:
        """The way of each batch of a topic."""
        lines = [line for file in self.files.values() if file.exists() for line in file.read_text().splitlines()]
        found = [json.loads(line) for line in lines]
        return [way["modules"] for way in found if way["topic"] == topic]

    def has(self, topic: str, count: int) -> bool:
        """Whether so many batches of a topic went to the end."""
        return len(self.of(topic)) >= count


def common(ways: Sequence[Sequence[str]]) -> list[str]:
    """Modules that nearly all ways have, in the order in which they are entered."""
    counts = Counter(module for way in ways for module in way)
    places = {module: median(way.index(module) for way in ways if module in way) for module in counts}
    return sorted((m for m, n in counts.items() if n >= COMMON * len(ways)), key=places.__getitem__)


def changes(modules: Sequence[str]) -> int:
    """How often the next new module is in another folder."""
    folders = [module.rpartition(".")[0] for module in modules]
    return sum(a != b for a, b in pairwise(folders))


def walk(checkout: Path, kafka: Broker, redis_url: str, folder: Path) -> dict[str, list[str]]:
    """The modules of the way of an event and of a label."""
    folder.mkdir()
    prefix, config, ways = folder.name, folder / "weir.toml", Ways(folder)
    task = checkout / "tests" / "integration" / "chaos" / "tasks" / "fraud.toml"
    config.write_text(
        f'[kafka]\nbootstrap = "{kafka.direct}"\n[redis]\nurl = "{redis_url}"\nprefix = "{prefix}"\n'
        f'[topics]\npartitions = 1\nreplication = 1\nprefix = "{prefix}."\n'
        f'[worker]\ngroup = "{prefix}"\ntasks = ["{task}"]\nweb_port = 0\n'
    )
    settings = load_settings(config, {})
    with admin_client(settings.kafka) as admin:
        cluster.create_topics(admin, wanted_topics(settings.topics, 1), False)
    with worker(checkout, config, "score", ways.files), worker(checkout, config, "label", ways.files):
        asyncio.run(_send(kafka.direct, f"{prefix}.", ways))
    return {topic: common(ways.of(topic)) for topic in GOALS}


@contextmanager
def worker(checkout: Path, config: Path, role: str, files: dict[str, Path]) -> Iterator[None]:
    """A worker of one role under the probe."""
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "way_probe.py"), str(files[role]), "worker"]
    environ = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with files[role].with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--config", str(config), "--role", role], cwd=checkout, env=environ, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _send(address: str, prefix: str, ways: Ways) -> None:
    """Send one record at a time, each when the one before has gone its way to the end."""
    producer = BatchProducer(TransportSettings(bootstrap=address, group="way"))
    await producer.start()
    for n, (event, label) in enumerate(sent(), 1):
        for topic, record, then in (
            (topics.USER_EVENTS, event, (topics.USER_EVENTS, topics.PREDICTIONS)),
            (topics.LABELS, label, (topics.LABELS,)),
        ):
            await producer.send_and_wait(prefix + topic, [record])
            for done in then:
                eventually(partial(ways.has, done, n), 300, f"record {n} of {done} is done")
    await producer.stop()


def main() -> None:
    """Walk, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--old", type=Path, metavar="CHECKOUT", help="another checkout, to compare with")
    parser.add_argument("--modules", action="store_true", help="print every module, too")
    args = parser.parse_args()
    checkouts = ({"old": args.old.resolve()} if args.old else {}) | {"here": ROOT}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kafka = start_broker(stack, folder / "kafka")
        redis_url = start_redis(stack, folder / "redis", durable=False)
        found = {name: walk(checkout, kafka, redis_url, folder / name) for name, checkout in checkouts.items()}
    table = Table("", *checkouts, "to reach", title="The way through a worker")
    for topic, (most, folders) in GOALS.items():
        table.add_row(f"{topic}: modules", *(str(len(way[topic])) for way in found.values()), f"<= {most}")
        table.add_row(f"{topic}: changes", *(str(changes(way[topic])) for way in found.values()), f"<= {folders}")
    console = Console(highlight=False)
    if args.modules:
        for name, way in found.items():
            for topic, modules in way.items():
                console.print(f"[bold]{name}, {topic}[/bold]", *modules, sep="\n  ")
    console.print(table)
    counted = {
        name: {topic: {"modules": len(way), "changes": changes(way)} for topic, way in ways.items()}
        for name, ways in found.items()
    }
    print(json.dumps({"benchmark": "way", **counted}))


if __name__ == "__main__":
    main()
