"""The rows by which trials are measured: those of the task as it is, with the labels known before the cut.

What counts begins when a tenth of the labels is known, and ends where too few are known yet. Of newer rows the labels
that come soon are there and others are not: each counts for as many as its value and its age stand for, by the delays
of old rows (inverse probability of censoring weights; Robins and Finkelstein 2000). Where the task says when both
outcomes of an event are known, its label counts from then on, whatever it is, and all that are mature count alike: a
weight by value and age is not enough where the numbers that delay a label also tell it.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import optuna

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.streams.backtest.notes import RunWatch
from weir.streams.backtest.outcomes import Outcomes
from weir.streams.errors import UsageError
from weir.streams.workbench.measures import LOWER_IS_BETTER, MIN_UNITS, measure
from weir.streams.workbench.tuning.space import Facts

BLOCKS: Final = 4
"""What counts is cut into so many parts of equal numbers of rows."""
_MIN_OF_EACH: Final = 10
_EARLY: Final = 0.3
"""Share of the rows whose labels tell how late labels are."""
_LEAST_KNOWN: Final = 0.3
"""Rows count that are so old that this share of either label is known."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The n rows by which trials are measured, in the order of scoring; those from ``start`` on count."""

    ts: FloatVector
    label: FloatVector
    """NaN where it is not known."""
    weight: FloatVector
    """How many rows each stands for: labels of its value are seldom known so soon."""
    entity: IntVector
    """What intervals are drawn by."""
    facts: Facts
    start: int
    seconds: float
    """The task as it is took so long for all rows to tune on."""

    def __len__(self) -> int:
        return len(self.ts)

    def edge(self, blocks: int) -> int:
        """The row at which so many blocks end."""
        return self.start + (len(self) - self.start) * blocks // BLOCKS

    def later(self) -> IntVector:
        """The rows with a label in the newer half of the blocks: by these trials are told apart in the end."""
        at = np.arange(self.edge(BLOCKS // 2), len(self))
        return at[~np.isnan(self.label[at])]

    def value(self, score: FloatVector, blocks: int, metric: str) -> float:
        """The mean of a metric over the newer half of the first ``blocks``; of all their rows where a block has few."""
        edges = [self.edge(k) for k in range(blocks // 2, blocks + 1)]
        found = [self._of(score, slice(a, b), metric) for a, b in pairwise(edges)]
        held = [each for each in found if not np.isnan(each)]
        return float(np.mean(held)) if held else self._of(score, slice(edges[0], edges[-1]), metric)

    def _of(self, score: FloatVector, rows: slice, metric: str) -> float:
        known = ~np.isnan(self.label[rows])
        y: BoolVector = self.label[rows][known] == 1.0
        if min(y.sum(), (~y).sum()) < _MIN_OF_EACH:
            return float("nan")
        return measure(y, score[rows][known], weight=self.weight[rows][known])[metric]


def reference_of(outcomes: Outcomes, seconds: float, until: float = np.inf) -> Reference:
    """What the task as it is says of rows, labels and spans, as they are known at the event time ``until``.

    Raises ``UsageError`` where too few labels are known to tell tasks apart.
    """
    ripe = np.maximum(outcomes.known_at, outcomes.matures_at)  # NaN without a label
    label = np.where(ripe <= until, outcomes.label, np.nan)
    known = np.flatnonzero(~np.isnan(label))
    positives = int(label[known].sum())
    if min(positives, len(known) - positives) < 4 * _MIN_OF_EACH:
        told = f"{len(known):,} labels are known before the cut, {positives:,} of them 1"
        raise UsageError(f"{told}; a search needs {4 * _MIN_OF_EACH} of either: give more data, or lower --judge")
    ts = np.maximum.accumulate(outcomes.ts)
    early = known[known < np.quantile(known, _EARLY)]  # of newer rows those that wait long for a label have none yet
    delay = ripe - outcomes.ts
    by_label = [delay[early][label[early] == y] for y in (0, 1)]
    usual = max(float(np.quantile(of, 0.9)) for of in by_label if len(of) >= _MIN_OF_EACH or len(of) > len(early) / 2)
    matures = bool((outcomes.matures_at > outcomes.ts).any())
    if matures:
        share = _near((outcomes.matures_at <= until).astype(np.float64))[None]
    else:
        share = _known_by(ts[-1] - outcomes.ts, delay[early], label[early])
    rows = max(int(np.flatnonzero(share.min(axis=0) >= _LEAST_KNOWN)[-1]) + 1, len(ts) // 4)
    told = label[:rows] == 1.0
    by_value = np.where(told, share[-1, :rows], share[0, :rows])
    weight = np.ones(rows) if matures else 1.0 / np.maximum(by_value, _LEAST_KNOWN)
    first = float(np.quantile(ripe[known], 0.1))
    start = min(max(int(np.searchsorted(ts, first)), rows // BLOCKS), rows // 2)
    entity = np.asarray(outcomes.entity_ids.combine_chunks().dictionary_encode().indices, dtype=np.int64)
    order = np.lexsort((outcomes.ts, entity))
    gaps = np.diff(outcomes.ts[order])[np.diff(entity[order]) == 0]
    gap = float(np.median(gaps)) if len(gaps) else 0.0
    if entity.max() + 1 < MIN_UNITS:
        entity = np.floor(outcomes.ts / 86_400.0).astype(np.int64)  # days are drawn, where there is no entity to draw
    facts = Facts(gap, float(ts[-1] - ts[0]), usual, positives / len(known))
    return Reference(outcomes.ts[:rows], label[:rows], weight, entity[:rows], facts, start, seconds)


def _near(values: FloatVector) -> FloatVector:
    """The mean of ``(n,)`` values around each, a fiftieth of them at most."""
    half = len(values) // 100
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, stop = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return np.asarray((sums[stop] - sums[first]) / (stop - first))


def _known_by(age: FloatVector, delay: FloatVector, label: FloatVector) -> FloatMatrix:
    """Of labels 0 and 1 the share that is known at each age: ``(k,)`` delays and labels of old rows to ``(2, n)``."""
    out = np.ones((2, len(age)))
    for y in (0, 1):
        own = np.sort(delay[label == y])
        if len(own) >= _MIN_OF_EACH:
            out[y] = np.searchsorted(own, age, "right") / len(own)
    return out


RUNGS: Final = (1, 2, BLOCKS)


def sign(metric: str) -> int:
    """What makes more be better."""
    return -1 if metric in LOWER_IS_BETTER else 1


def left_alone() -> bool:
    """Whether the process that started this one is gone: killed, it could not end its own."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


class TrialWatch:
    """Looks at a trial while it runs: reports its metric after some blocks, stops it where it is worse than others."""

    def __init__(self, metric: str, trial: optuna.Trial, reference: Reference, until: float) -> None:
        self._metric, self._trial, self._reference, self._until = metric, trial, reference, until
        self._held: list[tuple[FloatVector, FloatVector]] = []
        self._rows, self._blocks = 0, RUNGS[0]
        self._first = "fixed_params" in trial.storage.get_trial_system_attrs(trial._trial_id)
        self._pruned = self.late = False
        self.value: float | None = None
        """Once all rows that count are scored."""
        self.began = time.monotonic()

    def scores(self) -> FloatVector:
        """Those so far; raises ``UsageError`` where they are not of the rows of the task as it is."""
        ts, score = (np.concatenate(each) for each in zip(*self._held, strict=True))
        n = min(len(ts), len(self._reference))
        if not np.array_equal(ts[:n], self._reference.ts[:n]):
            raise UsageError(
                "a trial scored other rows than the task as it is: change what is scored by hand, not here"
            )
        return np.asarray(score)

    def begin(self, pipeline: TaskPipeline, watch: RunWatch) -> None:
        """A run begins; there is nothing to know of it."""

    def add(self, out: StepOutput) -> None:
        """Take in what a step scored; at the end of some blocks tell the pruner."""
        if out.predictions is None or self.stop():
            return
        self._held.append((out.predictions.ts, out.predictions.score))
        self._rows += len(out.predictions)
        while self._blocks <= BLOCKS and self._rows >= self._reference.edge(self._blocks):
            value = self._reference.value(self.scores(), self._blocks, self._metric)
            if not np.isnan(value):
                value *= sign(self._metric)
                self._trial.report(value, self._blocks)
                worse = self._trial.should_prune()
                self._pruned = worse and self._blocks < BLOCKS and not self._first
            if self._blocks == BLOCKS:
                self.value = value
            self._blocks *= 2

    def stop(self) -> bool:
        """Whether nothing more is to be learned of it."""
        over = time.monotonic() > self._until or left_alone()
        self.late = self.value is None and not self._pruned and over
        return self._pruned or self.late or self.value is not None
