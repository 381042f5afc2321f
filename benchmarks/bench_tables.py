"""Measures how quickly files are read, beside the reader of an older checkout.

    python benchmarks/bench_tables.py --rows 200000 --old /tmp/w/old

Reading is building a ``FileSource`` and going over its batches. Each reader runs in a process of its own, in turns;
the table shows the best of ``--runs``, and the last line is JSON. ``--gb 1`` makes a CSV of that size, some 11 million
rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
TASK = """
name = "fraud"
entity = "user"
numbers = ["score"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["mean"], windows = ["1d"] }]
[model]
kind = "logistic"
[source]
columns = { user_id = "USER", merchant_id = "SHOP", amount = "EUR", score = "SCORE" }
event_id = "ID"
time = "AT"
label = "BAD"
"""


def write_files(folder: Path, rows: int) -> list[Path]:
    """The same rows as CSV and Parquet, with three columns that no task uses."""
    rng = np.random.default_rng(0)
    at = pc_times(rows)
    table = pa.table({
        "ID": [f"e{i:09d}" for i in range(rows)], "AT": at, "USER": [f"u{i}" for i in rng.integers(0, 20_000, rows)],
        "SHOP": [f"s{i}" for i in rng.integers(0, 900, rows)], "EUR": np.round(rng.gamma(2, 30, rows), 2),
        "SCORE": np.round(rng.normal(0, 1, rows), 4), "BAD": rng.integers(0, 2, rows),
        "X": np.round(rng.random(rows), 3), "Y": np.round(rng.random(rows), 3), "NOTE": ["not used"] * rows,
    })  # fmt: skip
    pcsv.write_csv(table, folder / "rows.csv")
    pq.write_table(table, folder / "rows.parquet")
    return [folder / "rows.csv", folder / "rows.parquet"]


def write_large(folder: Path, gb: float) -> list[Path]:
    """A CSV of so many GB, a part at a time."""
    path, part = folder / "rows.csv", 100_000
    small = write_files(folder, part)[0].read_bytes()
    header, _, body = small.partition(b"\n")
    with path.open("wb") as out:
        out.write(header + b"\n")
        for at in range(int(gb * 1e9 / len(small))):
            out.write(body.replace(b'"e', b'"e%d-' % at))  # ids of their own
    return [path]


def pc_times(rows: int) -> pa.Array:
    """Text of one time a second."""
    stamps = pa.array(1_767_571_200 + np.arange(rows), pa.int64()).cast(pa.timestamp("s"))
    return stamps.cast(pa.string())


def first_of(name: str, *modules: str) -> Any:
    """What the first of the modules that is there holds: an older checkout has it elsewhere."""
    there = next(module for module in modules if (Path.cwd() / f"{module.replace('.', '/')}.py").is_file())
    return getattr(import_module(there), name)


def measure(path: Path) -> None:
    """Print rows, seconds to open, seconds in all, and MiB; run in a process of its own."""
    columns_of = first_of("columns_of", "weir.online.task.column_plan", "online.columnplan")
    source_of = first_of("FileSource", "weir.streams.backtest.event_files", "streams.sources")
    task = first_of("TaskSpec", "weir.online.task.spec", "online.task").from_toml(TASK)
    start = time.perf_counter()
    source = source_of(task, columns_of(task), [path])
    opened = time.perf_counter() - start
    rows = sum(part.rows for part in source.batches(512))
    whole = time.perf_counter() - start
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "open_s": opened, "all_s": whole, "mib": mib}))


def main() -> None:
    """Measure, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--old", type=Path, help="checkout whose reader is measured too")
    parser.add_argument("--gb", type=float, help="size of one CSV, instead of --rows")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        measure(args.measure)
        return
    sides = {"new": ROOT} | ({"old": args.old} if args.old else {})
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in write_large(Path(folder), args.gb) if args.gb else write_files(Path(folder), args.rows):
            for _ in range(args.runs):
                for side, root in sides.items():
                    command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(path)]
                    environment = {**os.environ, "PYTHONPATH": str(root)}
                    out = subprocess.run(command, env=environment, cwd=root, check=True, capture_output=True, text=True)
                    run, key = json.loads(out.stdout), f"{path.suffix[1:]} {side}"
                    best = found.setdefault(key, run)
                    found[key] = {name: min(best[name], run[name]) for name in run}
    print(f"{'file':<14}{'rows':>10}{'open s':>9}{'all s':>9}{'MiB':>8}")
    for key, run in found.items():
        print(f"{key:<14}{run['rows']:>10,.0f}{run['open_s']:>9.2f}{run['all_s']:>9.2f}{run['mib']:>8.0f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
