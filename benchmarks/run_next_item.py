"""Recommends on retail_journey (protocol 2) and has the shared evaluator judge it.

Run: ``python -m benchmarks.run_next_item [--shared PATH]`` from the repository's root; it takes a minute or two. The
task below runs once over the lines of all baskets. What was told with the last line of a judged basket is what was
known at that basket. Prints what the evaluator says, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if not __package__:  # run as a file rather than with -m
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.protocol_list import HERE
from weir.online.task.next_spec import NextTask
from weir.streams.backtest.next_runner import run_next

TASK = """
kind = "next"
name = "retail_next"
description = "Ten product categories for a household's next basket"
entity = "user_id"
item = "product_category"
basket = "row"
k = 10

[source]
time = "ts"
columns = { user_id = "household", product_category = "product_category", row = "row" }
constants = { type = "purchase" }
"""


def lines_of(data: Path) -> pa.Table:
    """Every line with its basket's household and time, in the order of the baskets."""
    baskets = pq.read_table(data / "baskets.parquet", columns=["row", "household", "ts", "judged"])
    lines = pq.read_table(data / "lines.parquet", columns=["row", "product_category"])
    lines = lines.set_column(1, "product_category", pc.cast(lines["product_category"], pa.string()))
    joined = lines.group_by(["row", "product_category"]).aggregate([]).join(baskets, "row")
    return joined.sort_by([("ts", "ascending"), ("row", "ascending"), ("product_category", "ascending")])


def last_told(lines: pa.Table, told: pa.Table) -> pa.Table:
    """The lists told with the last line of each judged basket, a row an item: row, rank, product_category."""
    place = pa.array(range(len(lines)))
    ends = lines.select(["row", "judged"]).append_column("at", place).group_by("row").aggregate(
        [("at", "max"), ("judged", "max")])  # fmt: skip
    ends = ends.filter(ends["judged_max"])
    items = told["items"].take(ends["at_max"]).combine_chunks()
    parents = pc.list_parent_indices(items)
    ranks = [rank + 1 for size in pc.list_value_length(items).to_pylist() for rank in range(size)]
    columns = {"row": ends["row"].combine_chunks().take(parents), "rank": ranks}
    return pa.table({**columns, "product_category": pc.list_flatten(items)})


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_next_item", description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared", help="folder of data/ and eval/")
    shared = parser.parse_args(argv).shared
    data = shared / "data" / "retail_journey"
    with tempfile.TemporaryDirectory() as folder:
        rows, scores, top = (Path(folder) / f"{name}.parquet" for name in ("rows", "told", "top"))
        lines = lines_of(data)
        pq.write_table(lines, rows)
        result = run_next(NextTask.from_toml(TASK), [rows], scores)
        pq.write_table(last_told(lines, pq.read_table(scores)), top)
        files = ["--baskets", data / "baskets.parquet", "--lines", data / "lines.parquet", "--top", top]
        done = subprocess.run(
            [sys.executable, shared / "eval" / "next_item.py", *files], check=True, text=True, stdout=subprocess.PIPE
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])["result"]
    print(*done.stdout.strip().splitlines()[:-1], sep="\n")
    print(json.dumps({"result": found, "run": result.report()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
