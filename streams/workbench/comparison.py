"""Compares what tasks said of the same events: paired differences with intervals, and where they differ most.

Each task runs over the data once, alone. Rows are paired by entity and event; of those that every task scored the ones
count that ``judged_rows`` finds, as in the report of one run: with the labels and the maturity of the first task, and
from where on any of them had learned something. Intervals are drawn twice, by entity and by week:
the wider one is the one to believe, and by week it says little below some thirty weeks. What serves takes part by the
predictions it logged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.batch import BoolVector, FloatVector, IntVector
from weir.online.decisions.threshold_policy import CostThreshold
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep, Outcomes
from weir.streams.backtest.runner import run_backtest
from weir.streams.errors import UsageError
from weir.streams.workbench.measures import (
    MIN_UNITS,
    Interval,
    at_line,
    average_precision,
    bootstrap,
    interval,
    measure,
    row_costs,
)
from weir.streams.workbench.outcome_report import JudgedRows, judged_rows, one_sided_of
from weir.streams.workbench.slices import Cut, cut

DAY_S, WEEK_S = 86_400.0, 604_800.0
_MIN_OF_EACH: Final = 10
"""Rows of either label below which a slice says nothing."""
_SIZES: Final = ((1, "1 row"), (2, "2 to 9 rows"), (10, "10 to 99 rows"), (100, "100 rows or more"))
_SLICE_RESAMPLES: Final = 200

Progress = Callable[[str, int, int], None]
"""Called with a task's name, its rows done and its rows in all."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one task said of the events."""

    name: str
    outcomes: Outcomes
    seconds: float = float("nan")
    """Of the run; NaN of what is only read."""
    lined: bool = True
    """Whether it is known which rows alerted."""
    alerting: bool = True
    """Whether it opens alerts."""
    one_sided_s: float = 0.0
    """How old those events are at most that can have a label of one value alone."""

    def labelled_by(self, other: Run) -> Run:
        """The same with the labels and the fields that another run knows of its events."""
        own, told = self.outcomes, other.outcomes
        at = _found(own, told)
        there = at >= 0
        label, known_at = (np.where(there, of[at], np.nan) for of in (told.label, told.known_at))
        matures_at = np.where(there, told.matures_at[at], own.matures_at)
        values = told.values.take(pa.array(at, mask=~there))
        kept = replace(own, label=label, known_at=known_at, values=values, matures_at=matures_at)
        return replace(self, outcomes=kept)


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows that share something, and the difference of average precision on them."""

    kind: str
    value: str
    rows: int
    positives: int
    difference: Interval

    @property
    def clear_by(self) -> float:
        """How far the interval is from 0; negative where 0 is in it."""
        return max(self.difference.low, -self.difference.high)


@dataclass(frozen=True, slots=True)
class Difference:
    """One task less the first, by measure: over entities and over weeks."""

    by_entity: dict[str, Interval]
    by_week: dict[str, Interval]
    slices: list[Slice]
    """Where they differ most, the clearest first."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compared` found; ``document()`` is JSON-ready."""

    names: list[str]
    rows: int
    positives: int
    counted: str
    """Which rows these are, in words."""
    unpaired: dict[str, int]
    """By task, the rows with a label that others did not score."""
    seconds: list[float]
    measures: list[dict[str, float]]
    """Of each task: those of `measure`, and precision, recall and alerts (rows over it) at its line; NaN where that is
    not known."""
    differences: list[Difference]
    """Of each task but the first."""

    def document(self) -> dict[str, Any]:
        """Everything, with NaN as null."""
        found = asdict(self)
        for made, own in zip(found["differences"], self.differences, strict=True):
            for name in ("by_entity", "by_week"):
                made[name] = {m: each._asdict() for m, each in getattr(own, name).items()}
            made["slices"] = [asdict(s) | {"difference": s.difference._asdict()} for s in own.slices]
        return found


def run_tasks(
    tasks: Mapping[str, TaskSpec],
    data: Sequence[Path],
    progress: Progress | None = None,
    *,
    labels: Sequence[Path] = (),
    label_delay_s: float | None = None,
    kept_field: str | None = None,
) -> Iterator[Run]:
    """Run each task over the data, one after the other; ``kept_field`` is kept of each event. See `run_backtest`."""
    for name, task in tasks.items():
        done = run_backtest(
            task,
            data,
            None,
            None if progress is None else partial(progress, name),
            labels=labels,
            label_delay_s=label_delay_s,
            keep=Keep(outcomes=True, field=kept_field, late_labels=True),
        )
        assert done.judged is not None
        yield Run(name, done.judged, done.seconds, alerting=task.alerting, one_sided_s=one_sided_of(task))


