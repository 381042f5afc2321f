"""Charts of an entity over time, as ``js/chart.js`` draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from weir.online.batch import FloatVector
from weir.online.codec.wire import Label
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.views.device_metrics import MetricReadings
from weir.streams.service.views.entities import ScoredEvent

_COLOURS = ("--bar", "--good", "--critical", "--medium")


def alert_marks(alerts: Iterable[AlertRow], this: str = "", task: bool = False) -> list[dict[str, Any]]:
    """When alerts were opened, and how they ended."""
    marks = []
    for one in alerts:
        what = "this alert" if one.alert_id == this else f"{one.task} alert" if task else "alert"
        ended = f": {one.verdict.replace('_', ' ')}" if one.verdict else ""
        marks.append({"x": one.opened_at, "label": what + ended})
    return marks


def label_marks(records: Iterable[bytes], task: str) -> list[dict[str, Any]]:
    """Labels of a task; what is none is a dead letter, and left out here."""
    marks = []
    for value in records:
        try:
            label = Label.model_validate_json(value)
        except ValidationError:
            continue
        if label.task == task:
            marks.append({"x": label.ts, "label": f"label {label.value}"})
    return marks


def score_chart(
    scores: Sequence[ScoredEvent], marks: list[dict[str, Any]], threshold: float | None = None
) -> dict[str, Any]:
    """Scores by task, in the order of time, and what happened meanwhile."""
    tasks = list(dict.fromkeys(one.task for one in scores))
    series: list[dict[str, Any]] = [
        {"label": task, "values": [one.score if one.task == task else None for one in scores], "points": True,
         "colour": _COLOURS[i % len(_COLOURS)]}
        for i, task in enumerate(tasks)
    ]  # fmt: skip
    if threshold is not None:
        series.append({"label": "threshold", "values": [threshold] * len(scores), "colour": "--bar-2", "dash": True})
    once = {(mark["x"], mark["label"]): mark for mark in marks}  # a verdict labels every event of an alert
    marks = [once[of] for of in sorted(once)]
    return {"x": [one.ts for one in scores], "range": [0, 1], "marks": marks, "series": series}


def metric_chart(metric: MetricReadings, marks: list[dict[str, Any]]) -> dict[str, Any]:
    """Readings in their band; odd ones are points."""
    series = [
        {"label": "high", "values": _numbers(metric.band.high), "colour": "--line", "band": [1, 2]},
        {"label": "low", "values": _numbers(metric.band.low), "colour": "--line"},
        {"label": "value", "values": _numbers(metric.values)},
        {"label": "odd", "values": _numbers(np.where(metric.odd, metric.values, np.nan)), "colour": "--bar-2",
         "points": True},
    ]  # fmt: skip
    return {"x": metric.ts, "marks": marks, "series": series, "legend": False}


def _numbers(values: FloatVector) -> list[float | None]:
    """As JSON has them, which knows no NaN."""
    return [None if np.isnan(value) else value for value in values.tolist()]
