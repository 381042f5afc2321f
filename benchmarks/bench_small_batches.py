"""What a row costs in batches of a few, beside an older checkout: scored, learned, and in a backtest.

Run: ``python -m benchmarks.bench_small_batches [--old CHECKOUT] [--models boosted auto] [--rounds 9]``. A checkout is
one of any commit since 12015ac, such as ``git worktree add ../before 12015ac`` makes. The paths, over the events and
the task of `bench_embedded`:

- scored: from the bytes of events, through the log, to the records of their predictions;
- learned: each such batch followed by the labels of all of its rows;
- backtest: the whole command where labels become known some rows later, each as soon as it is known. A checkout of
  before ``act = "between rows"`` cuts batches of that size for it; now they are learned inside a large one.

Each checkout runs in a process of its own, passes of the two take turns, and what is shown are the medians of both and
the median of their ratios: other work on the machine hits both. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.bench_embedded import TASK

ROOT: Final = Path(__file__).resolve().parents[1]
SIZES: Final = (1, 7, 20, 60, 512)
MODELS: Final = ("logistic", "boosted", "auto")
UNKNOWN_BEFORE: Final = {"auto"}
"""Models that 12015ac did not have."""
PATHS: Final = ("scored", "learned", "backtest")
WARM_ROWS: Final = 2_000
APART_S: Final = 13
CUTS_A_DELAY: Final = 8
"""A batch of a backtest spans at most this part of the label delay."""
SOURCE: Final = """
[source]
columns = { user_id = "user", amount = "eur" }
constants = { type = "purchase" }
event_id = "id"
time = "at"
label = "bad"
"""


class Checkout:
    """A process that runs passes on the code of one checkout."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.between_rows = (root / "weir").is_dir()
        """Whether its backtests learn between the rows of a batch."""
        env = {**os.environ, "PYTHONPATH": str(root), "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", str(ROOT / "benchmarks" / "small_batches_probe.py")]
        self._process = subprocess.Popen(
            command, cwd=root, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, asked: dict[str, Any]) -> float:
        """One pass; microseconds of the processor a row."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        if not told:
            raise SystemExit(f"error: the process in {self._root} ended; what it said stands above")
        return float(json.loads(told))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class Passes:
    """What is asked for, of one model and path."""

    def __init__(self, model: str, path: str, folder: Path) -> None:
        self._path, self._folder = path, folder
        self._task = TASK.replace('kind = "logistic"', f'kind = "{model}"')

    def asked(self, size: int, rows: int, between_rows: bool) -> dict[str, Any]:
        """A pass of so many rows."""
        if self._path != "backtest":
            return {"task": self._task, "size": size, "rows": rows, "labelled": self._path == "learned"}
        name = f"{size}_{between_rows}"
        task, data = self._folder / f"{name}.toml", self._folder / f"{rows}.csv"
        text = self._task.replace("indicators", "alerting = false\nindicators") + SOURCE
        text += f'label_delay = "{CUTS_A_DELAY * APART_S * size}s"\n'
        task.write_text(text + ('[labels]\nact = "between rows"\n' if between_rows else ""))
        if not data.exists():
            write_rows(data, rows)
        return {"backtest": str(task), "data": str(data), "rows": rows}

    def rows(self, size: int) -> int:
        """Of a pass: trees are regrown by the same number of them, and a command has something to do."""
        return max(4_000, 100 * size) if self._path == "backtest" else max(500, 8 * size)

    def warm(self, side: Checkout) -> None:
        """Compile, and let the model learn: of one that has not, all scores are equal, and alerts are of every row."""
        side.run(self.asked(60, WARM_ROWS, side.between_rows) | {"labelled": True})
        for size in SIZES if self._path != "backtest" else ():
            side.run(self.asked(size, size, side.between_rows))


def write_rows(path: Path, rows: int) -> None:
    """Payments, evenly apart."""
    rng = np.random.default_rng(7)
    amount = np.round(rng.lognormal(3.2, 0.8, rows), 2)
    bad = amount * rng.lognormal(0.0, 0.3, rows) > 60.0
    with path.open("w") as file:
        file.write("id,at,user,eur,bad\n")
        for i in range(rows):
            at = 1_700_000_000 + APART_S * i
            file.write(f"e{i:09d},{at},u{rng.integers(5_000)},{amount[i]},{int(bad[i])}\n")


def measure(sides: list[Checkout], passes: Passes, rounds: int) -> dict[int, list[list[float]]]:
    """By size, the microseconds a row of each pass, of each side."""
    for side in sides:
        passes.warm(side)
    took: dict[int, list[list[float]]] = {size: [[] for _ in sides] for size in SIZES}
    for number in range(rounds):
        for size, times in took.items():
            turns = list(zip(sides, times, strict=True))
            for side, own in turns if number % 2 else reversed(turns):
                own.append(side.run(passes.asked(size, passes.rows(size), side.between_rows)))
    return took


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="a checkout to compare with")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--paths", nargs="+", default=PATHS, choices=PATHS)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    table = Table(title="us of CPU a row, and how many times as fast as before")
    for heading in ("model", "path", "rows", "before", "now", "times"):
        table.add_column(heading, justify="right")
    found = []
    here, before = Checkout(ROOT), None if args.old is None else Checkout(args.old.resolve())
    for model in args.models:
        sides = [here] if before is None or model in UNKNOWN_BEFORE else [here, before]
        for path in args.paths:
            with TemporaryDirectory() as name:
                of_sizes = measure(sides, Passes(model, path, Path(name)), args.rounds)
            for size, times in of_sizes.items():
                now, *was = (round(median(own), 1) for own in times)
                ratio = round(median(b / a for a, b in zip(*times, strict=True)), 2) if was else None
                old = was[0] if was else None
                found.append({"model": model, "path": path, "rows": size, "us": now, "us_before": old, "times": ratio})
                table.add_row(*("-" if each is None else str(each) for each in (model, path, size, old, now, ratio)))
    for side in (here, before):
        if side is not None:
            side.close()
    Console().print(table)
    print(json.dumps({"benchmark": "small_batches", "rounds": args.rounds, "found": found}))


if __name__ == "__main__":
    main()