def costs_of(tasks: Sequence[TaskSpec]) -> CostThreshold | None:
    """The costs of the first task that declares some."""
    return next((t.threshold for t in tasks if isinstance(t.threshold, CostThreshold)), None)


def compared(
    runs: Sequence[Run],
    *,
    since: float = -np.inf,
    costs: CostThreshold | None = None,
    resamples: int = 1_000,
    kept_field: str | None = None,
    ids: bool = False,
) -> Comparison:
    """Compare runs over the same events with the first of them.

    Parameters
    ----------
    since : only rows from this event time on count, epoch seconds, mature or not; those of which a label of one value
        alone can be known only where there are no others.
    costs : what mistakes cost, for the measure ``cost``: the mean a row, with ``value = "amount"`` by the amount.
    kept_field : name of the field that the runs kept, for slices.
    ids : whether its values are ids, whatever they look like.

    Raises
    ------
    UsageError
        Where no row with a label is in all runs, or all labels say the same.
    """
    rows, judged, unpaired = _paired(runs, since)
    taken = [run.outcomes.take(at) for run, at in zip(runs, rows, strict=True)]
    first, y = taken[0], taken[0].label == 1.0
    if not y.any() or y.all():
        what = f"all {len(y):,} labels are {int(y[0])}" if len(y) else "no row with a label was scored by all"
        raise UsageError(f"{', '.join(run.name for run in runs)}: {what}; nothing can be compared: give more data")
    scores = [each.score for each in taken]
    spent = []
    # What is only read from a log has no line: whether a row cost a false alarm is not known.
    if costs is not None and all(run.lined for run in runs):
        spent = [_costs(each, y, costs, run.alerting) for each, run in zip(taken, runs, strict=True)]
    units = {"entity": _codes(first.entity_ids), "week": np.floor(first.ts / WEEK_S).astype(np.int64)}
    drawn = {kind: bootstrap(y, scores, of, costs=spent, resamples=resamples) for kind, of in units.items()}
    found = [measure(y, s, spent[k] if spent else None) for k, s in enumerate(scores)]
    slices_of = None if kept_field is None else (kept_field, cut(runs[0].outcomes.values, ids=ids), rows[0])
    differences = []
    for k in range(1, len(runs)):
        by = {}
        for kind, of in units.items():
            count = len(np.unique(of))
            # The interval of the difference, not the difference of two intervals: both runs are measured on the same
            # draws, and what they share cancels.
            by[kind] = {
                name: interval(found[k][name] - found[0][name], values[k] - values[0], count)
                for name, values in drawn[kind].items()
            }
        slices = _slices(first, y, (scores[0], scores[k]), units, slices_of)
        differences.append(Difference(by["entity"], by["week"], slices))
    lined = [m | _line(y, each, run.lined) for m, each, run in zip(found, taken, runs, strict=True)]
    names, seconds = [run.name for run in runs], [run.seconds for run in runs]
    left = dict(zip(names, unpaired, strict=True))
    return Comparison(names, len(y), int(y.sum()), judged.words(), left, seconds, lined, differences)


def logged_run(name: str, tables: Sequence[pa.Table]) -> Run:
    """What serves, by the predictions it logged: tables with event_id, entity_id, ts and score; no line is in them.

    The first prediction of an event counts, as live.
    """
    columns = ["event_id", "entity_id", "ts", "score", "model_version"]
    # Only these: the features of predictions differ between versions of a task, and tables of other columns cannot be
    # joined.
    table = pa.concat_tables([each.select(columns) for each in tables])
    keys = _keys(table["event_id"], table["entity_id"])
    first = np.sort(np.unique(_codes(keys), return_index=True)[1])
    table, n = table.take(pa.array(first)), len(first)
    missing = np.full(n, np.nan)
    none = pa.chunked_array([pa.nulls(n, pa.string())])
    number = {name: table[name].to_numpy() for name in ("ts", "score", "model_version")}
    outcomes = Outcomes(
        table["event_id"], table["entity_id"], none, none, none, number["ts"], number["score"],
        # No score reaches an infinite line, so nothing is over it by mistake.
        np.full(n, np.inf), np.zeros(n, np.bool_), missing, missing, number["model_version"], missing, number["ts"],
    )  # fmt: skip
    return Run(name, outcomes, lined=False)


