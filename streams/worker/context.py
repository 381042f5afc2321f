"""What the lanes of one worker share: the links, the models, the clock, and how to stop."""

from __future__ import annotations

import time
from collections.abc import Sequence

from faust.types import TP

from online.task import TaskSpec
from streams.ops.metrics import Metrics
from streams.ops.watchdog import Watchdog
from streams.settings import Settings
from streams.stores.redis import Lane, LaneStore
from streams.transport import BatchApp, BatchConsumer, BatchProducer, FetchedBatch


class Context:
    """What the lanes of one worker share.

    Parameters
    ----------
    settings, tasks : what to run.
    app : the Faust app, with its consumer and producer.
    store : rows and lane records.
    metrics : where counts go.
    """

    def __init__(
        self, settings: Settings, tasks: Sequence[TaskSpec], app: BatchApp, store: LaneStore, metrics: Metrics
    ) -> None:
        self.settings, self.tasks = settings, list(tasks)
        self.app, self.store, self.metrics = app, store, metrics
        self.watchdog: Watchdog | None = None
        self.completed_at = time.monotonic()
        self.assigned = False
        """Whether the group has given partitions, if only none."""
        self.partitions = 0
        """Of every topic that is partitioned by entity."""

    @property
    def consumer(self) -> BatchConsumer:
        """The consumer of the app."""
        return self.app.batch_consumer

    @property
    def records(self) -> BatchProducer:
        """The producer of record batches."""
        return self.app.records

    def now(self) -> float:
        """Wall-clock time, epoch seconds: the stamp of what is published."""
        return time.time()

    def name(self, topic: str) -> str:
        """What a topic of Weir's is called on these brokers."""
        return self.settings.topics.name(topic)

    def topic_partition(self, lane: Lane) -> TP:
        """A lane's partition as the consumer knows it."""
        return TP(self.name(lane[0]), lane[1])

    def own(self, tp: TP) -> Lane:
        """A partition by Weir's own name of its topic."""
        return self.settings.topics.own(tp.topic) or tp.topic, tp.partition

    def completed(self, batch: FetchedBatch) -> None:
        """A batch is complete."""
        self.completed_at = time.monotonic()
        self.metrics.completed(batch)
        if self.watchdog is not None:
            self.watchdog.completed()

    async def crash(self, error: Exception) -> None:
        """Stop the worker: an unexpected error is never skipped (decision 2)."""
        await self.app.crash(error)
