"""What a search found: the best trials with intervals, the lines that their scores allow, and the judged end.

The judged rows are read here and nowhere else, once the pick is made. It knows trials and scores, no search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from weir.online.batch import BoolVector, FloatVector
from weir.online.task.spec import TaskSpec
from weir.streams.workbench.comparison import Comparison, Progress, compared, costs_of, run_tasks
from weir.streams.workbench.measures import Curve, Interval, bootstrap, interval, measure, precision_recall
from weir.streams.workbench.tuning.reference import Reference, sign
from weir.streams.workbench.tuning.space import Document
from weir.streams.workbench.tuning.study import Search, best_of, changes, document_of

SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One trial of the leaderboard."""

    number: int
    value: float
    """Mean of the metric over the later blocks."""
    difference: Interval
    """To the task as it is, over all rows of these blocks, by entity."""
    seconds: float
    changes: dict[str, Any]


class Line(NamedTuple):
    """What alerting from a score on would have done."""

    score: float
    alerts_per_day: float
    precision: float
    recall: float


def leaderboard(search: Search, study: optuna.Study, reference: Reference, most: int = SHOWN) -> list[Row]:
    """The best trials, and the task as it is, the best first."""
    best = best_of(study)
    shown = best[:most] + [t for t in best[most:] if t.number == 0]
    at = reference.later()
    y = reference.label[at] == 1.0
    scores = [_scores(search, t.number)[at] for t in shown]
    usual = next(k for k, t in enumerate(shown) if t.number == 0)
    weight = reference.weight[at]
    drawn = bootstrap(y, scores, reference.entity[at], weight=weight)[search.metric]
    found = [measure(y, s, weight=weight)[search.metric] for s in scores]
    units = len(np.unique(reference.entity[at]))
    rows = []
    for k, t in enumerate(shown):
        gain = interval(found[k] - found[usual], drawn[k] - drawn[usual], units)
        seconds = float(t.user_attrs.get("seconds", np.nan))
        rows.append(Row(t.number, sign(search.metric) * float(t.value or 0.0), gain, seconds, changes(t)))
    return rows


def pick(board: Sequence[Row], metric: str) -> int:
    """The number of the best trial whose difference to the task as it is has all of its interval on the good side.

    Without one it is the best of those that only leave inputs out and are no worse: what is as good with less is
    learned faster, and errs less by chance. Else it is the task as it is: of many trials some look better by chance.
    """
    ends = ((row.number, sign(metric) * row.difference.low, sign(metric) * row.difference.high) for row in board)
    clear = next((number for number, *both in ends if min(both) > 0), 0)
    less = (row.number for row in board if row.changes.keys() == {"inputs"} and sign(metric) * row.difference.value > 0)
    return clear or next(less, 0)


def lines(search: Search, reference: Reference, number: int) -> list[Line]:
    """What lines on a trial's scores would have done on the later blocks: at three recalls, and at the best F1."""
    at = reference.later()
    y, s = reference.label[at] == 1.0, _scores(search, number)[at]
    curve = precision_recall(y, s)
    days = max(float(np.ptp(reference.ts[at])) / 86_400.0, 1e-9)
    found = {int(np.searchsorted(curve.recall, recall)) for recall in (0.25, 0.5, 0.75)} | {_best_f1(curve)}
    return [_line(y, s, float(curve.line[k]), days) for k in sorted(found)]


def recommended(search: Search, reference: Reference, best: FrozenTrial) -> Document:
    """The task of the best trial; a fixed line moves to where alerts had the best F1 on the later blocks."""
    document = document_of(search, best, reference.facts)
    if best.number and document.get("threshold", {}).get("kind") == "fixed":
        at = reference.later()
        curve = precision_recall(reference.label[at] == 1.0, _scores(search, best.number)[at])
        document["threshold"]["value"] = round(float(curve.line[_best_f1(curve)]), 4)
    return document


def judge(
    documents: Mapping[str, Document], data: Sequence[Path], since: float, progress: Progress | None = None,
    *, labels: Sequence[Path] = (), label_delay_s: float | None = None,
) -> Comparison:  # fmt: skip
    """Run the tasks over all data and compare them on the rows from ``since`` on, none of which was read before."""
    tasks = {name: TaskSpec.model_validate(document) for name, document in documents.items()}
    runs = run_tasks(tasks, data, progress, labels=labels, label_delay_s=label_delay_s)
    return compared(list(runs), since=since, costs=costs_of(list(tasks.values())))


def _scores(search: Search, number: int) -> FloatVector:
    return np.asarray(np.load(search.folder / f"trial-{number}.npy"))


def _best_f1(curve: Curve) -> int:
    return int(np.argmax(curve.precision * curve.recall / np.maximum(curve.precision + curve.recall, 1e-12)))


def _line(y: BoolVector, s: FloatVector, line: float, days: float) -> Line:
    told = s >= line
    hits = int((told & y).sum())
    return Line(line, float(told.sum() / days), hits / max(int(told.sum()), 1), hits / max(int(y.sum()), 1))
