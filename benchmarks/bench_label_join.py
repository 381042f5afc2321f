"""Memory and time of predictions that wait for labels: an index whose rows can be read back, and all rows in memory.

Prints a table and then one JSON line. Run: ``python -m benchmarks.bench_label_join [--rows 2000000] [--old CHECKOUT]``.
With ``--old`` the join of another checkout of Weir (12015ac, say) is measured in the same way, in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weir.online.batch import LabelBatch, PredictionBatch
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinPolicy

BATCH, FEATURES, MASKS = 2_000, 30, 8
LABELLED = 50
"""One prediction in so many is labelled, anywhere in the horizon."""


def rss() -> int:
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def names(numbers: Iterable[int]) -> tuple[list[str], list[str]]:
    """Ids of predictions, and the entity of each."""
    every = list(numbers)
    return [f"tx-{i:012d}" for i in every], [f"user-{i % 20_000}" for i in every]


def batches(rows: int) -> Iterator[PredictionBatch]:
    """Predictions, made as they are wanted."""
    random = np.random.default_rng(0)
    for at in range(0, rows, BATCH):
        ts = np.arange(at, at + BATCH, dtype=np.float64)
        ids, entities = names(range(at, at + BATCH))
        x = random.normal(size=(BATCH, FEATURES))
        yield PredictionBatch(ids, entities, ts, random.random(BATCH), np.zeros(BATCH, np.int64), x)


def labels(rows: int) -> list[LabelBatch]:
    """One in fifty, in random order."""
    chosen = np.random.default_rng(1).permutation(rows)[: rows // LABELLED]
    out = []
    for at in range(0, len(chosen), 200):
        ids, entities = names(chosen[at : at + 200].tolist())
        n = len(ids)
        events: list[str | None] = list(ids)
        out.append(LabelBatch([f"l-{i}" for i in ids], entities, events, np.zeros(n), np.ones(n, np.bool_), np.ones(n)))
    return out


class Measured:
    """One join, filled, labelled, stored and restored."""

    def __init__(self, rows: int, make: Callable[[], LabelJoiner], placed: bool) -> None:
        self.rows, self.make, self.placed = rows, make, placed

    def run(self) -> dict[str, float]:
        """What it takes; bytes are of the process, after everything else is gone."""
        gc.collect()
        before, join = rss(), self.make()
        log_us = self._log(join)
        gc.collect()
        memory = (rss() - before) / self.rows
        label_us = self._label(join)
        started = time.perf_counter()
        capture: Callable[[], Callable[[], bytes]] | None = getattr(join, "capture", None)
        encode = capture() if capture is not None else join.snapshot
        stall = time.perf_counter() - started
        started = time.perf_counter()
        blob = encode()
        encoded = time.perf_counter() - started
        again, started = self.make(), time.perf_counter()
        again.restore(blob)
        restored = time.perf_counter() - started
        return {
            "bytes_a_prediction": memory,
            "log_us": log_us,
            "label_us": label_us,
            "snapshot_bytes_a_prediction": len(blob) / self.rows,
            "snapshot_on_the_loop_s": stall if capture is not None else encoded,
            "snapshot_s": stall + encoded,
            "restore_s": restored,
        }

    def _log(self, join: LabelJoiner) -> float:
        extra, spent = np.zeros((BATCH, 1 + MASKS)), 0.0
        for at, batch in enumerate(batches(self.rows)):
            more: dict[str, Any] = {"offsets": np.arange(at * BATCH, (at + 1) * BATCH)} if self.placed else {}
            started = time.process_time()
            join.log(batch, extra, {}, **more)
            spent += time.process_time() - started
        return spent / self.rows * 1e6

    def _label(self, join: LabelJoiner) -> float:
        """Without what it takes to read records back, which is the brokers' and the transport's."""
        some = labels(self.rows)
        started = time.process_time()
        for batch in some:
            if self.placed:
                wanted = join.wanted(batch)
                n = len(wanted.rows)
                ids, entities = names(wanted.offsets.tolist())
                p = PredictionBatch(
                    ids, entities, np.zeros(n), np.zeros(n), np.zeros(n, np.int64), np.zeros((n, FEATURES))
                )
                join.lend(wanted.rows, p, np.zeros((n, MASKS)), {})
            assert len(join.label(batch)) == len(batch)
        return (time.process_time() - started) / sum(map(len, some)) * 1e6


def joins(rows: int) -> dict[str, Measured]:
    """What is measured; a version before ADR 21 has one kind of join."""
    policy = JoinPolicy(keep_s=1e9, max_rows=rows + 1)
    if not hasattr(LabelJoiner, "wanted"):
        return {"in memory": Measured(rows, lambda: LabelJoiner(policy, FEATURES, 1 + MASKS), placed=False)}

    def reading_back() -> LabelJoiner:
        join = LabelJoiner(policy, FEATURES, 1 + MASKS, unlogged=1)
        join.cache_bytes = 4 << 20
        return join

    return {
        "in memory": Measured(rows, lambda: LabelJoiner(policy, FEATURES, 1 + MASKS, unlogged=1), placed=False),
        "read back": Measured(rows, reading_back, placed=True),
    }


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=2_000_000)
    arguments.add_argument("--old", type=Path, help="another checkout of Weir")
    arguments.add_argument("--only", help="one kind, as JSON; for the processes of its own")
    given = arguments.parse_args()
    if given.only:
        Measured(2 * BATCH, joins(given.rows)[given.only].make, joins(given.rows)[given.only].placed).run()  # compiles
        print(json.dumps(joins(given.rows)[given.only].run()))
        return
    found = {kind: _alone(given.rows, kind, Path.cwd()) for kind in joins(given.rows)}
    if given.old:
        found["old"] = _alone(given.rows, "in memory", given.old)
    print(f"{given.rows:,} predictions of {FEATURES} features wait for labels, in one join")
    print(f"  {'':<32}" + "".join(f"{kind:>14}" for kind in found))
    for name in next(iter(found.values())):
        print(f"  {name:<32}" + "".join(f"{of[name]:>14.3f}" for of in found.values()))
    print(json.dumps({"benchmark": "label_join", "rows": given.rows, **found}))


def _alone(rows: int, kind: str, checkout: Path) -> dict[str, float]:
    """One kind in a process of its own, with the modules of ``checkout``."""
    command = [sys.executable, str(Path(__file__).resolve()), "--rows", str(rows), "--only", kind]
    env = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
