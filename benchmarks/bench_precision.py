"""What ``[models] precision`` gains and costs: float32, float16 and int8 graphs beside each other.

An encoder, boosted trees and their blend are trained on the fraud handbook's payments up to a cutoff. Each graph then
replays the history, states carried on; its average precision and AUC are those of the week after the cutoff, which
nothing was chosen on. Speed is that of ``OrtModel.step`` with ONNX Runtime on one CPU thread: events in a second of CPU
time, so that other load on the machine weighs less. Trees have a float32 graph only.

Run: ``OMP_NUM_THREADS=1 nice python -m benchmarks.bench_precision [--shared PATH] [--cutoff 2018-05-20] [--epochs N]``.
Prints a table and then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench_encoder_training import DATA, DAY, DELAY, SHARED, logged
from benchmarks.bench_inference import cost
from weir.models.dataset.cut import training_set
from weir.models.evaluation.gate import quality
from weir.models.evaluation.quantise import FLOAT16, INT8, variants
from weir.models.onnx.graph import check_graph
from weir.models.serving.entity_steps import replay
from weir.models.serving.ort_model import OrtModel
from weir.models.training.encoder_builder import EncoderBuilder
from weir.models.training.training_settings import EncoderSettings
from weir.models.trees.tree_builder import TreesBuilder
from weir.models.types import Built, Float32Vector, History, TrainingSet
from weir.streams.trainer.job.real_steps import blended

BATCHES = (32, 512, 2048)
PRECISIONS = {"float32": "", "float16": FLOAT16, "int8": INT8}


@dataclass(frozen=True)
class Week:
    """The labelled week that quality is measured on."""

    history: History
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    y: np.ndarray[tuple[int], np.dtype[np.bool_]]


def candidates(data: TrainingSet, epochs: int) -> Iterator[Built]:
    """The encoder, the trees, and their blend."""
    with tempfile.TemporaryDirectory() as work:
        encoder = EncoderBuilder(EncoderSettings(epochs=epochs)).build(data, Path(work), 1)
        trees = TreesBuilder().build(data, Path(work), 1)
    yield from (encoder, trees, blended([encoder, trees], data))


def speeds(model: OrtModel, repeats: int) -> dict[str, int]:
    """Events in a second of CPU time, by batch size."""
    rng, found = np.random.default_rng(0), {}
    for n in BATCHES:
        x = rng.normal(size=(n, len(model.inputs))).astype(np.float32)
        state = rng.uniform(-1, 1, size=(n, model.state)).astype(np.float32)
        found[f"events_per_s_{n}"] = round(1e6 / cost(partial(model.step, x, state), n, repeats, 20_000 // (n + 100)))
    return found


def rows(built: Built, week: Week, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each precision the candidate has, the first one float32."""
    graphs = {"": built.onnx, **variants(built.onnx)}
    base: Float32Vector | None = None
    quality_of_base: dict[str, float] = {}
    for precision, name in PRECISIONS.items():
        if name not in graphs:
            continue
        check_graph(graphs[name], independent=precision != "int8")
        model = OrtModel.load(graphs[name], 1, built.inputs, provider="cpu")
        logit = replay(model, week.history)[week.rows]
        found = quality(week.y, logit, np.ones(len(logit)))
        base, quality_of_base = (logit, found) if base is None else (base, quality_of_base)
        gap, scores = np.abs(logit - base), [1 / (1 + np.exp(-z.astype(np.float64))) for z in (logit, base)]
        yield {
            "model": built.kind, "precision": precision, "kib": round(len(graphs[name]) / 1024, 1),
            **speeds(model, repeats), **found,
            "roc_auc_change": found["roc_auc"] - quality_of_base["roc_auc"],
            "average_precision_change": found["average_precision"] - quality_of_base["average_precision"],
            "largest_logit_change": float(gap.max()),
            "mean_score_change": float(np.abs(scores[0] - scores[1]).mean()),
        }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    speed = "".join(f"{row[f'events_per_s_{n}']:>12,}" for n in BATCHES)
    return (
        f"{row['model']:<9}{row['precision']:<9}{row['kib']:>8,.0f}{speed}{row['average_precision']:>9.4f}"
        f"{row['average_precision_change']:>+10.5f}{row['roc_auc']:>9.4f}{row['roc_auc_change']:>+10.5f}"
        f"{row['largest_logit_change']:>10.4f}{row['mean_score_change']:>11.1e}"
    )


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=SHARED, help="Folder that holds data/fraud_handbook.")
    parser.add_argument("--cutoff", default="2018-05-20", help="Day up to which models see anything.")
    parser.add_argument("--epochs", type=int, default=2, help="Of fine-tuning the encoder, at most.")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cutoff = datetime.fromisoformat(args.cutoff).replace(tzinfo=UTC).timestamp()
    history, labels = logged(args.shared / DATA, cutoff + 7 * DAY).history()
    data = training_set(history, labels, cutoff, 7 * DAY, DELAY)
    at = np.flatnonzero(history.ts >= cutoff)
    week = Week(history, at, labels.y[at])
    print(f"{len(data.history):,} events to learn from; {len(at):,} of the week after, {week.y.sum():,} fraud")
    speed = "".join(f"{f'ev/s, {n}':>12}" for n in BATCHES)
    print(f"{'model':<9}{'graph':<9}{'KiB':>8}{speed}{'AP':>9}{'change':>10}{'AUC':>9}{'change':>10}"
          f"{'|logit|':>10}{'|score|':>11}")  # fmt: skip
    found = []
    for built in candidates(data, args.epochs):
        for row in rows(built, week, args.repeats):
            found.append(row)
            print(line(row), flush=True)
    print(json.dumps({"benchmark": "precision", "cutoff": args.cutoff, "batches": BATCHES, "rows": found}))


if __name__ == "__main__":
    main()
