"""The fraud handbook with the whole product: online model, full model retrained every week, both blended.

Run: ``nice .venv/bin/python -m benchmarks.run_full_fraud [--quick] [--kinds trees] [--oracle]`` from the repository's
root, on one core (``OMP_NUM_THREADS=1``). It replays the payments through the pipeline of
``protocols/fraud_handbook_full.toml``. Every week the trainer's own builders train trees and encoder on what is known
by then, labels seven days late; their blend serves the next week. The evaluator of the shared folder judges the
validation and the test weeks. Nothing is chosen on the test weeks. Prints a table, then one JSON line.

``--oracle`` judges what knows the simulator's rules instead (``benchmarks.fraud_oracle``): what a model could reach.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.full_replay import DAY_S, Replay, Trained
from weir.models.types import FloatVector
from weir.streams.task_files import load_task

HERE = Path(__file__).resolve().parent
DATA = Path("data/fraud_handbook/transactions_raw_2018-04-01_2018-09-04.parquet")
VALIDATION = ("2018-07-04", "2018-07-11", "2018-07-18", "2018-07-25")
TEST = ("2018-08-08", "2018-08-15", "2018-08-22", "2018-08-29")
EARLY = ("2018-06-06",)
"""The one week that ``--quick`` gets to."""
FIRST = "2018-05-09"
MEASURES = ("average_precision", "auc_roc", "card_precision_100")
PUBLISHED = {
    "book, XGBoost": (0.687, 0.869, 0.303), "book, balanced bagging": (0.680, 0.879, 0.305),
    "book, LSTM with attention": (0.667, 0.874, 0.295), "batch probe of issue 5": (0.755, 0.880, 0.311),
    "asked": (0.775, 0.885, 0.315),
}  # fmt: skip
"""Test weeks: AP, AUC, CP@100."""
Judged = dict[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Evaluator:
    """The shared evaluator, called as a script: it is never imported or copied."""

    shared: Path
    work: Path

    def __call__(self, ids: FloatVector, scores: FloatVector, weeks: Sequence[str]) -> tuple[float, ...]:
        """Mean AP, AUC and CP@100 over ``weeks``."""
        there = np.isfinite(scores)
        path = self.work / "scores.parquet"
        pq.write_table(pa.table({"TRANSACTION_ID": ids[there].astype(np.int64), "score": scores[there]}), path)
        script = self.shared / "eval" / "fraud_handbook.py"
        command = [sys.executable, str(script), "--scores", str(path), *(f"--first-test={week}" for week in weeks)]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])["result"]
        return tuple(float(result[name]["mean"]) for name in MEASURES)


def epoch(day: str) -> float:
    """Midnight of a day, epoch seconds."""
    return float(np.datetime64(day, "s").astype(np.int64))


def logit(p: FloatVector) -> FloatVector:
    """Log-odds of probabilities, kept finite."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    out: FloatVector = np.log(p / (1 - p))
    return out


def replays(options: argparse.Namespace, work: Path, last_week: str) -> tuple[dict[str, FloatVector], list[Trained]]:
    """Scores of every candidate by name, and what each retraining made and cost."""
    path, until = options.shared / DATA, epoch(last_week) + 7 * DAY_S
    print("online model alone", flush=True)
    alone = Replay(load_task(HERE / "protocols" / "fraud_handbook.toml"), path).run(until)
    print("online and full model; every week:", flush=True)
    cutoffs = np.arange(epoch(FIRST), until, 7 * DAY_S).tolist()
    task = load_task(HERE / "protocols" / "fraud_handbook_full.toml")
    replay = Replay(task, path, options.kinds, cutoffs, work, lambda text: print(text, flush=True))
    found = replay.run(until)
    if not np.array_equal(alone["event_id"], found["event_id"]):
        raise RuntimeError("the two replays scored other rows; look for rejects in the data")
    full = "blend" if "blend" in found else options.kinds[0]
    out = {"event_id": found["event_id"], "online alone": logit(alone["score"])}
    out |= {kind: found[kind] for kind in (*options.kinds, "blend") if kind in found}
    out["online + full (served)"] = logit(found["score"])
    out["fixed: .7 full + .3 online"] = 0.7 * found[full] + 0.3 * out["online alone"]
    return out, replay.trained


def show(judged: Mapping[str, Judged]) -> None:
    """The table."""
    names = list(next(iter(judged.values())))
    print(f"\n{'':<30}" + "".join(f"{part + ' AP / AUC / CP@100':>34}" for part in judged))
    for name in names:
        cells = (" / ".join(f"{v:.4f}" for v in of[name]) for of in judged.values())
        print(f"{name:<30}" + "".join(f"{cell:>34}" for cell in cells))
    if "test" in judged:
        for name, row in PUBLISHED.items():
            print(f"{name:<30}" + " " * 34 * (len(judged) - 1) + f"{' / '.join(f'{v:.3f}' for v in row):>34}")


def costs(trained: Sequence[Trained]) -> dict[str, dict[str, float]]:
    """CPU seconds of the first training of each kind and, mean, of the later ones."""
    kinds = trained[0].cpu_s if trained else {}
    return {
        kind: {
            "first_s": round(trained[0].cpu_s[kind], 1),
            "weekly_s": round(float(np.mean([t.cpu_s[kind] for t in trained[1:] or trained])), 1),
        }
        for kind in kinds
    }


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared", help="folder of data/ and eval/")
    parser.add_argument("--kinds", default="trees,encoder", type=lambda text: tuple(text.split(",")))
    parser.add_argument("--quick", action="store_true", help="one week of June, trees only: two minutes")
    parser.add_argument("--oracle", action="store_true", help="judge the ceiling instead; minutes")
    parser.add_argument("--keep", type=Path, help="write every score to this Parquet file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and the JSON line."""
    options = _options(argv)
    if not (options.shared / DATA).is_file():
        print(
            f"error: no file {options.shared / DATA}; name the folder of data/ and eval/ with --shared", file=sys.stderr
        )
        raise SystemExit(2)
    weeks = {"June": EARLY} if options.quick else {"validation": VALIDATION, "test": TEST}
    if options.quick:
        options.kinds = ("trees",)
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        evaluate = Evaluator(options.shared, Path(folder))
        trained: list[Trained] = []
        if options.oracle:
            from benchmarks.fraud_oracle import ceilings

            first = epoch("2018-04-01")
            starts = [int((epoch(week) - first) // DAY_S) for own in weeks.values() for week in own]
            scores = ceilings(options.shared / DATA, [(day, day + 7) for day in starts])
        else:
            scores, trained = replays(options, Path(folder), list(weeks.values())[-1][-1])
        if options.keep is not None:
            pq.write_table(pa.table(scores), options.keep)
        ids = scores["event_id"]
        judged: dict[str, Judged] = {
            part: {name: evaluate(ids, values, own) for name, values in scores.items() if name != "event_id"}
            for part, own in weeks.items()
        }
    show(judged)
    wall, spent = time.perf_counter() - began, time.process_time() - cpu
    print(f"\n{wall / 60:.1f} min, CPU {spent / 60:.1f} min; CPU of a retraining: {costs(trained)}")
    print(json.dumps({"benchmark": "full_fraud", "measures": MEASURES, "judged": judged, "cpu_min": spent / 60,
                      "retraining": costs(trained), "kinds": options.kinds, "oracle": options.oracle}))  # fmt: skip


if __name__ == "__main__":
    main()
