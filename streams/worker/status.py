"""What a worker tells about itself, to the web endpoints and to the watchdog: readiness, work in flight, gauges."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Final
from weakref import WeakKeyDictionary

from weir.online.stages.labelling import LabellingStage
from weir.online.stages.scoring import ScoringStage
from weir.streams.config import topics
from weir.streams.model_replicas.follower import Follower
from weir.streams.worker.context import Context
from weir.streams.worker.horizon import Horizon, IdMemory
from weir.streams.worker.partitions import LaneHost
from weir.streams.worker.scoring.event_partition import ScoreLane

log = logging.getLogger(__name__)

_OUTCOMES: Final = {
    "joined": "joined", "corrections": "corrected", "repeated_labels": "repeated", "unmatched": "unmatched",
    "lost": "lost",
}  # fmt: skip
"""Of the join's counts, and what the metric calls them."""


class ProcessStatus(ABC):
    """What any worker process says of itself."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def ready(self) -> list[str]:
        """Why the worker does not do its work yet, a sentence each; empty when it does."""
        if not self._ctx.assigned:
            return ["no partitions were assigned yet: the worker is starting, or its group is rebalancing"]
        served, first = self.lanes(), dict[str, str]()
        for (topic, partition), pause in self._ctx.pauses.paused.items():
            first.setdefault(topic, f"{topic}-{partition}: {pause.reason}")
        paused = [f"all partitions of {own} are paused; {why}" for own, why in first.items() if not served.get(own)]
        return self._ctx.links.away() + paused

    def describe(self) -> Mapping[str, object]:
        """What stands still; a worker with some lanes paused is ready, as it serves the others."""
        return {"paused": self._ctx.pauses.describe()}

    def in_flight(self) -> object:
        """What is being worked on, for the log of the watchdog."""
        return self.pending() or "batches that wait"

    def pending(self) -> list[str]:
        """What the watchdog holds the worker to; see `BatchConsumer.pending`."""
        return self._ctx.app.batch_consumer.pending()

    def measure(self) -> None:
        """Set the gauges."""
        m, ctx = self._ctx.metrics, self._ctx
        m.set("weir_loop_stall_seconds", ctx.stall.longest())
        m.set("weir_since_batch_seconds", time.monotonic() - ctx.completed_at)
        # Before that the consumer knows no partitions, and would be asked for what is not there.
        if not ctx.assigned:
            return
        consumer = ctx.app.batch_consumer
        m.lags({(tp.topic, tp.partition): lag for tp, lag in consumer.lag().items()})
        m.set("weir_batches_in_flight", len(consumer.offsets.working()))
        if ctx.watchdog is not None:
            # Those too that nobody took: one that was lost on its way to its lane would stop its partition in silence.
            ctx.watchdog.holding(len(self.pending()))
        for topic, lanes in self.lanes().items():
            m.set("weir_partitions_assigned", lanes, topic=topic)

    @abstractmethod
    def lanes(self) -> Mapping[str, int]:
        """How many lanes there are, by Weir's own name of their topic."""


