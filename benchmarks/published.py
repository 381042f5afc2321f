"""Published numbers for the tables of RESULTS.md: read from the shared folder where a machine can, literal where not.

Every literal row names its source. It knows tables of numbers, not Weir's scores.
"""

from __future__ import annotations

import csv
import json
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table; a value that was not published is ``None``."""

    name: str
    values: tuple[float | None, ...]
    source: str


_FRAUD_MORE = (
    # Chapter 6 and the "optimal on test" rows of chapters 5 and 7, as listed in data/fraud_handbook/SOURCE.md.
    Row("Bagging", (0.856, 0.678, 0.293), "book, ch. 6"),
    Row("Balanced bagging", (0.879, 0.680, 0.305), "book, ch. 6"),
    Row("Balanced random forest", (0.872, 0.677, 0.302), "book, ch. 6"),
    Row("Weighted XGBoost", (0.872, 0.687, 0.300), "book, ch. 6"),
    Row("XGBoost, settings picked on test", (0.872, 0.694, 0.304), "book, ch. 5: an upper value"),
    Row("LSTM+attention, settings picked on test", (0.879, 0.676, 0.303), "book, ch. 7: an upper value"),
    Row("LR re-run", (0.868, 0.623, 0.297), "re-run, SOURCE.md"),
    Row("XGBoost re-run", (0.872, 0.687, 0.302), "re-run, SOURCE.md"),
    Row("batch probe with richer features", (0.880, 0.755, 0.311), "issue 3; not published"),
)
_NAB_MORE = (
    # In the scoreboard of the upstream README, but not in final_results.json (data/device_nab/SOURCE.md).
    Row("bayesChangePt", (17.7, 3.2, 32.2), "upstream README"),
)
_CHURN_MORE = (
    # data/churn_dodge_the_mud/SOURCE.md and issue 3. No AP of "stay" was published; the re-runs have one.
    Row("LR, this file, random folds", (0.789, 0.388), "re-run, SOURCE.md; 10-fold by player"),
    Row("GB, this file, random folds", (0.795, 0.391), "re-run, SOURCE.md; 10-fold by player"),
    Row("best batch model, split in time", (0.785, None), "re-run, issue 3"),
)
_NAB_NAMES = {"contextOSE": "CAD OSE (contextOSE)", "numenta": "Numenta HTM", "null": "null detector"}
NAB_PROFILES = ("standard", "reward_low_FP_rate", "reward_low_FN_rate")


def fraud(shared: Path) -> list[Row]:
    """AUC, AP and CP@100 of the book's models on the four test weeks, best AP first."""
    table: dict[str, Any] = runpy.run_path(str(shared / "eval/fraud_handbook.py"))["PUBLISHED"]
    rows = [Row(name, tuple(mean for mean, _ in cells), "book, ch. 7") for name, cells in table.items()]
    return sorted([*rows, *_FRAUD_MORE], key=lambda r: -(r.values[1] or 0))


def churn(shared: Path) -> list[Row]:
    """ROC AUC, and AP of "stay" where it is known."""
    table: dict[str, Any] = runpy.run_path(str(shared / "eval/dodge_the_mud.py"))["REFERENCE"]
    rows = [Row(name, (auc, None), note) for name, (auc, note) in table.items()]
    return sorted([*rows, *_CHURN_MORE], key=lambda r: -(r.values[0] or 0))


def nab(shared: Path) -> list[Row]:
    """Normalised score by profile, best standard profile first."""
    board = json.loads((shared / "data/device_nab/final_results.json").read_text())
    rows = [
        Row(_NAB_NAMES.get(name, name), tuple(found.get(p) for p in NAB_PROFILES), "final_results.json")
        for name, found in board.items()
    ]
    return sorted([*rows, *_NAB_MORE], key=lambda r: -(r.values[0] or 0))


def elec2(shared: Path) -> list[Row]:
    """Accuracy and F1 of UP of River's own models, best accuracy first."""
    path = shared / "data/online_elec2/published_river_binary_classification.csv"
    with path.open(newline="") as file:
        rows = [
            Row(line["model"], (float(line["accuracy"]), float(line["f1"])), "River benchmarks")
            for line in csv.DictReader(file)
            if line["dataset"] == "Elec2"
        ]
    return sorted(rows, key=lambda r: -(r.values[0] or 0))


def bookings() -> list[Row]:
    """ROC AUC and AP of the baselines in data/churn_bookings/SOURCE.md."""
    return [
        Row("logistic regression, all labels known by then", (0.720, 0.533), "re-run, SOURCE.md"),
        Row("LightGBM, bookings whose arrival is 21 days past", (0.702, 0.497), "re-run, SOURCE.md"),
        Row("LightGBM, all labels known by then", (0.687, 0.481), "re-run, SOURCE.md"),
        Row("lead time as it is", (0.682, 0.411), "re-run, SOURCE.md"),
    ]


def lapse() -> list[Row]:
    """ROC AUC and AP of the baselines in data/retail_journey/SOURCE.md, protocol 1."""
    return [
        Row("logistic regression on signed logs of 25 features", (0.919, 0.262), "re-run, SOURCE.md"),
        Row("mean gap of the household so far", (0.893, 0.255), "re-run, SOURCE.md"),
        Row("LightGBM, the same features", (0.881, 0.183), "re-run, SOURCE.md"),
    ]


def smap() -> list[Row]:
    """Mean ROC AUC, AP and event F1 of the baselines in data/device_smap_msl/SOURCE.md."""
    return [
        Row("abs z of v0 alone", (0.661, 0.360, 0.615), "re-run, SOURCE.md"),
        Row("PCA (90 %), T2 + Q", (0.658, 0.296, 0.314), "re-run, SOURCE.md"),
        Row("sum of z squared", (0.644, 0.273, 0.310), "re-run, SOURCE.md"),
        Row("moving z of v0, 100 rows", (0.579, 0.270, 0.757), "re-run, SOURCE.md"),
        Row("abs last difference of v0", (0.531, 0.200, 0.763), "re-run, SOURCE.md"),
    ]


def drives() -> list[Row]:
    """ROC AUC and AP of the baselines in data/device_backblaze/SOURCE.md."""
    return [
        Row("LightGBM", (0.926, 0.380), "re-run, SOURCE.md"),
        Row("logistic regression on signed logs", (0.895, 0.353), "re-run, SOURCE.md"),
        Row("smart_5 + smart_197, as they are", (0.867, 0.258), "re-run, SOURCE.md"),
    ]
