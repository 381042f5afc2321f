"""A label lane over a log and a journal in memory, with a stage that remembers what it was given."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from tests.streams.lane_context import Context
from tests.streams.score_lanes import Outbox
from weir.online.batch import IntVector, PredictionBatch, ScoredBatch
from weir.online.codec.decision_blocks import decode_decisions
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinPolicy
from weir.online.labels.logged_predictions import RowsToRead
from weir.online.stages.labelling import LabelOutput
from weir.streams.config import topics
from weir.streams.kafka.produce.producer import Sent
from weir.streams.redis.partitions.label_journal import OffsetRange, StoredLane
from weir.streams.worker.labelling.label_partition import LabelLane
from weir.streams.worker.labelling.publisher import PendingStep

TASK = "t"


def scored_of(ids: Sequence[str]) -> dict[str, ScoredBatch]:
    n = len(ids)
    times = 1.7e9 + np.arange(n, dtype=np.float64)
    p = PredictionBatch(list(ids), ["u"] * n, times, np.full(n, 0.5), np.zeros(n, np.int64), np.zeros((n, 1)))
    return {TASK: ScoredBatch(p, np.empty((n, 0)), np.empty((n, 0)), {})} if n else {}


class Stage:
    """Remembers which predictions it was given, in order."""

    class task:  # noqa: N801 - in the place of a TaskSpec
        alerting = False

    time = SimpleNamespace(watermark=1.7e9)  # that of the clock: the lane is live
    joiner = LabelJoiner(JoinPolicy(), n_features=1)

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.offsets: list[int] = []

    def scored(self, scored: ScoredBatch) -> LabelOutput:
        """The threshold of each is how many came before: an answer that a lane can give in one order only."""
        before = len(self.seen)
        self.seen += scored.predictions.event_id
        return LabelOutput(scored, np.arange(before, len(self.seen), dtype=np.float64))

    def advance(self, at: float) -> LabelOutput:
        self.seen.append(f"time {at}")
        return LabelOutput()

    def wanted(self, of: ScoredBatch) -> RowsToRead:
        assert of.offsets is not None, "handed over or read, every prediction has a place in the log"
        self.offsets += of.offsets.tolist()
        return RowsToRead(np.empty(0, np.int64), np.empty(0, np.int64))

    def capture(self) -> Callable[[], bytes]:
        seen = list(self.seen)
        return lambda: json.dumps(seen).encode()

    def restore(self, state: bytes) -> tuple[()]:
        self.seen = json.loads(state)
        return ()


class ForgetfulHistory:
    """The versions of a model that learns, and forgets, whenever the lane waits for anything else."""

    def __init__(self, busy: int) -> None:
        self.known, self.covered, self.busy = False, 0, busy

    def covers(self, _: IntVector) -> bool:
        return self.known

    async def cover(self, versions: IntVector, timeout_s: float) -> None:
        assert len(versions)
        assert timeout_s > 0
        await asyncio.sleep(0)
        self.covered += 1
        self.known = self.covered > self.busy

    async def close(self) -> None:
        """It holds nothing."""


class ExplainingStage(Stage):
    """Needs old rows, which have to be read, and the versions that made its scores."""

    class task:  # noqa: N801 - in the place of a TaskSpec
        alerting = True

    def __init__(self, history: ForgetfulHistory) -> None:
        super().__init__()
        self.history = history

    def wanted(self, of: ScoredBatch) -> RowsToRead:
        super().wanted(of)
        return RowsToRead(np.zeros(1, np.int64), np.zeros(1, np.int64))

    def lend(self, rows: IntVector, logged: ScoredBatch) -> None:
        """They are told of nothing here."""

    def scored(self, scored: ScoredBatch) -> LabelOutput:
        assert self.history.known, "the model of then is not kept any more"
        return super().scored(scored)


@dataclass
class Steps:
    """A `StepLog` that lives in memory, so that the next lane finds what the last one left."""

    blob: bytes | None = None
    first: int = 1
    steps: list[OffsetRange] = field(default_factory=list)
    done_through: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def claim(self) -> None:
        """Nobody else is there."""

    async def load(self) -> StoredLane:
        return StoredLane(self.blob, self.first - 1, list(self.steps), self.done_through)

    async def append(self, first_number: int, steps: Sequence[OffsetRange]) -> None:
        assert first_number == self.first + len(self.steps), "a step was journalled out of turn"
        self.steps += steps

    async def done(self, number: int) -> None:
        self.done_through = number
        self.moved.set()

    async def until(self, number: int) -> None:
        """Wait until so many steps are done."""
        async with asyncio.timeout(20):
            while self.done_through < number:
                self.moved.clear()
                await self.moved.wait()

    async def snapshot(self, number: int, blob: bytes) -> None:
        self.steps = self.steps[number + 1 - self.first :]
        self.blob, self.first = blob, number + 1


class FarSteps(Steps):
    """Takes turns of the loop to answer, so that a kill can come between what is stored and what follows from it."""

    async def append(self, first_number: int, steps: Sequence[OffsetRange]) -> None:
        await asyncio.sleep(0)
        await super().append(first_number, steps)
        await asyncio.sleep(0)

    async def done(self, number: int) -> None:
        await asyncio.sleep(0)
        await super().done(number)
        await asyncio.sleep(0)


class Reader:
    """The log of predictions, read in pieces of three records."""

    features = {TASK: ("x",)}  # noqa: RUF012 - as LaneReader has it

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.reads = 0
        self.history: ForgetfulHistory | None = None

    async def bounds(self) -> tuple[int, int]:
        return 0, len(self.log)

    async def rest(self, start: int, stop: int) -> AsyncIterator[PendingStep]:
        assert stop <= len(self.log)
        self.reads += start < stop
        for at in range(start, stop, 3):
            end = min(at + 3, stop)
            yield PendingStep(OffsetRange(topics.PREDICTIONS, at, end), self._at(at, end), records=end - at)

    async def logged(self, _: str, wanted: RowsToRead) -> tuple[IntVector, ScoredBatch]:
        """It takes a while, in which the live model learns."""
        assert self.history is not None
        self.history.known = False
        return wanted.rows, scored_of(["old"])[TASK]

    def _at(self, start: int, stop: int) -> dict[str, ScoredBatch]:
        scored = scored_of(self.log[start:stop])
        return {task: replace(own, offsets=np.arange(start, stop)) for task, own in scored.items()}

    async def again(self, steps: Sequence[OffsetRange]) -> AsyncIterator[PendingStep]:
        for step in steps:
            yield PendingStep(step, self._at(step.start, step.stop), records=step.stop - step.start)


class Partition:
    """One partition of predictions, with the lane that takes them; the lane can be replaced by another."""

    def __init__(self, steps: Steps | None = None) -> None:
        self.log: list[str] = []
        self.steps, self.reader, self.ctx = steps or Steps(), Reader(self.log), Context()
        self.ctx.records = Outbox()
        self.history: ForgetfulHistory | None = None

    async def open(self) -> None:
        """With a lane that runs."""
        self.lane = await self.unstarted()
        self.lane.start()

    async def unstarted(self) -> LabelLane:
        """A lane that is open, as a rebuild has it."""
        self.stage = Stage() if self.history is None else ExplainingStage(self.history)
        lane = LabelLane(
            0, cast(Any, self.ctx), {TASK: cast(Any, self.stage)}, cast(Any, self.steps),
            cast(Any, {} if self.history is None else {TASK: self.history}), cast(Any, self.reader), handed_over=True,
        )  # fmt: skip
        await lane.open()
        return lane

    async def kill(self) -> None:
        """What is not journalled or sent by now never is."""
        for task in self.lane._tasks:
            task.cancel()
        await asyncio.gather(*self.lane._tasks, return_exceptions=True)

    def decided(self) -> list[tuple[str, float]]:
        """Events and thresholds of the decisions that were sent, in order."""
        sent = self.ctx.records.sent.get((topics.DECISIONS, 0), [])
        rows = [row for record in sent for row in decode_decisions(record.value).batch.rows()]
        assert {record.key for record in sent} <= {TASK.encode()}
        return [(row.event_id, row.threshold) for row in rows]

    def append(self, count: int) -> Sent:
        """So many records reach the log; where they are."""
        sent = Sent(0, len(self.log), count)
        self.log += [f"e{i}" for i in range(len(self.log), len(self.log) + count)]
        return sent

    async def hand_over(self, sent: list[Sent]) -> None:
        ids = [i for part in sent for i in self.log[part.base_offset : part.base_offset + part.count]]
        await self.lane.hand_over(sent, scored_of(ids))

    async def processed(self) -> None:
        """Until everything in the log is done."""
        async with asyncio.timeout(20):
            while self.lane.positions.get(topics.PREDICTIONS, 0) < len(self.log) or self.behind():
                self.steps.moved.clear()
                assert not self.ctx.failed, self.ctx.failed
                await self.steps.moved.wait()

    def behind(self) -> bool:
        return self.steps.done_through < self.steps.first + len(self.steps.steps) - 1
