"""The charts of a report: from the outcomes of a run to drawings, each with its numbers for who does not see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np

from weir.online.batch import BoolVector, FloatVector, IntVector
from weir.online.metrics.series import MetricPoint
from weir.streams.backtest.outcomes import Outcomes
from weir.streams.pages.values import number, percent
from weir.streams.workbench.measures import precision_recall, reliability
from weir.streams.workbench.report.figure import Figure, amounts, odds, shares, thinned, times

_DAY_S: Final = 86_400.0
_SPANS, _BARS, _BINS, _TOLD_ROWS = 60, 120, 48, 40
_LEAST, _MOST = 1e-4, 1.0 - 1e-4
"""Probabilities beyond are drawn at these."""
_SMALL: Final = 0.4
"""Metrics that never rise above it get a scale of their own."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, and its numbers."""

    name: str
    """Of its file, and its place on the page."""
    title: str
    svg: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """What a reader should know of it."""


class Timeline(NamedTuple):
    """What charts over time share."""

    points: Sequence[MetricPoint]
    """The rolling metrics."""
    drifts: Sequence[Mapping[str, Any]]
    """``ts`` and ``what`` of each."""
    span: tuple[float, float]
    known_until: float
    """Of events from then on hardly a label is known yet."""


def over_time(name: str, title: str, time: Timeline, lines: Mapping[str, str], note: str) -> Iterator[Chart]:
    """Rolling metrics ``lines`` (their words by name), and where drifts were found; no chart where none is defined."""
    # A point stands at the end of its interval, which may be after the last row.
    at = np.minimum([point["ts"] for point in time.points], time.span[1])
    found = {words: np.array([p["metrics"].get(m, np.nan) for p in time.points]) for m, words in lines.items()}
    found = {words: values for words, values in found.items() if np.isfinite(values).any()}
    if not found:
        return
    most, words = max(float(np.nanmax(values)) for values in found.values()), "rolling metric"
    figure = Figure(times(*time.span), shares(words) if most > _SMALL else amounts(1.1 * most, words), title)
    figure.shade(time.known_until, time.span[1], "labels to come")
    figure.marks([d["ts"] for d in time.drifts], [f"{_utc(d['ts'])}: {d['what']}" for d in time.drifts], "drift")
    for (said, values), colour in zip(found.items(), ("--bar", "--bar-2"), strict=False):  # one may not be defined
        figure.line(at, values, colour, said)
    rows = tuple((_utc(at[i]), *(number(v[i]) for v in found.values())) for i in thinned(len(at), _TOLD_ROWS))
    yield Chart(name, title, figure.svg(), ("Until", *found), rows, note)


def known_until(outcomes: Outcomes, span: tuple[float, float]) -> float:
    """The end of the last span of time of whose events about as many have a label as usual."""
    edges, at = _spans(outcomes.ts, span)
    count, known = np.bincount(at, minlength=_SPANS), np.bincount(at[outcomes.labelled], minlength=_SPANS)
    share = known / np.maximum(count, 1)
    # By the median, not by all: in a task with few labels a tenth known may be usual.
    usual = np.flatnonzero((known > 0) & (share >= 0.9 * np.median(share[count > 0])))
    return float(edges[usual[-1] + 1]) if len(usual) else span[1]


