"""What a run did, over its outcomes: at the line that was in force, by score, by rank, by the values of a field.

All is over rows with a label that became known; small, and JSON-ready.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from weir.online.batch import BoolVector
from weir.online.decisions.threshold_policy import CostThreshold
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Outcomes
from weir.streams.workbench.measures import at_line, average_precision, reliability, roc_auc, row_costs

TOPS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of all rows, the highest scores first."""
MOST_VALUES: Final = 20
_DAY_S: Final = 86_400.0


def outcome_report(task: TaskSpec, outcomes: Outcomes, field: str | None = None) -> dict[str, Any]:
    """Everything that can be said of outcomes; what is not defined is absent.

    Parameters
    ----------
    task : whose line it was.
    outcomes : those of a run.
    field : that was kept with them, to tell the same for each of its values.
    """
    known = outcomes.take(outcomes.labelled)
    y = known.label > 0
    report = {"line": {"kind": line_words(task), **_line(task, outcomes, known)}}
    found = reliability(y, known.score)
    report["reliability"] = [  # type: ignore[assignment]
        {"from": k / len(found.rows), "rows": int(n), "score": float(score), "positives": float(positives)}
        for k, (n, score, positives) in enumerate(zip(*found, strict=True)) if n
    ]  # fmt: skip
    report["gain"] = [_top(share, y, known) for share in TOPS if share * len(y) >= 1.0]  # type: ignore[assignment]
    return report if field is None else report | {"slices": {field: _slices(task, outcomes)}}


def line_words(task: TaskSpec) -> str:
    """At which line metrics were taken, in words.

    >>> line_words(TaskSpec.model_validate({"name": "x", "entity": "u", "entities": [{"name": "u", "key": "user_id"}],
    ...     "model": {"kind": "logistic"}, "threshold": {"kind": "budget", "alerts_per_day": 20}}))
    'the budget line in force at each row (alerts_per_day = 20)'
    """
    said = task.threshold.model_dump(mode="json", exclude_unset=True)
    kind = said.pop("kind", task.threshold.kind)
    said = {name: ", ".join(each["name"] for each in v) if name == "budgets" else v for name, v in said.items()}
    pairs = (f"{name} = {v:g}" if isinstance(v, int | float) else f"{name} = {v}" for name, v in said.items())
    where = f"the {kind} line in force at each row ({', '.join(pairs)})"
    return where if task.alerting else f"{where}, at which this task opens no alerts"


def _line(task: TaskSpec, rows: Outcomes, known: Outcomes) -> dict[str, float]:
    """What the line did over ``known`` rows, and how many alerts a day over all ``rows``."""
    y = known.label > 0
    # As the metrics and the page have it: a row over the line counts, too, while its entity cools down from an alert.
    found = at_line(y, known.score, known.score >= known.threshold)
    days = (float(rows.ts.max()) - float(rows.ts.min())) / _DAY_S if len(rows) else 0.0
    if days and task.alerting:
        alerts = pc.count_distinct(rows.take(rows.alerted).alert_ids).as_py()
        found |= {"days": days, "alerts_per_day": alerts / days}
    policy = task.threshold
    if isinstance(policy, CostThreshold):
        costs = policy.model_dump(include={"false_positive", "false_negative", "review"})
        stake = None if policy.value is None else np.nan_to_num(known.amount)
        over = known.alerted if task.alerting else known.score >= known.threshold
        found["cost"] = float(row_costs(y, over, costs, stake).sum())
        found["cost_without"] = float(row_costs(y, np.zeros(len(y), np.bool_), costs, stake).sum())
    return _defined(found)


def _top(share: float, y: BoolVector, known: Outcomes) -> dict[str, float]:
    """What the rows of the highest scores hold: ties are cut in the order of scoring."""
    k = int(share * len(y))
    hits = int(np.count_nonzero(y[np.argsort(-known.score, kind="stable")[:k]]))
    positives = int(np.count_nonzero(y))
    found = {"top": share, "rows": k, "hits": hits, "precision": hits / k}
    return found | ({"recall": hits / positives, "lift": hits * len(y) / (k * positives)} if positives else {})


def _slices(task: TaskSpec, outcomes: Outcomes) -> list[dict[str, Any]]:
    """The same by value of the field, those of the most rows first; null is told as ``None``."""
    counted: Mapping[str, Any] = {v["values"]: v["counts"] for v in pc.value_counts(outcomes.values).to_pylist()}
    largest = sorted(counted, key=lambda value: (-counted[value], value is None, value or ""))[:MOST_VALUES]
    made = []
    for value in largest:
        mask = pc.is_null(outcomes.values) if value is None else pc.fill_null(pc.equal(outcomes.values, value), False)
        rows = outcomes.take(np.asarray(mask, np.bool_))
        known = rows.take(rows.labelled)
        y = known.label > 0
        ranked = {"average_precision": average_precision(y, known.score), "roc_auc": roc_auc(y, known.score)}
        counts = {"scored": len(rows), "positives": int(np.count_nonzero(y))}
        made.append({"value": value, **counts, **_defined(ranked), **_line(task, rows, known)})
    return made


def _defined(found: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if math.isfinite(value)}
