"""How long ``weir`` takes before it does anything: help, usage errors, and commands whose broker or store is not there.

Run: ``python -m benchmarks.bench_startup [--old CHECKOUT] [--runs 7]``. Each command is a process of its own; the runs
of this checkout, of the old one and of ``import numpy`` alternate, so that a busy machine is busy for all. Brokers and
Redis refuse at once. Prints the medians as a table, then as one JSON line.
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
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[1]
HELP_S, START_S = 0.3, 0.8
"""What help and a command's start may take, where ``import numpy`` takes 0.15 s."""
HELP: Final = (
    "--version", "--help", "topics --help", "topics describe --help", "worker --help", "demo --help", "tune --help",
    "backtest --help", "--nothing", "topics nothing",
)  # fmt: skip
TASK: Final = f"{ROOT}/streams/demo/tasks/fraud.toml"
START: Final = (
    "topics check", "dlq list", "tail alerts", "models list --registry .", f"features get user-1 --task {TASK}",
)  # fmt: skip
NOBODY: Final = {
    "WEIR_KAFKA__BOOTSTRAP": "localhost:1", "WEIR_KAFKA__TIMEOUT_S": "0.01",
    "WEIR_REDIS__URL": "redis://localhost:1/0", "WEIR_REDIS__TIMEOUT_S": "0.01",
}  # fmt: skip
NUMPY: Final = "import numpy"


def seconds(checkout: Path, command: str, folder: str) -> float:
    """One run of a command of ``checkout``, whatever it answers."""
    environ = os.environ | NOBODY | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    words = ["-c", NUMPY] if command == NUMPY else ["-P", "-m", "weir.streams.cli.main", *command.split()]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], env=environ, cwd=folder, capture_output=True, text=True, check=False
    )
    taken = time.perf_counter() - started
    if done.returncode not in (0, 2):
        raise SystemExit(f"{command}: exit status {done.returncode}\n{done.stderr}")
    return taken


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--old", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--runs", type=int, default=7)
    asked = parser.parse_args()
    checkouts = {"new": ROOT} | ({"old": asked.old.resolve()} if asked.old else {})
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for command in (NUMPY, *HELP, *START):
            runs: dict[str, list[float]] = {name: [] for name in (*checkouts, "numpy")}
            for _ in range(asked.runs):
                for name, checkout in checkouts.items():
                    runs[name].append(seconds(checkout, command, folder))
                runs["numpy"].append(seconds(ROOT, NUMPY, folder))
            found[command.replace(TASK, "fraud.toml")] = {name: round(median(each), 3) for name, each in runs.items()}
    table = Table("command", *(f"{name} s" for name in (*checkouts, "numpy")), box=None)
    for command, medians in found.items():
        table.add_row(command, *(f"{value:.3f}" for value in medians.values()))
    Console(highlight=False).print(table)
    targets = {"help_s": HELP_S, "start_s": START_S}
    print(json.dumps({"benchmark": "startup", "runs": asked.runs, "targets": targets, "seconds": found}))


if __name__ == "__main__":
    main()