def labels_known(outcomes: Outcomes, span: tuple[float, float], wait: str) -> Chart:
    """Of the events of each span of time, how many have a label by the end of the data, and how many are positive."""
    edges, at = _spans(outcomes.ts, span)
    count, known, positive = (
        np.bincount(at[of], minlength=_SPANS)
        for of in (outcomes.ts > -np.inf, outcomes.labelled, outcomes.label == 1.0)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        share, rate = known / count, positive / known
    title = "Labels known, by time of the event"
    figure = Figure(times(*span), shares("share of the events"), title)
    figure.bars(edges[:-1], edges[1:], share, "--bar", "have a label")
    rows = tuple(
        (_utc(edges[i]), number(count[i]), percent(share[i]), percent(rate[i])) for i in thinned(_SPANS, _TOLD_ROWS)
    )
    late = (outcomes.known_at - outcomes.ts)[outcomes.labelled]
    late = late[np.isfinite(late)]
    said = f" Half of the labels are known {np.median(late) / _DAY_S:.3g} days after their event." if len(late) else ""
    return Chart("labels", title, figure.svg(), ("From", "Events", "Labelled", "Positive"), rows, wait + said)


def over_line(outcomes: Outcomes, span: tuple[float, float]) -> Chart:
    """Rows over the line in each span of time, by what labels said of them by the end."""
    over = outcomes.score >= outcomes.threshold
    edges, at = _spans(outcomes.ts, span)
    kinds = {"positive": outcomes.label == 1.0, "negative": outcomes.label == 0.0, "not known": ~outcomes.labelled}
    counts = [np.bincount(at[over & of], minlength=_SPANS).astype(np.float64) for of in kinds.values()]
    title, base = "Rows over the line, by what labels said", np.zeros(_SPANS)
    figure = Figure(times(*span), amounts(1.05 * float(sum(counts).max()), "rows"), title)  # type: ignore[union-attr]
    for name, count, colour in zip(kinds, counts, ("--bar-2", "--bar", "--line"), strict=True):
        figure.bars(edges[:-1], edges[1:], np.where(count > 0, base + count, np.nan), colour, name, base=base)
        base = base + count
    rows = tuple((_utc(edges[i]), *(number(c[i]) for c in counts)) for i in thinned(_SPANS, _TOLD_ROWS))
    return Chart("over-line", title, figure.svg(), ("From", *(name.capitalize() for name in kinds)), rows)


def _spans(ts: FloatVector, span: tuple[float, float]) -> tuple[FloatVector, IntVector]:
    """The ends of even spans of time, and in which of them each row is."""
    edges = np.linspace(*span, _SPANS + 1)
    return edges, np.clip(np.searchsorted(edges, ts, side="right") - 1, 0, _SPANS - 1)


def precision_recall_chart(
    y: BoolVector, score: FloatVector, line: tuple[float, float, str] | None, more: str = ""
) -> Chart:
    """Precision by recall, and where the line that was in force stands: its recall, precision and words."""
    curve, base = precision_recall(y, score), float(y.mean())
    figure = Figure(shares("recall"), shares("precision"), "Precision and recall")
    figure.line(curve.recall, curve.precision, "--bar", "any fixed line")
    figure.level(base, "--soft", "chance")
    note = f"By chance precision is {percent(base)}, the share of positives. {more}"
    if line is not None:
        recall, precision, words = line
        figure.dots(np.array([recall]), np.array([precision]), "--bar-2", "the line in force", 6, [words])
        note = f"{words} {note}"
    rows = tuple(
        (number(curve.line[i]), percent(curve.precision[i]), percent(curve.recall[i]))
        for i in thinned(len(curve.line), _TOLD_ROWS)
    )
    return Chart("precision-recall", "Precision and recall", figure.svg(), ("Line", "Precision", "Recall"), rows, note)


def reliability_chart(y: BoolVector, score: FloatVector) -> Chart:
    """What came of scores beside what they promised; a larger dot stands for more rows."""
    found = reliability(y, score)
    held = found.rows > 0
    figure = Figure(shares("mean score of the bin"), shares("share of positives"), "Reliability")
    figure.line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "--soft", "as promised", dash=True)
    figure.line(found.score[held], found.positives[held], "--bar", "as it came")
    for i in np.flatnonzero(held):
        radius = 2.5 + 4.0 * float(np.log1p(found.rows[i]) / np.log1p(found.rows.max()))
        promised, came = percent(found.score[i]), percent(found.positives[i])
        words = f"{number(found.rows[i])} rows: promised {promised}, came {came}"
        figure.dots(found.score[i : i + 1], found.positives[i : i + 1], "--bar", radius=radius, titles=[words])
    rows = tuple(
        (number(found.rows[i]), percent(found.score[i]), percent(found.positives[i])) for i in np.flatnonzero(held)
    )
    note = f"On average a score is {percent(found.ece)} from what came (expected calibration error)."
    return Chart("reliability", "Reliability", figure.svg(), ("Rows", "Promised", "Came"), rows, note)


