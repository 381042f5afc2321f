"""Microseconds of CPU an event of score lanes, batches of several partitions computed together beside one by one.

Run: ``python benchmarks/bench_scoring.py [--lanes 4] [--rounds 300]``; needs no server: rows are cached, as those of
busy entities are, and brokers are stood in for. The task is that of benchmarks/peers. Prints a table and one JSON line.
The two ways take turns, and the best round counts, as other work on the machine only adds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.streams.score_lanes import NOW, Lanes
from weir.online.task.spec import TaskSpec
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.records import Record
from weir.streams.worker.lanes.step_writer import PendingWrite

SIZES = (5, 20, 100, 500)
USERS = 200
TASK = Path(__file__).resolve().parent / "peers" / "fraud.toml"


class Work:
    """Lanes that get batches of ``size`` events each, round after round."""

    def __init__(self, task: TaskSpec, lanes: int, size: int, together: bool) -> None:
        self._lanes, self._size, self._together = Lanes([task], lanes), size, together
        self._count = lanes
        self._number = 0

    async def open(self) -> Work:
        """Open the lanes and bring every user into memory."""
        await self._lanes.open()
        for _ in range(1 + USERS // self._size):
            await self.round()
        return self

    def _batch(self, lane: int) -> FetchedBatch:
        records = []
        for _ in range(self._size):
            self._number += 1
            user = f"u{lane}-{self._number % USERS}"
            event = {"v": 1, "event_id": f"e{self._number}", "type": "purchase", "user_id": user, "amount": 12.5}
            event |= {"ts": NOW - 1e6 + self._number / 100, "merchant_id": f"m{self._number % 97}", "channel": "web"}
            records.append(Record(user.encode(), orjson.dumps(event), NOW))
        return self._lanes.batch(lane, records)

    async def round(self) -> float:
        """One batch of each lane; seconds of CPU an event."""
        batches = [self._batch(lane) for lane in range(self._count)]
        began = time.process_time()
        if self._together:
            made = await self._lanes.compute(batches)
        else:
            made = [step for batch in batches for step in await self._lanes.compute([batch])]
        took = time.process_time() - began
        for step in made:
            assert isinstance(step, PendingWrite)
            self._lanes.lanes[step.batch.partition].next_offset = step.batch.next_offset
        self._lanes.ctx.records.sent.clear()
        return took / (self._count * self._size)


async def measure(task: TaskSpec, lanes: int, size: int, rounds: int) -> tuple[float, float]:
    """Microseconds an event one by one, and together."""
    ways = [await Work(task, lanes, size, together).open() for together in (False, True)]
    gc.collect()
    gc.freeze()
    took: list[list[float]] = [[], []]
    for _ in range(rounds):
        for way, times in zip(ways, took, strict=True):
            times.append(await way.round())
    alone, together = (1e6 * min(times) for times in took)
    return alone, together


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    task = TaskSpec.from_toml(TASK.read_text())
    table = Table(title=f"us of CPU an event, {args.lanes} lanes", show_lines=False)
    for heading in ("events a batch", "one by one", "together", "ratio"):
        table.add_column(heading, justify="right")
    found = {}
    for size in SIZES:
        alone, together = asyncio.run(measure(task, args.lanes, size, args.rounds))
        found[size] = {"one_by_one": round(alone, 2), "together": round(together, 2)}
        table.add_row(str(size), f"{alone:.1f}", f"{together:.1f}", f"{alone / together:.2f}")
    Console().print(table)
    print(json.dumps({"benchmark": "scoring", "lanes": args.lanes, "us_per_event": found}))


if __name__ == "__main__":
    main()
