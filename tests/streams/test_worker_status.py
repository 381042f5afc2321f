"""What a worker tells of its lanes keeps none of them in memory."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any, cast

from weir.online.labels.join_policy import JoinStats
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.ops.metrics import Metrics
from weir.streams.worker.status import WorkerStatus


class Stage:
    """Of one lane and task; holds megabytes in life."""

    def __init__(self) -> None:
        self.joiner = SimpleNamespace(stats=JoinStats())


def test_a_lane_that_went_is_counted_to_its_end_and_then_forgotten() -> None:
    metrics = Metrics()
    ctx = SimpleNamespace(settings=Settings(), metrics=metrics)
    status = WorkerStatus(cast(Any, ctx), cast(Any, None), cast(Any, None))
    stage = Stage()
    stage.joiner.stats.joined = 7  # elsewhere: it came with the lane
    status._count_labels("fraud", cast(Any, stage))
    stage.joiner.stats.joined = 9
    status._count_labels("fraud", cast(Any, stage))
    assert metrics.counter("weir_labels_total", task="fraud", outcome="joined").value == 2
    held = weakref.ref(stage)
    del stage
    gc.collect()
    assert held() is None


def test_a_topic_whose_lanes_have_all_gone_counts_none() -> None:
    read = [topics.USER_EVENTS, topics.ENTITY_UPDATES, topics.LABELS]
    host = SimpleNamespace(topics=read, lanes={(topics.USER_EVENTS, 3): None, (topics.LABELS, 3): None})
    status = WorkerStatus(
        cast(Any, SimpleNamespace(settings=Settings(), metrics=Metrics())), cast(Any, host), cast(Any, None)
    )
    assert status.lanes() == {topics.USER_EVENTS: 1, topics.ENTITY_UPDATES: 0, topics.LABELS: 1}
    host.lanes.clear()
    assert status.lanes() == dict.fromkeys(read, 0)
