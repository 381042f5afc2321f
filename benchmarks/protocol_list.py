"""The published protocols: which data a task runs over, which evaluator judges it, and what it has to reach.

It knows names and numbers of the protocols, not how they are run or written up.
"""

from __future__ import annotations

import json
import runpy
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from benchmarks import scoreformats

HERE = Path(__file__).resolve().parent
Evaluations = Mapping[str, Any]
"""The last JSON line of each evaluator call, by the call's label."""


@dataclass(frozen=True, slots=True)
class Target:
    """A number that issue 3 asks for."""

    measure: str
    at_least: float
    digits: int
    best_published: str
    value: Callable[[Evaluations], float]
    """Raises ``KeyError`` where the number was not measured."""

    def measured(self, found: Evaluations) -> float | None:
        """The number reached, or ``None``."""
        try:
            return self.value(found)
        except KeyError:
            return None


@dataclass(frozen=True, slots=True)
class Protocol:
    """One data set under its published rules.

    Parameters
    ----------
    name : of the task file in ``benchmarks/protocols`` and of the data's folder.
    data : file name in that folder.
    evaluator : script in the shared ``eval`` folder.
    suffix : form of the scores that the evaluator reads.
    convert : score file to evaluator's table.
    calls : label of each evaluator call to its extra arguments; ``{data}`` stands for the data file.
    targets : what the issue asks for.
    """

    name: str
    data: str
    evaluator: str
    convert: scoreformats.Convert
    suffix: str
    calls: Mapping[str, tuple[str, ...]]
    targets: tuple[Target, ...]
    extra: Callable[[Path, Path], dict[str, float]] | None = None
    """More numbers from the converted scores and the data, where the evaluator has no option for them."""
    folder: str | None = None
    """Of the data, where it is not the name."""

    @property
    def task(self) -> Path:
        """The task file."""
        return HERE / "protocols" / f"{self.name}.toml"

    def data_in(self, shared: Path) -> Path:
        """The data file in a shared folder."""
        return shared / "data" / (self.folder or self.name) / self.data


def _at(*keys: str) -> Callable[[Evaluations], float]:
    def value(found: Evaluations) -> float:
        at: Any = found
        for key in keys:
            at = itemgetter(key)(at)
        return float(at)

    return value


def _fixed_threshold(name: str) -> str:
    """The threshold that a task file fixes in advance."""
    task = tomllib.loads((HERE / "protocols" / f"{name}.toml").read_text())
    return str(task["threshold"]["value"])


def elec2_late(converted: Path, data: Path) -> dict[str, float]:
    """Accuracy on the last 60 % of the stream, on which no setting was chosen; the baseline repeats the last class."""
    up = np.asarray(pc.equal(pcsv.read_csv(data)["class"], "UP").combine_chunks().to_numpy(zero_copy_only=False))
    said = pcsv.read_csv(converted)["probability"].to_numpy() > 0.5
    late = int(len(up) * 0.4)
    return {
        "late_accuracy": float((up == said)[late:].mean()),
        "late_last_class": float((up[late:] == up[late - 1 : -1]).mean()),
    }


def nab_halves(converted: Path, data: Path) -> dict[str, float]:
    """Standard score at the fixed threshold: files that settings were tuned on (every second one), and the others."""
    nab = runpy.run_path(str(data.parents[2] / "eval" / "nab.py"))
    windows = json.loads((data.parent / "combined_windows.json").read_text())
    rows = nab["read_table"](data, nab["KEY"])
    rows["row"] = range(len(rows))
    rows = nab["attach_scores"](rows, converted, "")
    names = sorted(set(rows["file"]))
    found = {}
    for half, files in (("tuned_half", names[::2]), ("other_half", names[1::2])):
        corpus = nab["Corpus"](rows[rows["file"].isin(files)], windows)
        thresholds, scores = corpus.sweep(1.0, 1.0, 0.11)
        found[half] = float(scores[int((thresholds >= float(NAB_THRESHOLD)).sum()) - 1])
    return found


VALIDATION_WEEKS = ("2018-07-04", "2018-07-11", "2018-07-18", "2018-07-25")
NAB_THRESHOLD = _fixed_threshold("device_nab")
_NAB_FIXED = ("--threshold", NAB_THRESHOLD)


def _late(name: str, data: str, auc: float, ap: float, folder: str | None = None) -> Protocol:
    """Rows whose labels are known after a time of their own; to reach is the best baseline of the data's SOURCE.md."""
    asked = (("ROC AUC", "auc", auc), ("average precision", "average_precision", ap))
    targets = tuple(Target(n, at, 3, f"{at:.3f}"[1:], _at("all", "result", key)) for n, key, at in asked)
    calls = {"all": ("--data", "{data}")}
    return Protocol(name, data, "rows.py", scoreformats.rows, ".parquet", calls, targets, folder=folder)


PROTOCOLS = (
    Protocol(
        "fraud_handbook",
        "transactions_raw_2018-04-01_2018-09-04.parquet",
        "fraud_handbook.py",
        scoreformats.fraud,
        ".parquet",
        {"test": (), "validation": tuple(part for week in VALIDATION_WEEKS for part in ("--first-test", week))},
        (
            Target("average precision", 0.71, 3, ".687", _at("test", "result", "average_precision", "mean")),
            Target("card precision@100", 0.303, 3, ".305", _at("test", "result", "card_precision_100", "mean")),
            Target("ROC AUC", 0.876, 3, ".879", _at("test", "result", "auc_roc", "mean")),
        ),
    ),
    Protocol(
        "churn_dodge_the_mud",
        "plays_first70pct.csv.gz",
        "dodge_the_mud.py",
        scoreformats.churn,
        ".csv",
        {"all": (), "late": ("--since", "2015-06-01")},
        (Target("ROC AUC", 0.785, 4, ".785 (batch, split in time)", _at("all", "result", "auc")),),
    ),
    Protocol(
        "device_nab",
        "nab.parquet",
        "nab.py",
        scoreformats.nab,
        ".parquet",
        {"all": _NAB_FIXED, "known": (*_NAB_FIXED, "--only", "realKnownCause/")},
        (
            Target("standard profile", 60.0, 1, "74.9", _at("all", "result", "standard", "optimised", "score")),
            Target("values/s through the CLI", 20_000.0, 0, "-", _at("run", "rows_per_s")),
        ),
        nab_halves,
    ),
    Protocol(
        "online_elec2",
        "elec2.csv.gz",
        "elec2.py",
        scoreformats.elec2,
        ".csv",
        {"all": ()},
        (Target("accuracy", 0.90, 4, ".9064", _at("all", "result", "accuracy")),),
        elec2_late,
    ),
    Protocol(
        "device_smap_msl",
        "device_smap_msl.parquet",
        "smap_msl.py",
        scoreformats.smap,
        ".parquet",
        {"all": ("--data", "{data}")},
        (
            Target("mean average precision", 0.361, 3, ".360", _at("all", "result", "average_precision")),
            Target("mean ROC AUC", 0.662, 3, ".661", _at("all", "result", "auc")),
        ),
    ),
    _late("churn_bookings", "churn_bookings.parquet", 0.720, 0.533),
    _late("retail_lapse", "baskets.parquet", 0.919, 0.262, "retail_journey"),
    _late("device_backblaze", "device_backblaze.parquet", 0.926, 0.380),
)
