"""What a run did, over its outcomes: at the line that was in force, by score, by rank, by the values of a field.

All is over the rows that ``judged_rows`` finds, and so is a comparison of runs; small, and JSON-ready.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from weir.online.batch import BoolVector
from weir.online.decisions.threshold_policy import CostThreshold
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Outcomes
from weir.streams.workbench.measures import at_line, average_precision, measure, reliability, roc_auc, row_costs
from weir.streams.workbench.slices import cut, is_id

TOPS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of all rows, the highest scores first."""
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """Which of n rows a run is judged by, and why the others with a label are not."""

    counted: BoolVector
    """``(n,)``: a label is known, soon or late, the model had learned something, and the event is mature."""
    before_learning: int
    """Rows with a label that were scored before anything was learned: they have one score."""
    not_mature: int
    """Those that are not mature at the end of the data."""
    late_labels: int
    """Labels of counted rows that became known after the last row: nothing was scored after them."""

    def words(self) -> str:
        """What is counted, in words.

        >>> JudgedRows(np.ones(9, np.bool_), 1, 0, 2).words()
        '9 rows with a label, 2 of which became known after the last row, without 1 scored before anything was learned'
        """
        said = f"{np.count_nonzero(self.counted):,} rows with a label"
        said += f", {self.late_labels:,} of which became known after the last row" if self.late_labels else ""
        left = {"scored before anything was learned": self.before_learning, "not mature": self.not_mature}
        parts = [f"{n:,} {why}" for why, n in left.items() if n]
        return said + (f", without {' and '.join(parts)}" if parts else "")


def judged_rows(
    outcomes: Outcomes,
    one_sided_s: float = 0.0,
    learned: BoolVector | None = None,
    among: BoolVector | None = None,
    *,
    newest: bool = False,
) -> JudgedRows:
    """The rows that count, wherever a run is judged.

    Parameters
    ----------
    one_sided_s : how old events are at most that can have a label of one value alone.
    learned : ``(n,)`` whose model had learned something; that of the outcomes where not given.
    among : ``(n,)`` the rows that are looked at; all where not given.
    newest : whether rows count, too, that are not mature by the task.
    """
    there = outcomes.labelled if among is None else outcomes.labelled & among
    learned = outcomes.learned if learned is None else learned
    mature = outcomes.mature(one_sided_s, newest=newest)
    if not (there & mature & learned).any():
        learned = np.ones(len(outcomes), np.bool_)  # so few rows that the first scores are all there is to judge
    counted = there & learned & mature
    late = counted & (outcomes.known_at > (outcomes.ts.max() if len(outcomes) else 0.0))
    young = int(np.count_nonzero(there & ~mature))
    return JudgedRows(counted, int(np.count_nonzero(there & mature & ~learned)), young, int(np.count_nonzero(late)))


def one_sided_of(task: TaskSpec) -> float:
    """For how many seconds an event can have a label of one value alone, however late it is looked at; 0 for none."""
    silence = task.labels.silence
    silent = 0.0 if silence is None else silence.horizon_s + silence.lateness_s
    return max(task.labels.join.negative_after_s or 0.0, silent)


def outcome_report(task: TaskSpec, outcomes: Outcomes, field: str | None = None) -> dict[str, Any]:
    """Everything that can be said of outcomes; what is not defined is absent.

    Parameters
    ----------
    task : whose line it was.
    outcomes : those of a run: ``judged`` of its result.
    field : that was kept with them, to tell the same for each of its values.
    """
    judged = judged_rows(outcomes, one_sided_of(task))
    known = outcomes.take(judged.counted)
    y = known.label > 0
    found = reliability(y, known.score)
    about = {"rows": len(y), "positives": int(np.count_nonzero(y)), "what": judged.words()}
    about |= {name: getattr(judged, name) for name in ("before_learning", "not_mature", "late_labels")}
    report = {"judged": about | _defined(measure(y, known.score) | {"ece": found.ece})}
    report["line"] = {"kind": line_words(task), **_line(task, outcomes, known)}
    report["reliability"] = [  # type: ignore[assignment]
        {"from": k / len(found.rows), "rows": int(n), "score": float(score), "positives": float(positives)}
        for k, (n, score, positives) in enumerate(zip(*found, strict=True)) if n
    ]  # fmt: skip
    best = y[np.argsort(-known.score, kind="stable")]
    # A share of less than one row has no precision.
    report["gain"] = [_top(share, best) for share in TOPS if share * len(y) >= 1.0]  # type: ignore[assignment]
    return report if field is None else report | {"slices": {field: _slices(task, outcomes, judged.counted, field)}}


