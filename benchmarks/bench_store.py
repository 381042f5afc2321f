"""Microseconds a row of the Redis feature store, beside the pipelined HSETs that a feature cache often is; its bytes.

Run: ``python benchmarks/bench_store.py [--row-bytes 656] [--rounds 30] [--aof]``; needs redis-server, starts one of its
own, prints a table and one JSON line. Client and server times are CPU of their processes; the elapsed time is what a
batch waits. The best round counts where the time is ours, as other work on the machine only adds. Rows are as those of
windows are: half of their words are zero, an eighth are two counts.

``--after TASK.toml DATA`` measures bytes instead: what each entity takes in Redis (the value, and all that Redis counts
for its key) and in a checkpoint, when the task has gone over the data. For three windows of count, mean and std::

    DATA=$WEIR_SHARED/data/fraud_handbook/transactions_raw_2018-04-01_2018-09-04.parquet
    python benchmarks/bench_store.py --after benchmarks/three_windows.toml $DATA
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import redis.asyncio
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.integration.redis_server import RedisServer
from weir.online.features.engine import Table
from weir.streams.backtest.runner import run_backtest
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_store import LaneStore
from weir.streams.redis.stored_rows import row_key
from weir.streams.task_files import load_task

LANE, TABLE = ("user-events", 3), "fraud.user"


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds a row."""

    client: float
    elapsed: float
    server: float


class Meter:
    """Times rounds of the same work."""

    def __init__(self, link: RedisClient, rounds: int) -> None:
        self._link, self._rounds = link, rounds

    async def _server_s(self) -> float:
        info = dict(
            line.split(":") for line in (await self._link.execute("INFO", "cpu")).decode().split() if ":" in line
        )
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    async def cost(self, rows: int, work: Callable[[], Awaitable[object]]) -> Cost:
        """The cost of ``work``, which is of ``rows`` rows."""
        client, elapsed = [], []
        server = await self._server_s()
        for _ in range(self._rounds):
            cpu, wall = time.process_time(), time.perf_counter()
            await work()
            client.append(time.process_time() - cpu)
            elapsed.append(time.perf_counter() - wall)
        server = (await self._server_s() - server) / self._rounds
        scale = 1e6 / rows
        return Cost(min(client) * scale, float(np.median(elapsed)) * scale, server * scale)


