"""What the surprise of an encoder finds beside a detector of states: on the pumps of ``bench_states``, on SMAP and MSL.

The encoder learns what is asked of a detector of states: the references, of all machines together, the newest fifth of
each kept to say what is usual; no label. Then each row is scored in order, as a worker does, on the exported graph.
``both`` adds the logarithms of the two shares of usual rows. Intervals of 95 % are over machines. Prints a table and
then one JSON line.

Run: ``OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python -m benchmarks.bench_surprise [--runs N] [--shared PATH]``; without
``--shared`` of the pumps alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.bench_states import REFERENCE, ROWS, SENSORS, pump, weir
from weir.models.dataset.split import Rows
from weir.models.onnx.export import export_encoder
from weir.models.serving.entity_steps import run_rounds
from weir.models.serving.ort_model import OrtModel
from weir.models.serving.packed_rows import PackedSequence
from weir.models.training.feed import Feed
from weir.models.training.loop import Loop
from weir.models.training.phases import Phase, phases
from weir.models.training.training_run import _calibrate, _config, _fresh
from weir.models.training.training_settings import EncoderSettings
from weir.models.training.world import World
from weir.models.types import Float32Matrix, FloatVector, History, IntVector, Labels, TrainingSet
from weir.online.anomaly.state_detector import StateDetector

BoolVector = NDArray[np.bool_]
KEPT = 0.2
DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Machines:
    """Rows of all machines, each machine's in order."""

    names: tuple[str, ...]
    """D names of the columns of ``x``."""
    predicts: tuple[str, ...]
    x: Float32Matrix
    """``(n, D)``, missing values as -0.0."""
    machine: IntVector
    reference: BoolVector
    odd: BoolVector
    state: FloatVector
    """``(n,)`` the score of a detector of states."""

    def history(self) -> History:
        """The references; time runs from 0 to 1 in each."""
        at = np.flatnonzero(self.reference)
        machine, n = self.machine[at], len(at)
        first = np.searchsorted(machine, machine)
        count = np.bincount(machine)[machine]
        nothing, none = np.full(n, np.nan), np.full(n, -1, np.int64)
        return History(
            self.names, [str(i) for i in at], machine, (np.arange(n) - first) / count, self.x[at], nothing, none, (),
            nothing, none,
        )  # fmt: skip


def learned(machines: Machines, settings: EncoderSettings) -> tuple[bytes, int]:
    """The graph of an encoder that was only pre-trained, on the references; and how many steps that took."""
    history, none, nothing = machines.history(), np.empty(0, np.int64), np.empty(0)
    data = TrainingSet(history, Labels(none, none > 0, nothing, nothing), 1.0, 1.0 - KEPT)
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    with TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(1)
        network = _fresh(settings, _config(settings, history.inputs), data)
        nobody = Rows(none, none > 0, nothing)
        own = [p for p in phases(settings, False, 0.0) if not p.task]
        first = Phase("pre-train", "pretrain", settings.pretrain_epochs, settings.pretrain_rate, 1.0, False)
        loop = Loop(
            network, Feed(history, nobody, settings, network.heads.spec, False), nobody, settings,
            (first, *own[-1:]), 1, World(0, 1, torch.device("cpu")), Path(folder), "", count, lambda: False,
            lambda *_: None, False, data.valid_from,
        )  # fmt: skip
        loop.run()
        _calibrate(loop)
    return export_encoder(network.encoder.eval()), steps


def surprise(onnx: bytes, machines: Machines) -> FloatVector:
    """Minus the logarithm of the share of usual rows, ``(n,)``; 0 where a row says nothing."""
    model = OrtModel.load(onnx, 1, machines.names, provider="cpu", buckets=(8, 64))
    count = int(machines.machine.max()) + 1
    state = np.zeros((count, model.state), np.float32)
    said = run_rounds(model, PackedSequence.of(machines.machine, count), machines.x, state)
    return np.maximum(said.embedding[:, -1].astype(np.float64), 0.0)


def pumps(runs: int, seed: int) -> Machines:
    """The testbed of ``bench_states``."""
    made = [pump(seed + k) for k in range(runs)]
    return Machines(
        SENSORS, SENSORS, np.concatenate([x for x, _ in made]).astype(np.float32), np.repeat(np.arange(runs), ROWS),
        np.tile(np.arange(ROWS) < REFERENCE, runs), np.concatenate([states >= 0 for _, states in made]),
        np.concatenate([weir(x) for x, _ in made]),
    )  # fmt: skip