def line_words(task: TaskSpec) -> str:
    """At which line metrics were taken, in words.

    >>> line_words(TaskSpec.model_validate({"name": "x", "entity": "u", "entities": [{"name": "u", "key": "user_id"}],
    ...     "model": {"kind": "logistic"}, "threshold": {"kind": "budget", "alerts_per_day": 20}}))
    'the budget line in force at each row (alerts_per_day = 20)'
    """
    # Only what was set: defaults would bury it.
    said = task.threshold.model_dump(mode="json", exclude_unset=True)
    kind = said.pop("kind", task.threshold.kind)
    said = {name: ", ".join(each["name"] for each in v) if name == "budgets" else v for name, v in said.items()}
    pairs = (f"{name} = {v:g}" if isinstance(v, int | float) else f"{name} = {v}" for name, v in said.items())
    where = f"the {kind} line in force at each row ({', '.join(pairs)})"
    return where if task.alerting else f"{where}, at which this task opens no alerts"


def _line(task: TaskSpec, rows: Outcomes, known: Outcomes) -> dict[str, float]:
    """What the line did over ``known`` rows, and how many alerts a day over all ``rows``."""
    y = known.label > 0
    found = at_line(y, known.score, known.over_line)
    # Over all rows, those without a label too: alerts do not wait for one.
    days = (float(rows.ts.max()) - float(rows.ts.min())) / _DAY_S if len(rows) else 0.0
    if days and task.alerting:
        alerts = pc.count_distinct(rows.take(rows.alerted).alert_ids).as_py()
        found |= {"days": days, "alerts_per_day": alerts / days}
    policy = task.threshold
    if isinstance(policy, CostThreshold):
        costs = policy.model_dump(include={"false_positive", "false_negative", "review"})
        stake = None if policy.value is None else np.nan_to_num(known.amount)
        found["cost"] = float(row_costs(y, known.acted_on(task.alerting), costs, stake).sum())
        found["cost_without"] = float(row_costs(y, np.zeros(len(y), np.bool_), costs, stake).sum())
    return _defined(found)


def _top(share: float, y: BoolVector) -> dict[str, float]:
    """What the rows of the highest scores hold, of labels in that order: ties are cut in the order of scoring."""
    k = int(share * len(y))
    hits = int(np.count_nonzero(y[:k]))
    positives = int(np.count_nonzero(y))
    found = {"top": share, "rows": k, "hits": hits, "precision": hits / k}
    return found | ({"recall": hits / positives, "lift": hits * len(y) / (k * positives)} if positives else {})


def _slices(task: TaskSpec, outcomes: Outcomes, counted: BoolVector, field: str) -> list[dict[str, Any]]:
    """The same by value of the field, or by its range; null is told as ``None``."""
    made, slices = [], cut(outcomes.values, ids=is_id(task, field))
    for k, value in enumerate(slices.names):
        mine = slices.at == k
        rows, known = outcomes.take(mine), outcomes.take(mine & counted)
        y = known.label > 0
        ranked = {"average_precision": average_precision(y, known.score), "roc_auc": roc_auc(y, known.score)}
        counts = {"scored": len(rows), "positives": int(np.count_nonzero(y))}
        made.append({"value": value, **counts, **_defined(ranked), **_line(task, rows, known)})
    return made


def _defined(found: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if math.isfinite(value)}