def histogram(y: FloatVector, score: FloatVector, line: float) -> Chart:
    """Scores of each class, as shares of the class, even in log-odds; of all rows where no label is known."""
    axis = odds(_LEAST, _MOST, "score")
    low, high = axis.scale(np.array([_LEAST, _MOST])).tolist()
    edges = 1.0 / (1.0 + np.exp(-np.linspace(low, high, _BINS + 1)))
    edges[[0, -1]] = _LEAST, _MOST  # rounding puts the first edge above all scores that were clipped to it
    clipped = np.clip(score, _LEAST, _MOST)
    classes = {"negative": y == 0.0, "positive": y == 1.0} if np.isfinite(y).any() else {"all": np.isnan(y)}
    found = {
        name: np.histogram(clipped[of], edges)[0] / max(int(np.count_nonzero(of)), 1) for name, of in classes.items()
    }
    most = max(float(share.max()) for share in found.values())
    figure = Figure(axis, amounts(most, "share of the class", percent), "Scores of each class")
    for name, share in found.items():
        if name == "positive":
            figure.line(np.repeat(edges, 2)[1:-1], np.repeat(share, 2), "--bar-2", name)
        else:
            figure.bars(edges[:-1], edges[1:], share, "--bar", name)
    if 0.0 < line < 1.0:
        words = f"the line at the end: {line:.3g}"
        figure.marks([float(np.clip(line, _LEAST, _MOST))], [words], "line at the end")
    rows = tuple((number(edges[i]), *(percent(share[i]) for share in found.values())) for i in range(len(edges) - 1))
    heads = ("From", *(name.capitalize() for name in found))
    return Chart("scores", "Scores of each class", figure.svg(), heads, rows, "Even in log-odds; each class sums to 1.")


def alerts_a_day(opened: Mapping[int, int], span: tuple[float, float], budget: float | None) -> Chart:
    """Alerts that opened on each day, or on average on the days of longer spans where there are many."""
    first, last = int(span[0] // _DAY_S), int(span[1] // _DAY_S)
    wide = -(-(last - first + 1) // _BARS)
    starts = np.arange(first, last + 1, wide, dtype=np.float64)
    counts = np.zeros(len(starts))
    for day, count in opened.items():
        counts[min(max((day - first) // wide, 0), len(starts) - 1)] += count
    # The last bar may be of fewer days.
    rate = counts / np.minimum(wide, last + 1 - starts)
    title = "Alerts a day" if wide == 1 else f"Alerts a day, means of {wide} days"
    high = max(float(rate.max()), budget or 0.0)
    figure = Figure(times(first * _DAY_S, (last + 1) * _DAY_S), amounts(1.1 * high, "alerts a day"), title)
    words = [f"{_day(start * _DAY_S)}: {number(each)}" for start, each in zip(starts, rate, strict=True)]
    figure.bars(starts * _DAY_S, np.minimum(starts + wide, last + 1) * _DAY_S, rate, "--bar", "opened", titles=words)
    if budget is not None:
        figure.level(budget, "--bar-2", f"budget: {number(budget)} a day")
    rows = tuple((_day(starts[i] * _DAY_S), number(rate[i])) for i in thinned(len(starts), 3 * _TOLD_ROWS))
    return Chart("alerts", title, figure.svg(), ("From", "Alerts a day"), rows)


def _utc(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M")


def _day(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d")