class WorkerStatus(ProcessStatus):
    """Answers the web endpoints and the watchdog of a scoring worker."""

    def __init__(self, ctx: Context, host: LaneHost, follower: Follower) -> None:
        super().__init__(ctx)
        self._host, self._follower = host, follower
        self._ids = IdMemory(ctx.settings.worker.dedupe_bytes, ctx.metrics)
        self._horizon = Horizon(ctx.settings.worker.label_bytes, ctx.metrics)
        self._told: dict[Hashable, float] = {}
        """What was counted already, of counts that somebody else keeps."""
        # Weak: a stage holds all that its lane waits with, and goes when the partition does.
        self._joins: WeakKeyDictionary[LabellingStage, dict[str, float]] = WeakKeyDictionary()
        """The same of the join of each stage, by the name of the count."""

    def ready(self) -> list[str]:
        """See ``ProcessStatus``; a label lane first takes steps again."""
        waiting = [f"{lane.name} is taking steps again" for lane in self._host.labels if not lane.ready]
        return super().ready() or waiting

    def pending(self) -> list[str]:
        """See ``ProcessStatus``; while a label lane takes steps again, batches wait for it, however long that is."""
        restoring = not all(lane.ready for lane in self._host.labels)
        return self._ctx.app.batch_consumer.pending(taken_only=restoring)

    def describe(self) -> Mapping[str, object]:
        """Lanes and models."""
        return {
            **super().describe(),
            "lanes": self._host.names(),
            "models": {task.name: self._follower.version(task.name) for task in self._ctx.tasks},
            "examples_lag": self._follower.lag(),
            "full": self._ctx.full.outline(),
        }

    def measure(self) -> None:
        """See ``ProcessStatus``; and of tasks, the store, and full models that run elsewhere."""
        super().measure()
        for task in self._ctx.tasks:
            self._measure_task(task.name)
            self._ctx.metrics.set("weir_mature_only", float(task.labels.matures), task=task.name)
        lanes = [lane for lane in self._host.labels if lane.ready]
        self._horizon.look({t.name: [lane.stages[t.name].joiner for lane in lanes] for t in self._ctx.tasks})
        self._measure_store()
        for words in (words for watch in self._host.watches.values() for words in watch.news()):
            log.warning("%s", words)
        if self._ctx.remote is not None:
            for name, waits in self._ctx.remote.waiting().items():
                self._ctx.metrics.set("weir_full_waits", waits, task=name)

    def lanes(self) -> Mapping[str, int]:
        """See ``ProcessStatus``."""
        # With a nought for those that have none: a gauge that is not set would keep its last number.
        read = dict.fromkeys((own for own in self._host.topics if own != topics.PREDICTIONS), 0)
        return {topics.LABELS: 0, **read, **Counter(topic for topic, _ in self._host.lanes)}

    def _measure_store(self) -> None:
        m, store = self._ctx.metrics, self._ctx.store
        m.inc("weir_store_retries_total", self._new("retries", self._ctx.link.retries))
        m.inc("weir_cache_lookups_total", self._new("missed", store.missed), outcome="miss")
        m.inc("weir_cache_lookups_total", self._new("found", store.wanted - store.missed), outcome="hit")
        m.inc("weir_new_rows_total", self._new("new", store.new))
        m.inc("weir_unkept_rows_total", self._new("unkept", store.unkept))
        self._measure_memory()
        for topic, rows in store.cached().items():
            m.set("weir_cached_rows", rows, topic=topic)

    def _measure_memory(self) -> None:
        m, lanes = self._ctx.metrics, [lane for lane in self._host.rows if lane.started]
        self._ids.look([lane for lane in lanes if isinstance(lane, ScoreLane)], self._host.reserved)
        stages: list[LabellingStage | ScoringStage] = []
        stages += [stage for lane in self._host.labels if lane.ready for stage in lane.stages.values()]
        stages += [stage for lane in lanes if isinstance(lane, ScoreLane) for stage in lane.stages]
        held = Counter({"ids": sum(lane.id_bytes for lane in lanes), "rows": self._ctx.store.cached_bytes()})
        for stage in stages:
            held.update(memory_of(stage))
        for part in MEMORY_PARTS:
            m.set("weir_memory_bytes", held[part], part=part)

    def _new(self, of: Hashable, total: float) -> float:
        """By how much a count has grown since the last look."""
        last, self._told[of] = self._told.get(of, 0.0), total
        return max(total - last, 0.0)

    def _measure_task(self, name: str) -> None:
        m = self._ctx.metrics
        version = self._follower.version(name)
        m.set("weir_learner_version", version, task=name)
        m.set("weir_examples_refused", self._follower.model(name).refused, task=name)
        self._told.setdefault(name, version)  # what was stored was learned by others
        m.inc("weir_examples_learned_total", self._new(name, version), task=name)
        self._count_readings(name)
        stages = [lane.stages[name] for lane in self._host.labels if lane.ready]
        m.set("weir_open_alerts", sum(len(stage.book) for stage in stages), task=name)
        for stage in stages:
            self._count_labels(name, stage)
        for metric, value in together([stage.evaluation.rolling() for stage in stages]).items():
            m.set("weir_prequential_metric", value, task=name, metric=metric)

    def _count_readings(self, name: str) -> None:
        """Count the raw numbers that were taken as missing since the last look, by column."""
        lanes = [lane for lane in self._host.rows if isinstance(lane, ScoreLane) and lane.started]
        taken: Counter[str] = Counter()
        for stage in (stage for lane in lanes for stage in lane.stages if stage.task.name == name):
            taken.update(stage.engine.readings.taken)
        for column, count in taken.items():
            grown = self._new(f"{name}:{column}", count)
            self._ctx.metrics.inc("weir_no_readings_total", grown, task=name, column=column)

    def _count_labels(self, name: str, stage: LabellingStage) -> None:
        """Count what became of labels since the last look; what a lane brought along was counted elsewhere."""
        for field, outcome in _OUTCOMES.items():
            self._ctx.metrics.inc("weir_labels_total", self._joined(stage, field), task=name, outcome=outcome)
        self._ctx.metrics.inc("weir_predictions_evicted_total", self._joined(stage, "evicted"), task=name)
        self._ctx.metrics.inc("weir_maturity_missing_total", self._joined(stage, "no_maturity"), task=name)

    def _joined(self, stage: LabellingStage, field: str) -> float:
        total, told = getattr(stage.joiner.stats, field), self._joins.setdefault(stage, {})
        last, told[field] = told.get(field, total), total
        return float(max(total - last, 0))


MEMORY_PARTS: Final = ("ids", "rows", "label_rows", "alerts", "silence")
"""What grows with entities, events or labels."""


def memory_of(stage: LabellingStage | ScoringStage) -> dict[str, int]:
    """Bytes of what a stage holds, by those of the parts that it has."""
    if isinstance(stage, ScoringStage):
        return {} if stage.timers is None else {"silence": stage.timers.nbytes}
    seen = 0 if stage.seen is None else stage.seen.nbytes
    return {"ids": seen, "label_rows": stage.joiner.nbytes, "alerts": stage.book.nbytes}


def together(lanes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of several lanes as one: each counts as the rows it has, ``n``, which are added up.

    >>> together([{"n": 900.0, "accuracy": 0.9}, {"n": 100.0, "accuracy": 0.5}, {"n": 0.0}])
    {'n': 1000.0, 'accuracy': 0.86}
    """
    out: dict[str, float] = {}
    for metric in dict.fromkeys(name for values in lanes for name in values):
        known = [(values[metric], values.get("n", 0.0)) for values in lanes if metric in values]
        rows = sum(n for _, n in known)
        # Without rows there is nothing to weigh by, and no number is better than a wrong one.
        if metric == "n" or rows > 0:
            out[metric] = rows if metric == "n" else round(sum(value * n for value, n in known) / rows, 12)
    return out
