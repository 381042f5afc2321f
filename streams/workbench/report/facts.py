"""What a report says of a run, in words and numbers; without charts. It knows results, not HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.decisions.alert_state import AlertState
from weir.online.decisions.threshold_policy import BudgetThreshold, CostThreshold, FixedThreshold, PrecisionThreshold
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Outcomes
from weir.streams.backtest.runner import BacktestResult
from weir.streams.pages.values import number, percent
from weir.streams.workbench.measures import at_line

_ENDED: Final = {
    "confirmed": "confirmed by a label", "false_alarm": "false alarms, as labels said", "quiet": "ended by quiet time",
    "displaced": "ended to make room",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeadNumber:
    """A number of the head of the page, and what it is to be seen beside."""

    name: str
    value: str
    of: str = ""


@dataclass(frozen=True, slots=True)
class AlertOutcome:
    """An alert, and what labels said of its events by the end."""

    alert: AlertState
    outcome: str
    klass: str
    """How it is shown."""


def budget_of(task: TaskSpec) -> BudgetThreshold | None:
    """The budget of a task's alerts, where it has one."""
    policy = task.threshold
    return policy if isinstance(policy, BudgetThreshold) else getattr(policy, "fallback", None)


def line_in_words(task: TaskSpec, now: float) -> str:
    """Which line precision and recall are at, and where it stands at the end."""
    policy, end = task.threshold, f" It ended at {now:.3g}." if now <= 1.0 else " At the end nothing was to alert."
    match policy:
        case FixedThreshold():
            said, end = f"a fixed one, a score of {policy.value:g}.", ""
        case CostThreshold():
            said = "the line from which an alert is expected to be cheaper than none"
            end = ", by the amount of each event." if policy.value else f", a score of {now:.3g}."
        case BudgetThreshold():
            said = f"the line that keeps to {number(policy.alerts_per_day)} alerts a day, as it was then."
        case PrecisionThreshold():
            said = f"the lowest line with a precision of {policy.precision:g}, as far as was known then."
    return f"Precision and recall are at the line that was in force when a row was scored: {said}{end}"


def head_numbers(result: BacktestResult, labelled: Outcomes, days: float) -> Iterator[HeadNumber]:
    """What to look at first; ``labelled`` are the outcomes with a label."""
    found = result.pipeline.evaluation.get()["cumulative"]
    rate = found.get("positive_rate", float("nan"))
    if "average_precision" in found:
        yield HeadNumber("Average precision", number(found["average_precision"]), f"{percent(rate)} by chance")
    if "roc_auc" in found:
        yield HeadNumber("ROC AUC", number(found["roc_auc"]), ".5 by chance")
    line = at_line(labelled.label == 1.0, labelled.score, labelled.score >= labelled.threshold)
    if line["rows"]:
        yield HeadNumber("Precision at the line", percent(line["precision"]), f"{number(line['alerts'])} rows over it")
        hits = f"{number(line['hits'])} of {number(float((labelled.label == 1.0).sum()))} positives"
        yield HeadNumber("Recall at the line", percent(line["recall"]), hits)
    opened, budget = result.alerts["open"], budget_of(result.task)
    of = f"of {number(budget.alerts_per_day)} in the budget" if budget else ""
    yield HeadNumber("Alerts a day", number(opened / max(days, 1.0)), of or f"{number(opened)} in all")
    if "log_loss" in found:
        yield HeadNumber("Log loss", number(found["log_loss"]), f"{number(_entropy(rate))} by chance")
    if "ece" in found:
        yield HeadNumber("Calibration error", number(found["ece"]), "score from what came")
    scored = result.pipeline.scored
    of = f"{number(len(labelled))} of {number(scored)}"
    yield HeadNumber("Rows with a label", percent(len(labelled) / max(scored, 1)), of)


def _entropy(p: float) -> float:
    """Log loss of one who says the rate of positives of every row."""
    return float(-(p * np.log(p) + (1 - p) * np.log1p(-p))) if 0.0 < p < 1.0 else 0.0


def alert_outcomes(alerts: Sequence[AlertState], outcomes: Outcomes) -> list[AlertOutcome]:
    """What the labels said by the end of each alert's listed events."""
    wanted = pa.array(sorted({event for alert in alerts for event in alert.event_ids}), pa.string())
    rows = np.flatnonzero(np.asarray(pc.is_in(outcomes.event_ids, value_set=wanted)))
    some = outcomes.take(rows)
    said = dict(zip(zip(some.entity_id, some.event_id, strict=True), some.label.tolist(), strict=True))
    return [_outcome(a, [said.get((a.entity_id, each), np.nan) for each in a.event_ids]) for a in alerts]


def _outcome(alert: AlertState, labels: list[float]) -> AlertOutcome:
    known = [label for label in labels if not np.isnan(label)]
    if not known:
        return AlertOutcome(alert, "not known yet", "soft")
    bad, of = int(sum(known)), f" ({int(sum(known))} of {len(known)} labels)" if len(known) > 1 else ""
    return AlertOutcome(alert, f"positive{of}", "bad") if bad else AlertOutcome(alert, "false alarm", "good")


def ended_alerts(result: BacktestResult, ended: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """How alerts ended."""
    opened = result.alerts["open"]
    yield "opened", number(opened)
    for verdict, words in _ENDED.items():
        if count := ended.get(verdict, 0):
            yield words, f"{number(count)} ({percent(count / opened)})"
    if still := opened - sum(ended.values()):
        yield "open at the end", number(still)
    if refused := result.alerts["refused"]:
        yield "rows over the line that the budget kept from an alert", number(refused)


def row_counts(result: BacktestResult) -> Iterator[tuple[str, str]]:
    """What became of the rows."""
    p, joined = result.pipeline, result.pipeline.joiner.stats
    yield "rows", number(result.rows)
    yield "scored", number(p.scored)
    yield "learned from", number(p.labelled)
    if joined.corrections:
        yield "labels that correct an earlier one", number(joined.corrections)
    yield "refused", number(result.rejected)
    yield "repeats, dropped", number(result.repeats)
    for column, count in result.pipeline.engine.readings.taken.items():
        yield f"{column}: no reading", number(count)
    rate = result.rows / result.seconds if result.seconds else 0.0
    yield "rows a second", number(round(rate))


def reject_words(result: BacktestResult) -> list[str]:
    """The first rows that were refused, and why."""
    return [result.told(reject) for reject in result.rejects]
