"""What a worker tells about itself: readiness, what is in flight, and the gauges."""

from __future__ import annotations

import time
from collections.abc import Mapping

from streams.following.follower import Follower
from streams.worker.context import Context
from streams.worker.host import LaneHost


class WorkerStatus:
    """Answers the web endpoints and the watchdog.

    Parameters
    ----------
    ctx, host, follower : the worker's parts.
    """

    def __init__(self, ctx: Context, host: LaneHost, follower: Follower) -> None:
        self._ctx, self._host, self._follower = ctx, host, follower

    def ready(self) -> list[str]:
        """Why the worker does not do its work yet, a sentence each; empty when it does."""
        if not self._ctx.assigned:
            return ["no partitions were assigned yet: the worker is starting, or its group is rebalancing"]
        return [f"{lane.name} is taking steps again" for lane in self._host.labels.values() if not lane.ready]

    def describe(self) -> Mapping[str, object]:
        """Lanes and models."""
        return {
            "lanes": [
                *(lane.name for lane in self._host.rows.values()),
                *(la.name for la in self._host.labels.values()),
            ],
            "models": {task.name: self._follower.version(task.name) for task in self._ctx.tasks},
            "examples_lag": self._follower.lag(),
        }

    def in_flight(self) -> object:
        """What is being worked on, for the log of the watchdog."""
        working = [
            f"{t.partition[0]}-{t.partition[1]}@{t.base_offset}" for t in self._ctx.app.batch_consumer.offsets.working()
        ]
        return working or "batches that wait"

    def measure(self) -> None:
        """Set the gauges."""
        m, ctx = self._ctx.metrics, self._ctx
        if not ctx.assigned:
            return
        m.lags({(tp.topic, tp.partition): lag for tp, lag in ctx.app.batch_consumer.lag().items()})
        m.set("weir_since_batch_seconds", time.monotonic() - ctx.completed_at)
        for task in ctx.tasks:
            name = task.name
            m.set("weir_learner_version", self._follower.version(name), task=name)
            stages = [lane.stages[name] for lane in self._host.labels.values()]
            m.set("weir_open_alerts", sum(len(s.book) for s in stages), task=name)
            m.set("weir_waiting_predictions", sum(len(s.joiner) for s in stages), task=name)
