"""How long the encoder trains on the fraud set on this machine, and what pre-training adds.

Run: ``OMP_NUM_THREADS=1 nice .venv/bin/python -m benchmarks.bench_encoder_training [--shared PATH] [--days N]``.
Prints a table, then one JSON line. Target: a training in 15 minutes or less on 2 cores.

The protocol's task runs once over the payments up to a validation week (no test week is read); what it logged is kept
in ``benchmarks/out``. Each training stands at a cutoff with labels 7 days late and validates on the 7 newest labelled
days. ``next week`` is the average precision over all payments of the 7 days after the cutoff, which nothing was chosen
on; it is not the handbook's metric, which leaves known cards out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.protocol_list import HERE
from weir.models.dataset.cut import training_set
from weir.models.dataset.split import Rows
from weir.models.evaluation.gate import quality
from weir.models.training.chunks import Timeline
from weir.models.training.encoder_builder import EncoderBuilder
from weir.models.training.loop import score_rows
from weir.models.training.training_run import load
from weir.models.training.training_settings import EncoderSettings
from weir.models.training.world import World
from weir.models.types import Built, History, Labels
from weir.online.batch import LabelBatch
from weir.online.stages.pipeline import TaskPipeline
from weir.streams.backtest.event_files import FileSource, SourceBatch
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.task_files import load_task

DAY = 86_400.0
DELAY = 7 * DAY
CUTOFF = datetime(2018, 7, 11, tzinfo=UTC).timestamp()
TARGET_MINUTES = 15.0
TASK = HERE / "protocols" / "fraud_handbook.toml"
SHARED = HERE.parents[1] / "shared"
DATA = "data/fraud_handbook/transactions_raw_2018-04-01_2018-09-04.parquet"


@dataclass
class Logged:
    """What the task logged, as arrays."""

    inputs: tuple[str, ...]
    arrays: Mapping[str, Any]

    def history(self) -> tuple[History, Labels]:
        """With every label, 7 days late."""
        a, n = self.arrays, len(self.arrays["ts"])
        history = History(
            self.inputs, [""] * n, a["entity"], a["ts"], a["x"], np.zeros(n), np.zeros(n, np.int64), ("purchase",),
            a["amount"], a["item"],
        )  # fmt: skip
        return history, Labels(np.arange(n), a["y"], np.ones(n), a["ts"] + DELAY)


def logged(data: Path, until: float) -> Logged:
    """Run the protocol's task over the payments before ``until``, or take what an earlier run kept."""
    digest = hashlib.sha256(TASK.read_bytes() + str(until).encode()).hexdigest()[:12]
    kept = HERE / "out" / f"encoder_history_{digest}.npz"
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        inputs, arrays = _run(data, until)
        np.savez(kept, inputs=np.array(inputs), **arrays)
    with np.load(kept) as arrays:
        return Logged(tuple(arrays["inputs"].tolist()), {k: arrays[k] for k in arrays.files if k != "inputs"})


def _run(data: Path, until: float) -> tuple[tuple[str, ...], dict[str, Any]]:
    task = load_task(TASK)
    pipeline = TaskPipeline(task, MemoryFeatureStore())
    own = [k for k, name in enumerate(pipeline.features) if not name.startswith("full.")]
    held: list[SourceBatch] = []
    parts: list[dict[str, Any]] = []
    for rows in FileSource(task, pipeline.columns, [data]).batches(512):
        if len(rows.batch) == 0 or rows.batch.ts[0] >= until:
            break
        while held and held[0].batch.ts[-1] + DELAY <= rows.batch.ts[0]:
            pipeline.labels(_labels(held.pop(0)))
        predictions = pipeline.events(rows.batch).predictions
        assert predictions is not None
        assert rows.label is not None
        held.append(rows)
        parts.append(
            {
                "x": predictions.features[:, own].astype(np.float32),
                "ts": rows.batch.ts,
                "entity": np.array([int(k or -1) for k in rows.batch.entities["user_id"]]),
                "item": np.array([int(k or -1) for k in rows.batch.entities["merchant_id"]]),
                "amount": rows.batch.numbers["amount"],
                "y": rows.label,
            }
        )
    return tuple(pipeline.features[k] for k in own), {
        name: np.concatenate([p[name] for p in parts]) for name in parts[0]
    }


def _labels(rows: SourceBatch) -> LabelBatch:
    b = rows.batch
    assert rows.label is not None
    users = [k or "*" for k in b.entities["user_id"]]
    return LabelBatch([f"{e}/label" for e in b.event_id], users, list(b.event_id), b.ts, rows.label, np.ones(len(b)))


def next_week(built: Built, history: History, y: Any, cutoff: float) -> float:
    """Average precision over the 7 days after the cutoff."""
    at = np.flatnonzero((history.ts >= cutoff) & (history.ts < cutoff + 7 * DAY))
    rows = Rows(at, y[at], np.ones(len(at)))
    world = World(0, 1, torch.device("cpu"))
    encoder = load(built.files).encoder.eval()
    said = score_rows(encoder, history, Timeline.of(history), rows, 64, 16, 256, world)
    return quality(rows.y, said, rows.weight)["average_precision"]


def train(
    name: str, settings: EncoderSettings, history: History, labels: Labels, cutoff: float, window: float,
    warm: Mapping[str, bytes] | None = None,
) -> tuple[dict[str, Any], Built]:  # fmt: skip
    """One training, timed."""
    data = training_set(history, labels, cutoff, 7 * DAY, DELAY, window_s=window)
    wall, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as work:
        built = EncoderBuilder(settings).build(data, Path(work), 1, warm_start=warm)
    row = {
        "training": name,
        "minutes": (time.perf_counter() - wall) / 60,
        "cpu_s": time.process_time() - cpu,
        "events": len(data.history),
        "epochs": int(built.metrics["epochs"]),
        "valid_ap": built.metrics["valid_average_precision"],
        "next_week_ap": next_week(built, history, labels.y, cutoff),
    }
    print(_line(row), flush=True)
    return row, built


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['training']:<34}{row['minutes']:>9.1f}{row['cpu_s']:>9.0f}{row['events']:>11,}{row['epochs']:>8}"
        f"{row['valid_ap']:>10.4f}{row['next_week_ap']:>11.4f}"
    )


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=SHARED, help="Folder that holds data/fraud_handbook.")
    parser.add_argument(
        "--days", type=float, default=365.0, help="History to learn from, at most; fewer to try it out."
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    history, labels = logged(args.shared / DATA, CUTOFF + 14 * DAY).history()
    print(f"fraud handbook, {len(history.inputs)} inputs, GRU of 64, one thread; target {TARGET_MINUTES:.0f} minutes")
    print(f"{'training':<34}{'minutes':>9}{'cpu s':>9}{'events':>11}{'epochs':>8}{'valid AP':>10}{'next week':>11}")
    plan, window = EncoderSettings(), args.days * DAY
    full, built = train("pre-trained, then fine-tuned", plan, history, labels, CUTOFF, window)
    scratch = replace(plan, pretrain_epochs=0)
    bare, _ = train("fine-tuned from scratch", scratch, history, labels, CUTOFF, window)
    later = CUTOFF + 7 * DAY
    warm, _ = train("a week later, warm start", plan, history, labels, later, window, built.files)
    anew, _ = train("a week later, anew", plan, history, labels, later, window)
    result = {"benchmark": "encoder_training", "target_minutes": TARGET_MINUTES, "rows": [full, bare, warm, anew]}
    print(json.dumps(result | {"reached": full["minutes"] <= TARGET_MINUTES}))


if __name__ == "__main__":
    main()
