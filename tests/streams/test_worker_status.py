"""What a worker tells of its lanes keeps none of them in memory."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from weir.online.batch import EventBatch
from weir.online.labels.join_policy import JoinStats
from weir.online.task.spec import TaskSpec
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


def test_a_column_that_no_event_has_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    ctx = SimpleNamespace(settings=Settings(), metrics=metrics)
    status = WorkerStatus(cast(Any, ctx), cast(Any, None), cast(Any, None))

    def events(n: int, tip: float, country: str | None) -> EventBatch:
        numbers = {"amount": np.full(n, np.nan), "tip": np.full(n, tip)}
        return EventBatch(
            ["e"] * n, np.ones(n), ["buy"] * n, {"user_id": ["u"] * n}, numbers, {"country": [country] * n}
        )

    metrics.inputs("fraud", events(999, np.nan, None))
    status._tell_unknown("fraud")
    assert not caplog.messages  # few yet
    metrics.inputs("fraud", events(1, 2.0, "DE"))
    for _ in range(2):
        status._tell_unknown("fraud")
    (told,) = caplog.messages
    assert told.startswith("task fraud: none of the first 1000 events that were looked at has a value of amount")
    assert "Correct its name in the events or in the task file" in told


def test_a_task_that_passes_all_events_over_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    ctx = SimpleNamespace(settings=Settings(), metrics=metrics)
    status = WorkerStatus(cast(Any, ctx), cast(Any, None), cast(Any, None))
    task = TaskSpec.model_validate(
        {
            "name": "fraud", "entity": "user", "inputs": ["amount"], "numbers": ["amount"], "types": ["purchase"],
            "entities": [{"name": "user", "key": "user_id"}], "model": {"kind": "logistic"},
        }
    )  # fmt: skip

    def came(events: int, passed: int) -> None:
        metrics.inc("weir_events_total", events, topic=task.stream)
        metrics.inc("weir_passed_over_total", passed, task="fraud")
        status._tell_passed_over(task)

    came(999, 999)
    assert not caplog.messages  # few yet
    came(1, 1)
    came(500, 500)
    (told,) = caplog.messages
    assert told.startswith("task fraud: none of the first 1000 events of user-events is of its types (purchase)")
    assert "Correct `types` in the task file" in told
    status._told.clear()
    came(10, 9)  # one was its own
    assert len(caplog.messages) == 1


def test_a_topic_whose_lanes_have_all_gone_counts_none() -> None:
    read = [topics.USER_EVENTS, topics.ENTITY_UPDATES, topics.LABELS]
    host = SimpleNamespace(topics=read, lanes={(topics.USER_EVENTS, 3): None, (topics.LABELS, 3): None})
    status = WorkerStatus(
        cast(Any, SimpleNamespace(settings=Settings(), metrics=Metrics())), cast(Any, host), cast(Any, None)
    )
    assert status.lanes() == {topics.USER_EVENTS: 1, topics.ENTITY_UPDATES: 0, topics.LABELS: 1}
    host.lanes.clear()
    assert status.lanes() == dict.fromkeys(read, 0)
