"""What a worker measures, in the words of its lanes."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, TypeVar

import numpy as np

from weir.online.batch import EventBatch, FloatVector
from weir.streams.ops.instruments import Counter, Histogram
from weir.streams.ops.metric_definitions import Stage
from weir.streams.ops.metric_registry import Registry
from weir.streams.records import RecordBatch

K = TypeVar("K")
V = TypeVar("V")
LaneKind = Literal["score", "side", "label", "inference"]
LetterClass = Literal["late", "ahead", "oversized", "unreadable", "misplaced", "out of range", "invalid"]
_CLASSES: Final[tuple[LetterClass, ...]] = ("late", "ahead", "oversized", "unreadable", "misplaced", "out of range")


def letter_class(reason: str) -> LetterClass:
    """The class of a dead letter's reason: one of a few, so that the metric's label stays bounded.

    >>> letter_class("late: 4000 s behind the newest event"), letter_class("amount: got -1")
    ('late', 'invalid')
    """
    head = reason.partition(":")[0]
    return next((c for c in _CLASSES if c == head), "invalid")


class Laps:
    """Measures the stages of one batch, one after the other."""

    __slots__ = ("_at", "_clock", "_stages")

    def __init__(self, stages: Mapping[Stage, Histogram], clock: Callable[[], float]) -> None:
        self._stages, self._clock = stages, clock
        self._at = clock()

    def lap(self, stage: Stage) -> None:
        """Everything since the last lap was ``stage``."""
        now = self._clock()
        self._stages[stage].observe(now - self._at)
        self._at = now


class _Batches:
    """What is counted for every batch of a topic."""

    def __init__(self, registry: Registry, topic: str) -> None:
        self.batches = registry.counter("weir_batches_total", topic=topic)
        self.records = registry.counter("weir_records_total", topic=topic)
        self.sizes = registry.histogram("weir_batch_records", topic=topic)


class _Events:
    """What is counted for every batch of a topic of events, on top."""

    def __init__(self, registry: Registry, topic: str) -> None:
        self.scored = registry.counter("weir_events_total", topic=topic)
        self.duplicates = registry.counter("weir_duplicates_total", topic=topic)
        self.latency = registry.histogram("weir_end_to_end_seconds", topic=topic)


class _Bound(dict[K, V]):
    """Instruments bound to their labels once, when they are first needed: to find them by name each time costs more."""

    def __init__(self, make: Callable[[K], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: K) -> V:
        self[key] = made = self._make(key)
        return made


class Metrics(Registry):
    """The metrics of one worker.

    Parameters
    ----------
    own : Weir's own name of a topic of the cluster, for labels that mean the same everywhere.
    clock : monotonic seconds.

    >>> metrics = Metrics(clock=iter([0.0, 0.25]).__next__)
    >>> metrics.stages("score").lap("decode")
    >>> metrics.histogram("weir_stage_seconds", lane="score", stage="decode").sum
    0.25
    """

    def __init__(
        self, own: Callable[[str], str | None] = lambda topic: topic, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__()
        self._own, self.now = own, clock
        self._batches = _Bound[str, _Batches](lambda topic: _Batches(self, self._own(topic) or topic))
        self._events = _Bound[str, _Events](lambda topic: _Events(self, self._own(topic) or topic))
        self._stages = _Bound[LaneKind, _Bound[Stage, Histogram]](self._stages_of)
        self._inputs = _Bound[tuple[str, str, str], Counter](
            lambda at: self.counter("weir_inputs_total", task=at[0], input=at[1], outcome=at[2])
        )

    def _stages_of(self, lane: LaneKind) -> _Bound[Stage, Histogram]:
        return _Bound(lambda stage: self.histogram("weir_stage_seconds", lane=lane, stage=stage))

    def stages(self, lane: LaneKind) -> Laps:
        """Begin to measure the stages of one batch."""
        return Laps(self._stages[lane], self.now)

    def scored(self, batch: RecordBatch, events: int, duplicates: int) -> None:
        """A batch of events was computed: so many were scored, so many were repeats."""
        held = self._events[batch.topic]
        held.scored.inc(events)
        held.duplicates.inc(duplicates)

    def inputs(self, task: str, mine: EventBatch) -> None:
        """Which of its raw columns events have that a task scores."""
        missing = {name: int(np.count_nonzero(np.isnan(column))) for name, column in mine.numbers.items()}
        missing |= {name: column.count(None) for name, column in (*mine.entities.items(), *mine.texts.items())}
        for name, count in missing.items():
            for outcome, part in (("known", len(mine) - count), ("missing", count)):
                if part:
                    self._inputs[task, name, outcome].inc(part)

    def refused(self, topic: str, reasons: Iterable[tuple[str, int]]) -> None:
        """Records of a topic went to the dead letters: why, and how many."""
        own, tally = self._own(topic) or topic, Tally[LetterClass]()
        for reason, count in reasons:
            tally[letter_class(reason)] += count
        for kind, count in tally.items():
            self.inc("weir_dead_letters_total", count, topic=own, reason=kind)

    def latency(self, batch: RecordBatch, now: float, since: FloatVector | None = None) -> None:
        """The predictions of a batch were acknowledged at ``now``, epoch seconds.

        ``since (n,)`` are the records' timestamps where the caller has them as an array: reading them from the records
        costs more than all other metrics of a batch together.
        """
        if since is None:
            since = np.fromiter((r.ts for r in batch.records), np.float64, len(batch.records))
        self._events[batch.topic].latency.observe_ages(since, now)

    def flushed(self, topic: str, started: float, steps: int) -> None:
        """``steps`` batches of a topic went into the store together; that began at ``started`` of `now`."""
        self.histogram("weir_store_seconds", op="flush").observe(self.now() - started)
        self.histogram("weir_flush_batches", topic=self._own(topic) or topic).observe(steps)

    def rewound(self, topic: str) -> None:
        """A lane went back to the position that the store has."""
        self.inc("weir_lane_rewinds_total", topic=self._own(topic) or topic)

    def completed(self, topic: str, records: int) -> None:
        """A batch of so many records is complete: outputs acknowledged, state in the store."""
        held = self._batches[topic]
        held.batches.inc()
        held.records.inc(records)
        held.sizes.observe(records)

    def lags(self, lags: Mapping[tuple[str, int], int]) -> None:
        """Records behind of every partition this worker owns; partitions that are not in it are forgotten."""
        now = {(self._own(topic) or topic, str(partition)): lag for (topic, partition), lag in lags.items()}
        # A lag that is never set again would stand in dashboards as a partition that is stuck.
        for topic, partition in self.children("weir_lag_records").keys() - now.keys():
            self.forget("weir_lag_records", topic=topic, partition=partition)
        for (topic, partition), lag in now.items():
            self.set("weir_lag_records", lag, topic=topic, partition=partition)
