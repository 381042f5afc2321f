"""Start, takeover and stop of workers whose partitions have grown old: a million ids each, predictions that wait.

Run: ``python -m benchmarks.bench_aged [--partitions 24] [--ids 1000000] [--events 700000]``. Starts a broker and a
Redis (AOF every second) of its own, writes journals as lanes do, and then: one worker starts, takes events of which
each waits for a label in three tasks, is stopped, and starts again; two workers start, one is killed, the other takes
its partitions over. Prints a table and one JSON line. The first start also makes the group, on a broker that has none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_scaling import event, fill
from benchmarks.scrape import samples
from benchmarks.servers import start_broker, start_redis
from tests.integration.chaos.deployment import Deployment
from tests.integration.worker_process import Worker
from weir.online.intake_policy import IntakePolicy
from weir.online.stages.admission import Admission
from weir.streams.config import topics
from weir.streams.records import Record
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_store import LaneStore
from weir.streams.worker.lanes.journal import ids_entry

BATCH: Final = 500
"""Ids of one entry: what a busy lane has in a batch."""
T0: Final = 1_700_000_000
WINDOW_S: Final = 7 * 86_400
TARGETS: Final = {
    "ready_s": 8.0, "ready_after_kill_s": 10.0, "stop_s": 3.0, "rss_gb": 1.5, "stall_s": 0.2,
    "bytes_an_id": 32.0, "redis_bytes_an_id": 32.0,
}  # fmt: skip


async def age(deployment: Deployment, partitions: int, ids: int) -> float:
    """Give each partition of user events its ids; bytes in Redis for each."""
    settings = deployment.settings
    link = RedisClient(settings.redis, prefix=settings.redis.prefix)
    await link.start()
    store, before = LaneStore(link, prefix=settings.redis.prefix), await _used(link)
    for partition in range(partitions):
        lane, rng = (topics.USER_EVENTS, partition), np.random.default_rng(partition)
        intake = Admission(IntakePolicy(), key=rng.bytes(16))
        intake.set_watermark(T0)
        rows = rng.integers(1, 2**32, (ids, 5), dtype=np.uint32)
        rows[:, 4] = np.linspace(T0 - WINDOW_S, T0, ids)
        await store.open(lane)
        entries = [ids_entry(rows[at : at + BATCH]) for at in range(0, ids, BATCH)]
        for at in range(0, len(entries), 100):
            record = store.record(lane, 0, intake.mark())
            await store.flush(lane, [], record, 0 if at else None, entries[at : at + 100])
        store.close(lane)
    took = (await _used(link) - before) / (partitions * ids)
    await link.stop()
    return took


async def _used(link: RedisClient) -> int:
    info = (await link.execute("INFO", "memory")).decode()
    return int(next(line.partition(":")[2] for line in info.splitlines() if line.startswith("used_memory:")))


def _rss_gb(worker: Worker) -> float:
    return float(psutil.Process(worker.process.pid).memory_info().rss / 1e9)


class Aged:
    """What is measured on aged state."""

    def __init__(self, deployment: Deployment, folder: Path, partitions: int) -> None:
        self._deployment, self._folder, self._partitions = deployment, folder, partitions
        self._count = 0

    def _worker(self) -> Worker:
        self._count += 1
        name = f"w{self._count}"
        (self._folder / f"{name}.log").unlink(missing_ok=True)
        return Worker(self._deployment, self._folder / f"{name}.log", "--instance-id", name, PYTHONUNBUFFERED="1")

    def _assigned(self, worker: Worker) -> int:
        found = samples(worker.get("/metrics")[1], "weir_partitions_assigned")
        return int(found.get((("topic", topics.USER_EVENTS),), 0))

    def _waited(self, worker: Worker, what: Callable[[], object], why: str) -> float:
        started = time.monotonic()
        worker.until(what, why, timeout_s=600)
        return time.monotonic() - started

    def alone(self, events: list[Record], ids: int) -> dict[str, Any]:
        """One worker, from its start to its end."""
        name = self._deployment.settings.topics.name(topics.USER_EVENTS)
        with self._worker() as worker:
            self._waited(worker, worker.ready, "it is ready")
            found: dict[str, Any] = {"first_ready_s": time.monotonic() - worker.started_at}
            found["rss_first_gb"] = _rss_gb(worker)
            asyncio.run(fill(self._deployment.direct, name, events))
            self._waited(worker, lambda: self._scored(worker) >= len(events), "all events are scored")
            time.sleep(2.0)  # so that the gauges, set each second, tell of all of it
            metrics = worker.get("/metrics")[1]
            parts = {part: value for ((_, part),), value in samples(metrics, "weir_memory_bytes").items()}
            found |= {
                "rss_gb": _rss_gb(worker),
                "bytes_an_id": parts.get("ids", 0.0) / (self._partitions * ids + len(events)),
                "stall_s": max(samples(metrics, "weir_loop_stall_seconds").values(), default=0.0),
                "memory_mb": {part: round(value / 1e6) for part, value in parts.items()},
            }
            started = time.monotonic()
            status = worker.end()
            found["stop_s"] = time.monotonic() - started
            found["status"], found["no_snapshot"] = status, worker.log.count("no snapshot at the end")
        with self._worker() as again:
            self._waited(again, again.ready, "it is ready again")
            found["ready_s"] = time.monotonic() - again.started_at
            found["rss_again_gb"] = _rss_gb(again)
            again.end()
        return found

    @staticmethod
    def _scored(worker: Worker) -> float:
        return sum(samples(worker.get("/metrics")[1], "weir_events_total").values())

    def killed(self) -> dict[str, Any]:
        """Two workers, of which one is killed."""
        with self._worker() as stays, self._worker() as goes:
            half = self._partitions // 2
            both = [stays, goes]
            self._waited(goes, goes.ready, "it is ready")
            self._waited(stays, lambda: all(w.ready() and self._assigned(w) == half for w in both), "a share each")
            time.sleep(5.0)
            goes.process.send_signal(signal.SIGKILL)
            waited = self._waited(
                stays, lambda: self._assigned(stays) == self._partitions and stays.ready(), "it has all partitions"
            )
            stall = max(samples(stays.get("/metrics")[1], "weir_loop_stall_seconds").values(), default=0.0)
            stays.end()
        return {"ready_after_kill_s": waited, "stall_after_kill_s": stall}


def report(found: dict[str, Any], load: float) -> None:
    """Print the table and the JSON line."""
    table = Table(title=f"Aged partitions on {os.cpu_count()} cores that broker and Redis share")
    for column in ("what", "measured", "target"):
        table.add_column(column, justify="right")
    for name, value in found.items():
        shown = f"{value:.2f}" if isinstance(value, float) else str(value)
        table.add_row(name, shown, f"{TARGETS[name]:g}" if name in TARGETS else "")
    Console(width=110).print(table)
    print(json.dumps({"cpus": os.cpu_count(), "load_before": load, **found}))


def main() -> None:
    """Measure, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=24)
    parser.add_argument("--ids", type=int, default=1_000_000, help="of each partition")
    parser.add_argument("--events", type=int, default=700_000, help="scored; each waits for a label in three tasks")
    parser.add_argument("--logs", type=Path, help="keep the workers' logs here")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kafka = start_broker(stack, folder / "broker")
        redis_url = start_redis(stack, folder / "redis", durable=True)
        deployment = Deployment.create(
            folder, kafka, redis_url, prefix="aged", partitions=args.partitions,
            worker={"commit_interval_s": 0.5, "snapshot_every_s": 30.0, "web_port": "auto", "label_bytes": 512 << 20},
        )  # fmt: skip
        started = time.monotonic()
        found: dict[str, Any] = {"redis_bytes_an_id": asyncio.run(age(deployment, args.partitions, args.ids))}
        print(f"aged in {time.monotonic() - started:.0f} s", file=sys.stderr)
        logs = args.logs or folder
        logs.mkdir(exist_ok=True, parents=True)
        aged = Aged(deployment, logs, args.partitions)
        now = time.time()
        records = [
            Record(b"u%d" % (i % 5_000), event(i, i % 5_000, T0 + i / 1_000, 10.0), now) for i in range(args.events)
        ]
        found |= aged.alone(records, args.ids)
        found |= aged.killed()
    report(found, load)


if __name__ == "__main__":
    main()