def spacecraft(shared: Path) -> Machines:
    """SMAP and MSL: telemetry and commands are seen, the telemetry is foretold; the detector watches it alone."""
    table = pq.read_table(shared / "data/device_smap_msl/device_smap_msl.parquet").to_pandas()
    table = table.sort_values(["entity", "part", "t"], kind="stable")  # "reference" comes before "test"
    names = tuple(name for name in table.columns if name[:1] == "v")
    x = table[list(names)].to_numpy(np.float32)
    machine = np.unique(table.entity.to_numpy(str), return_inverse=True)[1].astype(np.int64)
    reference, state = table.part.to_numpy(str) == "reference", np.zeros(len(x))
    for k in range(int(machine.max()) + 1):
        rows = np.flatnonzero(machine == k)
        one = StateDetector(("v0",), f"{np.count_nonzero(reference[rows])} rows")
        values = np.stack([x[rows, 0].astype(np.float64), np.full(len(rows), np.nan), np.zeros(len(rows))])
        state[rows] = one.run_columns(
            np.zeros((1, one.state_width)), np.zeros(len(rows), np.int64), np.arange(float(len(rows))), values
        )[:, 0]
    odd = table.anomaly.to_numpy() > 0
    return Machines(names, ("v0",), np.where(np.isnan(x), -0.0, x), machine, reference, odd, np.nan_to_num(state))


def told(machines: Machines, scores: Mapping[str, FloatVector], pooled: bool) -> dict[str, dict[str, Any]]:
    """ROC AUC and average precision of each score, and of its difference to the detector's, with intervals.

    Parameters
    ----------
    pooled : over the rows of all machines at once, or the mean over machines that have both kinds of rows.
    """
    judged = ~machines.reference
    groups = [np.flatnonzero(judged & (machines.machine == k)) for k in range(int(machines.machine.max()) + 1)]
    groups = [g for g in groups if pooled or 0 < machines.odd[g].sum() < len(g)]
    metrics = {"auc": roc_auc_score, "ap": average_precision_score}
    each = {m: {n: np.array([f(machines.odd[g], s[g]) for g in groups]) for n, s in scores.items()}
            for m, f in metrics.items()} if not pooled else {}  # fmt: skip
    rng = np.random.default_rng(0)
    draws = [np.arange(len(groups)), *rng.integers(0, len(groups), (DRAWS if not pooled else 60, len(groups)))]
    out: dict[str, dict[str, Any]] = {name: {} for name in scores}
    for m, f in metrics.items():
        rows: list[dict[str, float]] = []
        for draw in draws:
            at = np.concatenate([groups[k] for k in draw]) if pooled else draw
            rows.append({n: float(f(machines.odd[at], s[at]) if pooled else each[m][n][at].mean())
                         for n, s in scores.items()})  # fmt: skip
        for name in scores:
            more = np.array([row[name] - row["state"] for row in rows[1:]])
            out[name] |= {m: rows[0][name], f"{m}_more": np.quantile(more, (0.025, 0.975)).tolist()}
    usual = judged & ~machines.odd
    for name, s in scores.items():
        out[name]["false_at_99"] = float((s[usual] > (0.99 if name == "state" else -np.log(0.01))).mean())
    return out


def measure(title: str, machines: Machines, settings: EncoderSettings, pooled: bool) -> dict[str, Any]:
    """One line a score."""
    began = time.perf_counter()
    onnx, steps = learned(machines, settings)
    took = time.perf_counter() - began
    s = surprise(onnx, machines)
    both = s - np.log(np.maximum(1.0 - machines.state, 1e-12))
    found = told(machines, {"state": machines.state, "surprise": s, "both": both}, pooled)
    print(f"{title}: {steps} steps in {took:.0f} s")
    for name, m in found.items():
        gains = "" if name == "state" else "  more than state: " + ", ".join(
            f"{key} {m[f'{key}_more'][0]:+.3f} to {m[f'{key}_more'][1]:+.3f}" for key in ("auc", "ap")
        )  # fmt: skip
        print(f"  {name:9} auc {m['auc']:.3f} ap {m['ap']:.3f} false at .99 {m['false_at_99']:.3f}{gains}", flush=True)
    return {"steps": steps, "seconds": took, **found}


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--events", type=int, nargs="+", default=[8])
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    for events in args.events:
        base: dict[str, Any] = {"surprise_events": events, "batch": 16, "pretrain_epochs": args.epochs,
                                "surprise_epochs": max(args.epochs // 4, 1)}  # fmt: skip
        machines = pumps(args.runs, args.seed)
        settings = EncoderSettings(surprise=machines.predicts, **base)
        result[f"pumps_{events}"] = measure(f"pumps, mean of {events} rows", machines, settings, True)
        if args.shared is not None:
            machines = spacecraft(args.shared)
            settings = EncoderSettings(surprise=machines.predicts, **base)
            title = f"SMAP and MSL, mean of {events} rows"
            result[f"spacecraft_{events}"] = measure(title, machines, settings, False)
    print(json.dumps({"benchmark": "surprise", "runs": args.runs, "seed": args.seed, "result": result}))


if __name__ == "__main__":
    main()
