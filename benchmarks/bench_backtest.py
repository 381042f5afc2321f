"""Measures what the outputs of a backtest cost: the same run with none, all, and a page too, in turns.

    python benchmarks/bench_backtest.py --rows 100000 --runs 2
    python benchmarks/bench_backtest.py --task fraud.toml --data payments.parquet

Each run is a process of its own. The share is of processor seconds, as other work on the machine disturbs them least;
the table shows the best of ``--runs``, and the last line is JSON. Without ``--task`` a task with 40 features runs over
made payments, of which one in a hundred is bad.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
TASK = """
name = "fraud"
entity = "user"
[values]
ratio = "or_else(amount / max(user.amount_ewmean, 1), 1)"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "mean", "max", "ewmean", "since_last"]
windows = ["1d", "3d", "7d"]
[[entities.labels]]
name = "bad"
ops = ["positives", "since_positive"]
windows = ["7d", "28d"]
[[entities]]
name = "shop"
key = "merchant_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "mean", "max", "since_last"]
windows = ["1d", "3d", "7d"]
[[entities.labels]]
name = "bad"
ops = ["positives", "since_positive", "ewmean"]
windows = ["7d", "28d"]
[model]
kind = "boosted"
[labels]
negative_rate = 0.1
[labels.join]
keep_s = "8d"
[threshold]
kind = "budget"
alerts_per_day = 20
[source]
columns = { user_id = "user", merchant_id = "shop", amount = "eur", country = "country" }
constants = { type = "purchase" }
event_id = "id"
time = "at"
label = "bad"
label_delay = "7d"
"""
RUN = "from weir.streams.cli.main import run; run()"
FILES = ("scores", "alerts", "features", "report")
KINDS = {"none": (), "all": FILES, "with page": (*FILES, "html")}


def write_payments(path: Path, rows: int, seed: int = 1) -> None:
    """Sixty days of payments."""
    rng = np.random.default_rng(seed)
    bad = rng.random(rows) < 0.01
    table = pa.table({
        "id": [f"e{i:09d}" for i in range(rows)], "at": 1.7e9 + np.sort(rng.random(rows)) * 60 * 86_400,
        "user": [f"u{i}" for i in rng.integers(0, max(rows // 400, 10), rows)],
        "shop": [f"s{i}" for i in rng.integers(0, max(rows // 200, 10), rows)],
        "eur": np.round(rng.lognormal(3, 1, rows) * (1 + 2 * bad), 2), "bad": bad.astype(np.int64),
        "country": rng.choice(["at", "de", "fr", "it"], rows),
    })  # fmt: skip
    pq.write_table(table, path)


def measure(kind: str, task: Path, data: Path, folder: Path, by: str | None) -> dict[str, float]:
    """One run: processor seconds of the whole command, seconds of the clock, and MiB."""
    outputs = KINDS[kind]
    words = [word for name in outputs for word in (f"--{name}", str(folder / name))]
    words += ["--slice", by] if by and outputs else []
    command = [sys.executable, "-c", RUN, "backtest", str(task), "--data", str(data), *words]
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)}: ended with status {os.waitstatus_to_exitcode(status)}")
    cpu_s, mib = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    return {"cpu_s": cpu_s, "wall_s": time.perf_counter() - start, "mib": mib}


def main() -> None:
    """Measure, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--task", type=Path, help="a task file instead of the one made here; with --data")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--slice", help="a field for --slice; country where the payments are made here")
    args = parser.parse_args()
    best: dict[str, dict[str, float]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task, data, by = args.task, args.data, args.slice
        if task is None:
            task, data, by = folder / "task.toml", folder / "payments.parquet", by or "country"
            task.write_text(TASK)
            write_payments(data, args.rows)
        for _ in range(args.runs):
            for kind in KINDS:
                run = measure(kind, task.absolute(), data.absolute(), folder, by)
                held = best.setdefault(kind, run)
                best[kind] = {key: min(held[key], run[key]) for key in run}
        sizes = {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.name in (*FILES, "html")}
    print(f"{'outputs':<10}{'cpu s':>9}{'wall s':>9}{'MiB':>8}")
    for kind, run in best.items():
        print(f"{kind:<10}{run['cpu_s']:>9.1f}{run['wall_s']:>9.1f}{run['mib']:>8.0f}")
    slower = {kind: best[kind]["cpu_s"] / best["none"]["cpu_s"] - 1 for kind in KINDS if kind != "none"}
    print("; ".join(f"{kind}: {share:+.1%}" for kind, share in slower.items()) + f"; bytes: {sizes}")
    print(json.dumps({"runs": args.runs, "slower": slower, "bytes": sizes, **best}))


if __name__ == "__main__":
    main()
