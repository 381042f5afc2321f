"""A label lane that comes back after long: labels that were there count, whichever topic its consumer reads first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from tests.online.stages_apart import labelling_of
from tests.streams.label_lanes import Steps
from tests.streams.lane_context import Context
from tests.streams.purchase_tasks import BAD
from weir.online.batch import LabelBatch, PredictionBatch, ScoredBatch
from weir.online.stages.labelling import LabellingStage
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.records import Record
from weir.streams.redis.partitions.label_journal import OffsetRange
from weir.streams.worker.labelling.label_partition import LabelLane
from weir.streams.worker.labelling.publisher import PendingStep

DAY, T0 = 86_400.0, 1.7e9 - 40 * 86_400.0
"""The clock of the tests stands at 1.7e9: the lane has been away for long."""
TASK = TaskSpec.from_toml(
    f'{BAD}[model]\nkind = "logistic"\n[labels]\nmaturity = "none"\n[labels.join]\nnegative_after_s = "7d"\n'
)


class Consumer:
    """Takes all batches, and knows where the labels end once a broker has told."""

    def __init__(self) -> None:
        self.end: int | None = None
        self.asked = asyncio.Event()

    def take(self, _: object) -> bool:
        return True

    def told_end(self, _: object) -> int | None:
        self.asked.set()
        return self.end

    def completed_through(self, _: object) -> int | None:
        return None


class Sent:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.records: dict[str, list[Any]] = {}

    async def send(self, topic: str, records: list[Record]) -> asyncio.Future[list[object]]:
        self.records.setdefault(topic, []).extend(json.loads(record.value) for record in records)
        done: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
        done.set_result([])
        return done

    def limit(self, _: str) -> int:
        return 1 << 20


class Reader:
    """Batches are steps here."""

    features = {TASK.name: labelling_of(TASK)._features}  # noqa: RUF012 - as LaneReader has it

    def decode(self, work: PendingStep) -> PendingStep:
        return work

    first = 0

    async def first_label(self) -> int:
        return self.first

    async def again(self, _: object) -> AsyncIterator[PendingStep]:
        for step in list[PendingStep]():
            yield step


@dataclass
class Worker:
    """One label lane, whose predictions the consumer brings."""

    ctx: Context = field(default_factory=Context)
    steps: Steps = field(default_factory=Steps)
    stage: LabellingStage = field(default_factory=lambda: labelling_of(TASK))
    places: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.consumer, self.sent = Consumer(), Sent()
        self.ctx.consumer, self.ctx.records = self.consumer, self.sent
        self.lane = LabelLane(
            0, cast(Any, self.ctx), {TASK.name: self.stage}, cast(Any, self.steps), {}, cast(Any, Reader()),
            handed_over=False,
        )  # fmt: skip

    def predictions(self, *days: int) -> None:
        """Events ``eDAY`` of so many users."""
        n, width = len(days), len(Reader.features[TASK.name])
        p = PredictionBatch(
            [f"e{day}" for day in days], [f"u{day}" for day in days], T0 + DAY * np.array(days, np.float64),
            np.full(n, 0.5), np.zeros(n, np.int64), np.zeros((n, width)),
        )  # fmt: skip
        scored = ScoredBatch(p, np.empty((n, 0)), np.zeros((n, 1)), {}, np.arange(n))
        self._put(topics.PREDICTIONS, n, scored={TASK.name: scored})

    def labels(self, *days: int) -> None:
        """Each says that the event of a day is a 1."""
        n = len(days)
        events, users, at = [f"e{d}" for d in days], [f"u{d}" for d in days], T0 + DAY * np.array(days, np.float64)
        batch = LabelBatch([f"l{d}" for d in days], users, cast(Any, events), at, np.ones(n, np.bool_), np.ones(n))
        self._put(topics.LABELS, n, labels={TASK.name: batch})

    def _put(self, topic: str, n: int, **what: Any) -> None:
        start = self.places.get(topic, 0)
        self.places[topic] = start + n
        self.lane.put(cast(Any, PendingStep(OffsetRange(topic, start, start + n), **what)))

    def learned(self) -> list[tuple[str, int, bool]]:
        """Event, value and whether it takes something back, of each example."""
        found = self.sent.records.get(topics.EXAMPLES, [])
        return [(one["event_id"], one["value"], one.get("correction", False)) for one in found]


@asynccontextmanager
async def worker() -> AsyncIterator[Worker]:
    made = Worker()
    await made.lane.open()
    made.lane.start()
    try:
        yield made
        assert not made.ctx.failed, made.ctx.failed
    finally:
        await made.lane.close()


async def test_a_label_that_was_there_is_no_timeout() -> None:
    """The events of a month come before the label of the first, as two topics have no order."""
    async with worker() as w:
        w.consumer.end = 2
        w.predictions(0, 1, 2)
        w.predictions(*range(3, 30))
        w.labels(0)
        w.labels(1)
        await w.steps.until(4)
        learned = w.learned()
    assert ("e0", 1, False) in learned
    assert ("e1", 1, False) in learned
    assert {event for event, value, _ in learned if not value} == {f"e{day}" for day in range(2, 23)}
    assert not any(correction for *_, correction in learned)


async def test_a_topic_of_labels_that_is_read_to_its_end_holds_nothing_up() -> None:
    async with worker() as w:
        w.consumer.end = 0
        w.predictions(*range(30))
        await w.steps.until(1)
        assert len(w.learned()) == 23


async def test_predictions_wait_until_a_broker_has_told_where_labels_end() -> None:
    async with worker() as w:
        w.predictions(*range(30))
        await w.consumer.asked.wait()
        assert w.learned() == []
        assert not w.lane.due(1.8e9), "no time passes over them either"
        w.consumer.end = 0
        await w.steps.until(1)


async def test_labels_that_are_all_deleted_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "first", 70)
    async with worker() as w:
        w.consumer.end = 70
        w.predictions(*range(30))
        await w.steps.until(1)


async def test_a_lane_that_is_live_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with worker() as w:
        w.consumer.end = 0
        w.predictions(0, 1, 2, 3)
        await w.steps.until(1)
        monkeypatch.setattr(w.ctx, "now", lambda: w.lane.watermark + 50.0)
        w.consumer.end = 1_000_000  # many are being loaded
        w.predictions(4)
        await w.steps.until(2)


async def test_labels_that_would_push_others_out_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with worker() as w:
        w.stage.joiner._waiting.policy = w.stage.joiner.policy.model_copy(update={"max_waiting": 4})
        monkeypatch.setattr(w.stage.joiner, "policy", w.stage.joiner._waiting.policy)
        w.consumer.end = 100
        w.predictions(*range(30))
        w.labels(0, 1, 2)
        await w.steps.until(2)
        assert {event for event, value, _ in w.learned() if value} == {"e0", "e1", "e2"}
