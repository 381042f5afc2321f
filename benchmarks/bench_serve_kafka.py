"""``weir serve --kafka`` beside a worker: decisions asked one by one at a fixed rate, over a real socket.

One broker, one Redis, one worker and one service, each a process, and the client in this one. Decisions take the whole
way: HTTP, broker, worker (its score lane, then its label lane), broker, tail, HTTP.

Also told is the time of processors that a decision takes in each process, which is the same on a busy machine.

Run: ``python -m benchmarks.bench_serve_kafka [--rate 500] [--seconds 20] [--repeats 3] [--fetch-ms 8]``; needs what the
integration tests need. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.bench_embedded import TASK
from benchmarks.bench_serve import LATENESS, TOKEN, decisions_one_by_one, events_of, started
from benchmarks.servers import start_broker, start_redis
from weir.streams.config.settings import load_settings
from weir.streams.kafka.admin import cluster
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.admin.topic_specs import wanted_topics

P50_MS, P99_MS = 15.0, 60.0
"""Goals at 500 decisions a second."""
_WEIR: Final = (sys.executable, "-m", "weir.streams.cli.main")


def settings_file(folder: Path, broker: str, redis: str, partitions: int, fetch_ms: float) -> Path:
    """Settings of worker and service, and their topics made."""
    (folder / "task.toml").write_text(TASK)
    config = folder / "weir.toml"
    config.write_text(
        f'[kafka]\nbootstrap = "{broker}"\n[redis]\nurl = "{redis}"\nprefix = "bench"\n'
        f"[topics]\npartitions = {partitions}\nreplication = 1\n"
        f'[worker]\ntasks = ["{folder}/task.toml"]\nweb_port = 0\ndecisions = true\n'
        f"fetch_interval_s = {fetch_ms / 1000}\n"
        f'[worker.intake]\nallowed_lateness = "{LATENESS}"\n'
        f'[serve]\ndirectory = "{folder}/data"\n[serve.access]\ntoken = "{TOKEN}"\nrequests_per_s = 1e9\n'
    )
    settings = load_settings(config, {})
    with admin_client(settings.kafka) as admin:
        cluster.create_topics(admin, wanted_topics(settings.topics, 1), False)
    return config


@contextmanager
def worker(config: Path) -> Iterator[None]:
    """``weir worker`` in a process of its own."""
    with (config.parent / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [*_WEIR, "worker", "--config", str(config)], env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def processors() -> dict[str, float]:
    """Seconds of processors that each of our processes has taken."""
    taken = dict.fromkeys(("serve", "worker", "broker"), 0.0)
    for child in psutil.Process().children(recursive=True):
        words, times = child.cmdline(), child.cpu_times()
        role = next((role for role in ("serve", "worker") if role in words), "broker" if "java" in words[0] else "")
        if role:
            taken[role] += times.user + times.system
    return taken


def measure(args: argparse.Namespace) -> tuple[list[list[float]], dict[str, float]]:
    """Seconds of each decision, by repeat; milliseconds of processors that one takes in each process."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-bench-kafka-")))
        kafka = start_broker(stack, folder / "kafka")
        redis = start_redis(stack, folder / "redis", durable=True)
        config = settings_file(folder, kafka.direct, redis, args.partitions, args.fetch_ms)
        stack.enter_context(worker(config))
        serve = [*_WEIR, "serve", "--kafka", "--config", str(config), "--log-level", "warning"]
        port = stack.enter_context(started(lambda port, _: [*serve, "--port", str(port)]))
        count = round(args.rate * args.seconds)
        events = events_of(count * (args.repeats + 1))
        # The first of them wait for the worker's kernels and for its lanes.
        parts = [events[start : start + count] for start in range(0, len(events), count)]
        asyncio.run(decisions_one_by_one(port, parts[0], args.rate))
        before = processors()
        found = [asyncio.run(decisions_one_by_one(port, part, args.rate)) for part in parts[1:]]
        after = processors()
        return found, {role: (after[role] - before[role]) * 1e3 / (len(events) - count) for role in after}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--fetch-ms", type=float, default=8, help="[worker] fetch_interval_s, in ms")
    args = parser.parse_args()
    found, taken = measure(args)
    table = Table("repeat", "p50 ms", "p99 ms", "max ms", title=f"decisions beside Kafka at {args.rate:g}/s")
    for n, part in enumerate(found, 1):
        table.add_row(str(n), *(f"{q * 1e3:.1f}" for q in np.quantile(part, (0.5, 0.99, 1.0))))
    p50, p99, worst = (float(q) * 1e3 for q in np.quantile(np.concatenate(found), (0.5, 0.99, 1.0)))
    table.add_row("all", f"{p50:.1f}", f"{p99:.1f}", f"{worst:.1f}")
    table.add_row("to reach", f"<= {P50_MS:g}", f"<= {P99_MS:g}", "")
    Console().print(table)
    print("ms of processors for a decision:", ", ".join(f"{role} {ms:.2f}" for role, ms in taken.items()))
    measured = {"p50_ms": p50, "p99_ms": p99, "max_ms": worst, "cpu_ms": taken, "load": os.getloadavg()[0]}
    print(json.dumps({"benchmark": "serve_kafka", **vars(args), **measured}))


if __name__ == "__main__":
    main()
