"""What a label lane makes of the records it is brought."""

from __future__ import annotations

import logging
from typing import Any, cast

import numpy as np
import pytest

from tests.streams.lane_context import Context
from weir.online.batch import PredictionBatch, ScoredBatch
from weir.online.codec.encode import encode_model, encode_scored
from weir.online.codec.predictions import ScoredShape
from weir.online.codec.wire import Label
from weir.online.labels.logged_predictions import RowsToRead
from weir.online.labels.places import places_of
from weir.streams.config import topics
from weir.streams.errors import BrokerError
from weir.streams.kafka.consume.fetched_batch import FetchedBatch, Slice
from weir.streams.records import Record
from weir.streams.redis.partitions.label_journal import OffsetRange
from weir.streams.worker.labelling import step_reader
from weir.streams.worker.labelling.step_reader import LaneReader, Patience

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


class Flaky:
    """A reader of ``labels`` that loses its broker once before each range that it gives."""

    topic = topics.LABELS

    def __init__(self) -> None:
        self.lost: list[int] = []
        self._at = 0

    async def __aenter__(self) -> Flaky:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is held."""

    async def seek(self, partition: int, start: int) -> None:
        self._at = start

    async def position(self) -> int:
        return self._at

    async def fetch(self) -> Slice:
        at = self._at
        if at not in self.lost:
            self.lost.append(at)
            raise BrokerError("the brokers are away")
        self._at += 1
        return Slice([at], [labels("fraud").records[0]])


async def test_a_long_recovery_outlives_brokers_that_are_away_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patience is for one outage; time that a recovery takes in between is none."""
    monkeypatch.setattr(step_reader, "_PAUSE_S", 0.0)
    flaky = Flaky()
    reader = LaneReader(0, cast("Any", Context()), {"fraud": ScoredShape(("x",), 0, 0, ())}, cast("Any", None))
    monkeypatch.setattr(reader, "_reader", lambda _: flaky)
    monkeypatch.setattr(reader, "_patience", lambda: Patience(0.0))
    steps = [OffsetRange(topics.LABELS, at, at + 1) for at in (0, 1, 2)]
    assert [work.step async for work in reader.again(steps)] == steps
    assert flaky.lost == [0, 1, 2]


class Points:
    """Predictions of two partitions: which event is at each offset that is still there."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[int]]] = []

    async def read(self, partition: int, offsets: list[int]) -> dict[int, Record]:
        self.asked.append((partition, offsets))
        return {at: Record(b"", prediction(f"{partition}:{at}"), NOW) for at in offsets if at != 8}


def prediction(event: str) -> bytes:
    one = np.ones(1)
    p = PredictionBatch([event], ["u"], NOW * one, 0.5 * one, np.zeros(1, np.int64), one[:, None])
    scored = ScoredBatch(p, np.empty((1, 0)), np.empty((1, 0)), {})
    shape = ScoredShape(("x",), 0, 0, ())
    (value,) = encode_scored(scored, shape.features, "fraud", NOW)
    return bytes(value)


async def test_a_prediction_that_moved_is_read_from_the_partition_that_it_was_logged_in() -> None:
    points = Points()
    reader = LaneReader(3, cast("Any", Context()), {"fraud": ScoredShape(("x",), 0, 0, ())}, cast("Any", points))
    places = places_of(np.array([7, 8, 7, 9]), np.array([3, 3, 1, 1]), own=3)
    rows, found = await reader.logged("fraud", RowsToRead(np.array([10, 11, 12, 13]), places))
    assert points.asked == [(1, [7, 9]), (3, [7, 8])]
    assert dict(zip(rows.tolist(), found.predictions.event_id, strict=True)) == {10: "3:7", 12: "1:7", 13: "1:9"}
    assert rows.tolist() == [10, 12, 13], "ascending, as they are lent"
