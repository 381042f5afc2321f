"""Charts of an entity over time, as ``js/chart.js`` draws them.

Readings of a device stand beside the band in which the recent past of each metric lets it be expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from pydantic import ValidationError

from weir.online.batch import BoolVector, FloatVector
from weir.online.codec.wire import DeviceEvent, Label
from weir.streams.service.store.case_rules import AlertRow
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


PAST: Final = 48
"""Readings of the past that a band is made of."""
SPREADS: Final = 4.0
_LEAST: Final = 8
"""Of fewer readings no band is made."""
_IQR_OF_NORMAL: Final = 1.349
"""Of a normal distribution, in standard deviations. The median absolute deviation would be 0 for a metric that jumps
between two values."""
_STILL: Final = 0.01
"""A metric that hardly moved may still move by such a share of its median: else the first noise would be odd."""


class Band(NamedTuple):
    """Where readings are expected, ``(n,)`` each; NaN where the past is too short."""

    low: FloatVector
    high: FloatVector

    def outside(self, values: FloatVector) -> BoolVector:
        """Which of the readings lie outside, ``(n,)``."""
        return (values < self.low) | (values > self.high)


def expected_band(values: FloatVector, past: int = PAST) -> Band:
    """The rolling median of the ``past`` readings before each, and four robust spreads to both sides.

    A reading is no part of its own band. Missing ones (NaN) are passed over.

    >>> band = expected_band(np.array([1.0, 2.0] * 10 + [9.0]))
    >>> f"{band.low[-1]:.2f}", f"{band.high[-1]:.2f}", bool(band.outside(np.full(21, 9.0))[-1])
    ('-1.47', '4.47', True)
    """
    n = len(values)
    before = np.concatenate([np.full(past, np.nan), values[:-1]])
    windows = np.lib.stride_tricks.sliding_window_view(before, past)[:n]
    low, high = np.full(n, np.nan), np.full(n, np.nan)
    enough = np.count_nonzero(~np.isnan(windows), axis=1) >= _LEAST
    if enough.any():
        quarter, middle, three = np.nanquantile(windows[enough], (0.25, 0.5, 0.75), axis=1)
        reach = SPREADS * np.maximum((three - quarter) / _IQR_OF_NORMAL, _STILL * np.abs(middle))
        low[enough], high[enough] = middle - reach, middle + reach
    return Band(low, high)


class MetricReadings(NamedTuple):
    """One metric of a device."""

    name: str
    ts: Sequence[float]
    values: FloatVector
    band: Band
    odd: BoolVector
    """Which readings lie outside the band."""


def readings_of(records: Iterable[bytes], most: int) -> list[MetricReadings]:
    """The newest ``most`` readings of a device by metric, those with the most odd ones first.

    Records that are not valid are left out: they are dead letters.
    """
    found = []
    for value in records:
        try:
            found.append(DeviceEvent.model_validate_json(value))
        except ValidationError:
            continue
    found = sorted(found, key=lambda event: event.ts)[-(most + PAST) :]
    names = dict.fromkeys(name for event in found for name in event.metrics)
    made = [_metric(name, found, most) for name in names]
    return sorted(made, key=lambda metric: (-int(metric.odd.sum()), metric.name))


def _metric(name: str, events: Sequence[DeviceEvent], most: int) -> MetricReadings:
    values = np.array([np.nan if (v := event.metrics.get(name)) is None else v for event in events], dtype=np.float64)
    band = expected_band(values)
    shown = slice(-most, None)  # what is before only makes the first bands
    band = Band(band.low[shown], band.high[shown])
    ts, values = [event.ts for event in events][shown], values[shown]
    return MetricReadings(name, ts, values, band, band.outside(values))
