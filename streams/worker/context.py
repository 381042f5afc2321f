"""What the lanes of one worker share: the links, the models, the clock, and how to stop."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from faust.types import TP

from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings
from weir.streams.kafka.consume.app import BatchApp
from weir.streams.kafka.consume.consumer import BatchConsumer
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.offline_models.serving import FullModels
from weir.streams.ops.metrics import Metrics
from weir.streams.ops.watchdog import LoopStall, Watchdog
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_store import Lane, LaneStore
from weir.streams.worker.identity.topic_check import TopicCheck
from weir.streams.worker.links import Links
from weir.streams.worker.pauses import Pauses
from weir.streams.worker.scoring.misplaced import Placement

if TYPE_CHECKING:
    from weir.streams.worker.inference.remote_models import RemoteClient

STORING: Final = 4
"""Lanes that store a snapshot at one time."""
OPENED_AT_ONCE: Final = 4
"""Lanes whose journals or snapshots are in memory as bytes, besides what they are decoded to."""


class Context:
    """What the lanes of one worker share.

    Parameters
    ----------
    settings, tasks : what to run.
    app : the Faust app, with its consumer and producer.
    link, store : the way to Redis; rows and lane records.
    metrics : where counts go.
    full : the full models that run in this process; none when not given.
    """

    def __init__(
        self,
        settings: Settings,
        tasks: Sequence[TaskSpec],
        app: BatchApp,
        link: RedisClient,
        store: LaneStore,
        metrics: Metrics,
        full: FullModels | None = None,
    ) -> None:
        self.settings, self.tasks = settings, list(tasks)
        self.app, self.link, self.store, self.metrics = app, link, store, metrics
        self.records = app.records
        self.full = full or FullModels()
        self.remote: RemoteClient | None = None
        """Asks for full models that run elsewhere; nobody is asked without."""
        self.placement = Placement(self)
        """Finds records in partitions that do not own their keys."""
        self.topics = TopicCheck(self)
        """Holds the topics there are against those that the stored state belongs to."""
        self.silent: BatchConsumer | None = None
        """Stands in for the consumer where nothing is consumed."""
        self.watchdog: Watchdog | None = None
        self.storing = asyncio.Semaphore(STORING)
        """Whoever stores a snapshot of a lane."""
        self.completed_at = time.monotonic()
        self.assigned = False
        """Whether the group has given partitions, if only none."""
        self.lanes = 0
        """How many are open."""
        self.links = Links(self)
        """Whether brokers and store are there."""
        self.pauses = Pauses(self)
        """Which are paused."""
        self.stall = LoopStall()
        self.opening = asyncio.Semaphore(OPENED_AT_ONCE)
        """Held by who reads and decodes what is stored of a lane."""
        self.id_bytes = settings.worker.dedupe_bytes
        """What the memory of ids of one score lane may take."""
        self.partitions = 0
        """Of every topic that is partitioned by entity."""

    @property
    def consumer(self) -> BatchConsumer:
        """The consumer of the app, or what stands in for it."""
        return self.silent or self.app.batch_consumer

    def now(self) -> float:
        """Wall-clock time, epoch seconds: the stamp of what is published."""
        return time.time()

    def new_key(self) -> bytes:
        """A key for the digests of a new memory of ids."""
        return secrets.token_bytes(16)

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
        self.metrics.completed(batch.topic, batch.count)
        if self.watchdog is not None:
            self.watchdog.completed()

    def fail(self, lane: Lane, error: Exception) -> None:
        """A lane cannot go on, and never skips (decision 2): it pauses, or the worker stops where more is wrong.

        Returns at once, so that a task of the lane may call it in the end.
        """
        if self.pauses.takes(error):
            self.pauses.fault(lane, error)
        else:
            # Kept, as asyncio itself keeps no task alive. Not awaited: the crash ends the lane that calls this.
            self._crashing = asyncio.ensure_future(self.crash(error))

    async def crash(self, error: Exception) -> None:
        """Stop the worker: the error is of more than one partition."""
        await self.app.crash(error)