def like_windows(rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """Rows whose words are zeros, pairs of counts and floats as often as those of three windows are after 157 days."""
    rng = np.random.default_rng(5)
    shape = (rows, row_bytes // 8)
    counts = rng.integers(0, 4, (*shape, 2), dtype=np.uint32).view(np.uint64)[..., 0]
    kinds = rng.choice(3, shape, p=[0.54, 0.14, 0.32])
    words = np.choose(kinds, [np.zeros(shape, np.uint64), counts, rng.normal(50.0, 30.0, shape).view(np.uint64)])
    return words.view(np.uint8)


class Batches:
    """One lane's store with ``rows`` keys a batch, as a worker uses it."""

    def __init__(self, link: RedisClient, rows: int, row_bytes: int) -> None:
        self._link, self.rows, self._rows = link, rows, like_windows(rows, row_bytes)
        self.keys = [f"user-{i:06d}" for i in np.random.default_rng(7).permutation(200_000)[:rows]]
        self.store = LaneStore(link)
        self.store.create(TABLE, row_bytes, 7, 30 * 86_400.0)
        self._next: int | None = None

    async def open(self) -> None:
        """Start from Redis, with nothing cached."""
        record = await self.store.open(LANE)
        self._next = record.next_offset if record else None

    async def prefetch(self) -> None:
        """Read the batch's rows; from Redis when the lane was just opened."""
        await self.store.prefetch(LANE, {TABLE: self.keys})

    async def load(self) -> None:
        """Load every row."""
        self.store.use(LANE)
        self.store.load(TABLE, self.keys)

    async def save(self) -> None:
        """Save every row."""
        self.store.save(TABLE, self.keys, self._rows, 1e9)

    async def flush(self) -> None:
        """Save, end the step, write it."""
        await self.save()
        after = (self._next or 0) + self.rows
        writes = self.store.end_step(LANE, after - 1)
        await self.store.flush(LANE, [writes], self.store.record(LANE, after), self._next)
        self._next = after


async def measure(server: RedisServer, sizes: list[int], row_bytes: int, rounds: int, fields: int) -> dict[str, Cost]:
    """All costs by what was measured."""
    link = RedisClient(server.settings())
    await link.start()
    plain: Any = redis.asyncio.Redis.from_url(server.url)
    meter, costs = Meter(link, rounds), dict[str, Cost]()
    for rows in sizes:
        batches = Batches(link, rows, row_bytes)
        await batches.open()
        await batches.prefetch()
        await batches.load()
        await batches.flush()
        reopen = await meter.cost(rows, batches.open)

        async def miss(batches: Batches = batches) -> None:
            await batches.open()
            await batches.prefetch()

        missed = await meter.cost(rows, miss)
        costs[f"prefetch, not cached, {rows}"] = Cost(
            missed.client - reopen.client, missed.elapsed - reopen.elapsed, missed.server - reopen.server
        )
        costs[f"prefetch, cached, {rows}"] = await meter.cost(rows, batches.prefetch)
        costs[f"load, cached, {rows}"] = await meter.cost(rows, batches.load)
        costs[f"save, {rows}"] = await meter.cost(rows, batches.save)
        batches.store.end_step(LANE, 0)
        costs[f"flush, with save, {rows}"] = await meter.cost(rows, batches.flush)
        values = np.random.default_rng(1).normal(size=(rows, fields)).tolist()

        async def hset(batches: Batches = batches, values: list[list[float]] = values) -> None:
            pipeline = plain.pipeline(transaction=False)
            for key, row in zip(batches.keys, values, strict=True):
                pipeline.hset(f"plain:{key}", mapping={f"f{i}": v for i, v in enumerate(row)})
            await pipeline.execute()

        costs[f"HSET pipeline of {fields} features, {rows}"] = await meter.cost(rows, hset)
    await plain.aclose()
    await link.stop()
    return costs


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes of each entity of a table, ``(n,)``."""

    row_bytes: int
    value: NDArray[np.int64]
    """Of its value in Redis."""
    redis: NDArray[np.int64]
    """Of everything that Redis has for its key."""
    checkpoint: NDArray[np.int64]


async def kept_after(server: RedisServer, task: Path, data: Path) -> dict[str, Kept]:
    """What the entities of each table take when the task has gone over the data."""
    engine = run_backtest(load_task(task), [data]).pipeline.engine
    assert isinstance(engine.store, MemoryFeatureStore)
    held: dict[str, list[Any]] = msgspec.msgpack.decode(engine.store.snapshot())
    link, plain, found = RedisClient(server.settings()), redis.asyncio.Redis.from_url(server.url), dict[str, Kept]()
    await link.start()
    store = LaneStore(link)
    for table in engine.tables:
        store.create(table.name, table.row_bytes, table.schema, table.kept_s)
    await store.open(LANE)
    for at, table in enumerate(engine.tables):
        keys: list[str] = held[table.name][3]
        rows = engine.store.load(table.name, keys)
        await store.prefetch(LANE, {table.name: keys})
        store.use(LANE)
        store.save(table.name, keys, rows, 1e9)
        await store.flush(LANE, [store.end_step(LANE, at)], store.record(LANE, at + 1), at or None)
        pipeline = plain.pipeline(transaction=False)
        for key in keys:
            pipeline.strlen(row_key(store.prefix, LANE, table.name, key))
            pipeline.memory_usage(row_key(store.prefix, LANE, table.name, key), samples=0)
        sizes = np.array(await pipeline.execute()).reshape(-1, 2)
        alone = np.array([_checkpointed(table, [key], rows[i : i + 1]) for i, key in enumerate(keys)])
        found[table.name] = Kept(table.row_bytes, sizes[:, 0], sizes[:, 1], alone - _checkpointed(table, [], rows[:0]))
    await plain.aclose()
    await link.stop()
    return found


def _checkpointed(table: Table, keys: list[str], rows: NDArray[np.uint8]) -> int:
    store = MemoryFeatureStore()
    store.create(table.name, table.row_bytes, table.schema, table.kept_s)
    store.save(table.name, keys, rows, 1e9)
    return len(store.snapshot())


def report_kept(found: Mapping[str, Kept]) -> None:
    """Print the table and the JSON line."""
    columns = ("table", "entities", "row", "value in Redis", "key and value in Redis", "in a checkpoint")
    shown = RichTable(*columns, title="bytes of an entity: mean, p50, p99, most")
    line = {}
    for name, kept in found.items():
        each = {what: _spread(getattr(kept, what)) for what in ("value", "redis", "checkpoint")}
        shown.add_row(name, str(len(kept.value)), str(kept.row_bytes), *(str(spread)[1:-1] for spread in each.values()))
        line[name] = {"entities": len(kept.value), "row_bytes": kept.row_bytes, **each}
    Console(width=140).print(shown)
    print(json.dumps({"bytes": line, "order": ["mean", "p50", "p99", "most"]}))


def _spread(sizes: NDArray[np.int64]) -> list[int]:
    return [round(float(each)) for each in (sizes.mean(), *np.percentile(sizes, [50, 99, 100]))]


def report(costs: dict[str, Cost], row_bytes: int, aof: bool) -> None:
    """Print the table and the JSON line."""
    table = RichTable(title=f"microseconds a row; rows of {row_bytes} B{', AOF everysec' if aof else ''}")
    for column in ("what, rows a batch", "client CPU", "elapsed", "server CPU"):
        table.add_column(column, justify="left" if "what" in column else "right")
    for name, cost in costs.items():
        table.add_row(name, f"{cost.client:.2f}", f"{cost.elapsed:.2f}", f"{cost.server:.2f}")
    Console(width=110).print(table)
    line = {name: [round(c.client, 2), round(c.elapsed, 2), round(c.server, 2)] for name, c in costs.items()}
    print(
        json.dumps({"us_per_row": line, "order": ["client", "elapsed", "server"], "row_bytes": row_bytes, "aof": aof})
    )


def main() -> None:
    """Start a server, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row-bytes", type=int, default=656)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 1000, 2000])
    parser.add_argument("--features", type=int, default=20, help="fields of a hash in the baseline")
    parser.add_argument("--aof", action="store_true", help="let Redis log every write, as production should")
    parser.add_argument("--after", type=Path, nargs=2, metavar=("TASK", "DATA"), help="bytes of an entity, after that")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory), aof=args.aof).start()
        try:
            if args.after:
                report_kept(asyncio.run(kept_after(server, *args.after)))
                return
            costs = asyncio.run(measure(server, args.sizes, args.row_bytes, args.rounds, args.features))
        finally:
            server.stop()
    report(costs, args.row_bytes, args.aof)


if __name__ == "__main__":
    main()
