"""What a label lane makes of the records it is brought."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from tests.streams.lane_context import Context
from weir.online.codec.encode import encode_model
from weir.online.codec.predictions import ScoredShape
from weir.online.codec.wire import Label
from weir.streams.config import topics
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.records import Record
from weir.streams.worker.labelling.step_reader import LaneReader

NOW = 1.8e9


def labels(*tasks: str) -> FetchedBatch:
    records = [
        Record(b"u", encode_model(Label(v=1, task=task, entity_id="u", event_id=f"e{i}", ts=NOW, value=1)), NOW)
        for i, task in enumerate(tasks)
    ]
    return FetchedBatch(topics.LABELS, 0, 0, len(records), records, cast("Any", None))


def test_labels_of_a_task_that_does_not_run_here_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    class At(Context):
        def now(self) -> float:
            return NOW

    ctx = At()
    reader = LaneReader(0, cast("Any", ctx), {"fraud": ScoredShape(("x",), 0, 0, ())}, cast("Any", None))
    with caplog.at_level(logging.WARNING):
        works = [reader.decode(labels("nobody", "fraud", "nobody")), reader.decode(labels("nobody"))]
    assert [{task: len(of) for task, of in work.labels.items()} for work in works] == [{"fraud": 1}, {}]
    assert [work.unknown for work in works] == [{"nobody": 2}, {"nobody": 1}]
    assert not any(work.refused for work in works)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("labels: records of tasks that do not run here are passed over, such as 'nobody'")