def _keys(event_ids: pa.ChunkedArray, entity_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """What tells an event: ids hold no control character."""
    return pc.binary_join_element_wise(entity_ids, event_ids, "\n")


def _codes(texts: pa.ChunkedArray) -> IntVector:
    return np.asarray(texts.combine_chunks().dictionary_encode().indices, dtype=np.int64)


def _found(of: Outcomes, among: Outcomes) -> IntVector:
    """The row of each event of the one among those of the other; -1 where it is not there."""
    keys = [_keys(each.event_ids, each.entity_ids) for each in (of, among)]
    at = pc.index_in(keys[0], value_set=keys[1].combine_chunks())
    return np.asarray(pc.fill_null(at, -1), dtype=np.int64)


def _paired(runs: Sequence[Run], since: float) -> tuple[list[IntVector], JudgedRows, list[int]]:
    """The rows of each that count, in the first one's order, what is said of them, and how many others each has."""
    outcomes = [run.outcomes for run in runs]
    first = outcomes[0]
    kept, learned = first.ts >= since, first.learned.copy()
    places = [np.arange(len(first))]
    for other in outcomes[1:]:
        # Runs over the same data have the same rows as a rule, and comparing them costs far less than looking each up.
        if other.event_ids.equals(first.event_ids) and other.entity_ids.equals(first.entity_ids):
            places.append(places[0])
        else:
            places.append(_found(first, other))
            kept &= places[-1] >= 0
        # A place of -1 finds the last row; what is behind the & takes that out.
        learned |= other.learned[places[-1]] & (places[-1] >= 0)
    # The newest rows are asked for where a time is given: a search judges by them, mature or not.
    newest = since > -np.inf
    judged = judged_rows(first, runs[0].one_sided_s, learned, kept, newest=newest)
    if newest and len(np.unique(first.label[judged.counted])) < 2:
        judged = judged_rows(first, 0.0, learned, kept, newest=True)
    rows = [at[judged.counted] for at in places]
    both = int((first.labelled & kept).sum())
    return rows, judged, [int((o.labelled & (o.ts >= since)).sum()) - both for o in outcomes]


def _costs(outcomes: Outcomes, y: BoolVector, costs: CostThreshold, alerting: bool) -> FloatVector:
    stake = np.nan_to_num(outcomes.amount) if costs.value is not None else None
    own = {"false_positive": costs.false_positive, "false_negative": costs.false_negative, "review": costs.review}
    return row_costs(y, outcomes.acted_on(alerting), own, stake)


def _line(y: BoolVector, outcomes: Outcomes, known: bool) -> dict[str, float]:
    told = at_line(y, outcomes.score, outcomes.over_line)
    return {name: told[name] if known else float("nan") for name in ("precision", "recall", "alerts")}


def _slices(
    first: Outcomes,
    y: BoolVector,
    scores: tuple[FloatVector, FloatVector],
    units: Mapping[str, IntVector],
    field: tuple[str, Cut, IntVector] | None,
) -> list[Slice]:
    """The difference on every slice that has rows of both labels, the clearest first."""
    entity = np.unique(units["entity"], return_inverse=True)[1]
    # Of a stream of one entity days are drawn: there is nothing else to draw.
    drawn_by = entity if entity.max() + 1 >= MIN_UNITS else np.floor(first.ts / DAY_S).astype(np.int64)
    size = np.searchsorted([least for least, _ in _SIZES], np.bincount(entity)[entity], "right") - 1
    kinds: dict[str, tuple[IntVector, Callable[[int], str]]] = {
        "week": (units["week"], lambda k: f"{datetime.fromtimestamp(k * WEEK_S, UTC):%Y-%m-%d}"),
        "entity size": (size, lambda k: _SIZES[k][1]),
    }
    if field is not None:
        name, made, rows = field
        kinds[name] = (made.at[rows], lambda k: made.names[k] or "(none)")
    found = []
    for kind, (of, word) in kinds.items():
        for value in np.unique(of).tolist():
            at = np.flatnonzero(of == value)
            positives = int(y[at].sum())
            if min(positives, len(at) - positives) < _MIN_OF_EACH:
                continue
            pair = [s[at] for s in scores]
            drawn = bootstrap(y[at], pair, drawn_by[at], resamples=_SLICE_RESAMPLES)["average_precision"]
            a, b = (average_precision(y[at], s) for s in pair)
            count = len(np.unique(drawn_by[at]))
            found.append(Slice(kind, word(value), len(at), positives, interval(b - a, drawn[1] - drawn[0], count)))
    return sorted(found, key=lambda s: (-np.nan_to_num(s.clear_by, nan=-1.0), -abs(s.difference.value)))
