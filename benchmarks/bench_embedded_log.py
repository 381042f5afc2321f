"""The embedded log and the checkpoints of its host: starts, appends with and without a sync, reads, standing still.

A log of ``--mib`` MiB is written in frames of 1 and of 64 records and opened again; beside it the same is scanned
whole, as versions did before there were indexes. Records are appended and synced one by one, and by a thread of its own
that syncs all that came meanwhile. A checkpoint is taken of ``--users`` users with two tasks of the demo, at once and
by a child; standing still is what the engine's thread waits, on the wall and in CPU time.

Run: ``python -m benchmarks.bench_embedded_log [--mib 2048] [--users 100000]``. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson

from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.embedded.log_frames import frames
from weir.streams.records import Record

START = 1.7e9
TASKS = Path(__file__).parents[1] / "streams" / "demo" / "tasks"
STALL_TARGET_MS = 25.0


def rss_mb() -> float:
    """Memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def seconds(what: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def opening(folder: Path, mib: int, records: int) -> dict[str, float]:
    """Of a log with so many records a frame."""
    value = os.urandom(700)
    batch = [Record(b"k%d" % i, value, START) for i in range(records)]
    with EmbeddedLog(directory=folder) as log:
        number, wrote = 0, time.perf_counter()
        while sum(path.stat().st_size for path in folder.glob("*.log")) < mib << 20:
            for _ in range(4096 // records):
                log.append(("predictions", "alerts")[number % 2], [r._replace(ts=START + number) for r in batch])
                number += 1
        wrote = time.perf_counter() - wrote
        end = log.end_offset("alerts", 0)
    before, began = rss_mb(), time.perf_counter()
    with EmbeddedLog(directory=folder) as log:
        took, memory = time.perf_counter() - began, rss_mb() - before
        places = np.random.default_rng(0).integers(0, end, 200).tolist()
        reads = [seconds(lambda at=at: log.read_from("alerts", 0, at, 1)) for at in places]  # type: ignore[misc]
        by_time = [seconds(lambda at=at: log.offset_at("alerts", 0, START + at)) for at in places]  # type: ignore[misc]
    scanned = seconds(lambda: [sum(1 for _ in frames(p)) for p in sorted(folder.glob("*.log"))[-1:]])
    files = len(list(folder.glob("*.log")))
    return {
        "records_a_frame": records, "frames": number, "files": files, "write_mib_s": mib / wrote, "open_s": took,
        "open_scanning_all_s": scanned * files, "memory_mb": memory, "read_us": float(np.median(reads)) * 1e6,
        "read_p99_us": float(np.percentile(reads, 99)) * 1e6, "time_us": float(np.median(by_time)) * 1e6,
    }  # fmt: skip


def appending(folder: Path, count: int = 3_000) -> dict[str, float]:
    """Appends a second: of one record each, not synced, each synced, and synced beside by a thread."""
    record, made = [Record(b"k", os.urandom(300), START)], {}
    with EmbeddedLog(directory=folder) as log:
        made["append_us"] = seconds(lambda: [log.append("user-events", record) for _ in range(count)]) / count * 1e6
        log.sync()
        alone = [seconds(lambda: (log.append("user-events", record), log.sync())) for _ in range(300)]
        made |= {"sync_ms": float(np.median(alone)) * 1e3, "sync_p99_ms": float(np.percentile(alone, 99)) * 1e3}
        done, syncs = threading.Event(), [0]

        def syncing() -> None:
            durable = -1
            while not done.is_set():
                before, durable = durable, log.sync()
                syncs[0] += durable != before

        thread = threading.Thread(target=syncing)
        thread.start()
        took = seconds(lambda: [log.append("user-events", record) for _ in range(count)])
        done.set()
        thread.join()
        return made | {"append_us_while_synced": took / count * 1e6, "appends_a_sync": count / max(syncs[0], 1)}


def host_of(users: int, folder: Path) -> tuple[EmbeddedHost, float]:
    """A host of fraud and churn that has seen two purchases of every user; and the memory that this took, in MB."""
    before = rss_mb()
    tasks = [TaskSpec.from_toml((TASKS / f"{name}.toml").read_text(encoding="utf-8")) for name in ("fraud", "churn")]
    inputs, outputs = EmbeddedLog(), EmbeddedLog()
    host = EmbeddedHost(tasks, inputs, outputs, checkpoints=folder)
    order = np.random.default_rng(0).permutation(np.tile(np.arange(users), 2)).tolist()
    for at in range(0, len(order), 2048):
        events = [purchase(at + i, user) for i, user in enumerate(order[at : at + 2048])]
        for batch in inputs.append(topics.USER_EVENTS, events):
            host.process(batch)
        inputs.forget(inputs.next_seq)
        outputs.forget(outputs.next_seq)
    return host, rss_mb() - before


def purchase(number: int, user: int) -> Record:
    """One event."""
    ts, name = START + number * 0.5, f"u{user}"
    event = {
        "v": 1,
        "event_id": f"e{number}",
        "type": "purchase",
        "user_id": name,
        "ts": ts,
        "amount": number % 97 + 1.0,
    }
    return Record(name.encode(), orjson.dumps({**event, "merchant_id": f"m{user % 500}", "country": "DE"}), ts)


def checkpoints(users: int, folder: Path, repeats: int = 7) -> dict[str, float]:
    """What a checkpoint costs the engine's thread, and what it takes until it is in place."""
    host, memory = host_of(users, folder)
    walls, cpus, written = [], [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.thread_time()
        pending = host.begin_checkpoint()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.thread_time() - cpu)
        pending.result()
        written.append(time.perf_counter() - wall)
    return {
        "users": users, "memory_mb": memory, "file_mb": (folder / "checkpoint.bin").stat().st_size / 1e6,
        "stall_ms": float(np.median(walls)) * 1e3, "stall_max_ms": max(walls) * 1e3,
        "stall_cpu_ms": float(np.median(cpus)) * 1e3, "in_place_s": float(np.median(written)),
        "at_once_s": seconds(host.checkpoint),
    }  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--users", type=int, default=100_000)
    args = parser.parse_args()
    result: dict[str, object] = {"benchmark": "embedded_log", "mib": args.mib, "load": os.getloadavg()[0]}
    for name, run in (
        ("checkpoint", lambda folder: checkpoints(args.users, folder)),  # first: memory is then its own
        ("frames_of_64", lambda folder: opening(folder, args.mib, 64)),
        ("frames_of_1", lambda folder: opening(folder, args.mib, 1)),
        ("append", appending),
    ):
        with tempfile.TemporaryDirectory() as folder:
            measured = run(Path(folder))
        result[name] = measured
        for key, value in measured.items():
            print(f"{name:<14}{key:<24}{value:>14,.2f}")
    print(f"a checkpoint may stop the engine for {STALL_TARGET_MS:.0f} ms")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
