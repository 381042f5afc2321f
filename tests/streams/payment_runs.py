"""Payments in files, the task that scores them, and its scores."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tests.streams.purchase_tasks import source
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.runner import run_backtest

DELAY, T0 = 6 * 3600.0, 1_700_000_000.0
TASK = """
name = "fraud"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean", "since_last"], windows = ["1d"] }]
labels = [{ name = "bad", ops = ["positives"], windows = ["7d"] }]
[model]
kind = "logistic"
params = { lr = 0.2 }
[threshold]
kind = "fixed"
value = 0.6
[metrics]
every = "12h"
""" + source("user", 'label_delay = "6h"\nbatch_size = 16\n')


def columns(n: int = 400, seed: int = 2) -> dict[str, list[Any]]:
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.2
    return {
        "id": [f"e{i}" for i in range(n)],
        "at": (T0 + np.cumsum(rng.integers(1, 900, n))).astype(np.int64).tolist(),
        "user": [f"{u:03d}" for u in rng.integers(0, 9, n)],
        "eur": np.round(rng.lognormal(2, 1, n) * (1 + 2 * bad), 2).tolist(),
        "bad": bad.astype(int).tolist(),
    }


def write(path: Path, table: dict[str, list[Any]]) -> Path:
    name = path.name
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    text = "\n".join([",".join(table), *(",".join(str(v) for v in row.values()) for row in rows)]) + "\n"
    if name.endswith(".parquet"):
        pq.write_table(pa.table(table), path)
    elif name.endswith(".jsonl"):
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    else:
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def spec(**source: Any) -> TaskSpec:
    task = TaskSpec.from_toml(TASK)
    assert task.source is not None
    return task.model_copy(update={"source": task.source.model_copy(update=source)})


def scored(folder: Path, *paths: Path, **source: Any) -> pa.Table:
    run_backtest(spec(**source), paths, folder / "scores.parquet")
    return pq.read_table(folder / "scores.parquet")
