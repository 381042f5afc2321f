"""What lanes remember besides rows: journals of ids and timers, a label lane's steps and their gaps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from online.batch import EventBatch, PredictionBatch, Scored, UpdateBatch
from online.intake import Intake, IntakePolicy
from online.labelling import LabelOutput
from online.labels import SilencePolicy, SilenceTimers
from online.scoring import ScoringStage
from online.task import TaskSpec
from online.updates import encode_updates
from streams import topics
from streams.log import Record
from streams.ops.metrics import Metrics
from streams.settings import Settings
from streams.stores import MemoryFeatureStore
from streams.stores.steps import Step, StoredLane
from streams.transport import FetchedBatch, Sent, Ticket
from streams.worker import journal as journal_module
from streams.worker import side as side_module
from streams.worker.journal import LaneJournal
from streams.worker.label import LabelLane
from streams.worker.side import SideLane, side_layouts
from streams.worker.work import Work

# -- the journal of a score lane ---------------------------------------------------------------------------------------

POLICY = IntakePolicy(dedupe_capacity=8, dedupe_window=1e9, allowed_lateness=1e9, max_ahead=1e9)
SILENCE = SilencePolicy(observe_s=50.0, horizon_s=120.0)
Event = tuple[int, int, float]
"""Number of its id, of its key, and seconds since the one before."""

batches = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4), st.floats(0.0, 40.0)), max_size=6),
    min_size=1,
    max_size=25,
)


class ScoreMemory:
    """What a score lane keeps in memory, fed as the lane feeds it; ``timers`` says which of its tasks have some."""

    def __init__(self, timers: Sequence[bool]) -> None:
        self.intake = Intake(POLICY, journal=True)
        self.timers = [SilenceTimers(SILENCE) if has else None for has in timers]
        self.journal = LaneJournal(self.intake, self.timers)

    def step(self, events: Sequence[Event], start: float) -> tuple[list[str], list[Any], list[bytes], int]:
        """Take a batch: what was admitted, which labels fired, the entries written and how many old ones may go."""
        ts = start + np.cumsum([gap for *_, gap in events]) if events else np.empty(0)
        batch = EventBatch([f"e{i}" for i, *_ in events], ts, ["view"] * len(events))
        admitted = self.intake.admit(batch, ts)
        keys = [f"k{events[row][1]}" for row in admitted.rows.tolist()]
        fired: list[Any] = []
        moved: list[tuple[list[str], Any] | None] = []
        for timers in self.timers:
            if timers is None:
                moved.append(None)
                continue
            out = timers.advance(keys, admitted.batch.ts)
            fired.append((out.labels.event_id, out.labels.value.tolist(), out.event_id))
            moved.append((keys, admitted.batch.ts))
        return admitted.batch.event_id, fired, *self.journal.entry(moved)


@given(batches, st.lists(st.booleans(), min_size=1, max_size=3), st.integers(0, 24), st.integers(1, 12))
@settings(deadline=None)
def test_a_lane_restored_from_its_journal_goes_on_as_if_nothing_had_happened(
    taken: list[list[Event]], timers: list[bool], at: int, snapshot_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "SNAPSHOT_ROWS", snapshot_rows)
        lane, stored, start, restored = ScoreMemory(timers), list[bytes](), 1.7e9, None
        for number, events in enumerate(taken):
            if number == at:
                restored = ScoreMemory(timers)
                restored.intake.resume(lane.intake.mark())
                restored.journal.restore(stored)
            made = lane.step(events, start)
            if restored is not None:
                assert restored.step(events, start) == made
            *_, entries, drop = made
            assert drop <= len(stored)
            stored = (stored + entries)[drop:]
            start += sum(gap for *_, gap in events)


@pytest.mark.parametrize("timers", [[False], [True], [True, False]])
def test_the_journal_stays_bounded(monkeypatch: pytest.MonkeyPatch, timers: list[bool]) -> None:
    monkeypatch.setattr(journal_module, "SNAPSHOT_ROWS", 10)
    lane, held = ScoreMemory(timers), 0
    for number in range(200):
        *_, entries, drop = lane.step([(2 * number, 0, 1.0), (2 * number + 1, 1, 1.0)], 1.7e9 + 2.0 * number)
        held += len(entries) - drop
        assert held < 20


# -- the journal of a side lane ----------------------------------------------------------------------------------------

SIDE_TASK = TaskSpec.from_toml("""
name = "t"
stream = "user-events"
entity = "user"

[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "seen"
ops = ["count"]
windows = ["1h"]

[[entities]]
name = "merchant"
key = "merchant_id"
[[entities.aggregates]]
name = "sold"
ops = ["count"]
windows = ["1h"]

[model]
kind = "logistic"
""")


class SideMemory:
    """A side lane over rows in memory; its store does nothing but let it."""

    def __init__(self) -> None:
        self.rows = MemoryFeatureStore()
        ctx = Context()
        ctx.store = cast(Any, NoStore())
        stage = ScoringStage(SIDE_TASK, self.rows, side=True)
        self.lane = SideLane((topics.ENTITY_UPDATES, 0), cast(Any, ctx), {"t": stage})
        (self.layout,) = side_layouts(stage)
        self.width = stage.engine.width(self.layout)

    async def take(self, ids: Sequence[int]) -> tuple[list[bytes], int]:
        """Apply updates; the entries written and how many old ones may go."""
        n = len(ids)
        updates = UpdateBatch([f"e{i}" for i in ids], ["m"] * n, np.full(n, 1.7e9), np.ones((n, self.width)))
        records = [Record(b"m", value, 1.7e9) for value in encode_updates(updates, "t", self.layout)]
        batch = FetchedBatch("u", 0, 0, n, records, Ticket(TP("u", 0), 0, n, 0))
        step = await self.lane.compute(batch)
        return step.journal, step.drop


class NoStore:
    """Rows need no bringing."""

    async def prefetch(self, lane: object, wanted: object) -> None:
        """They are there."""

    def use(self, lane: object) -> None:
        """There is one."""

    def end_step(self, lane: object, offset: int) -> None:
        """Nothing is written."""


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), min_size=1, max_size=20), st.integers(0, 19))
@settings(deadline=None, max_examples=60)
def test_a_side_lane_restored_from_its_journal_knows_the_same_repeats(taken: list[list[int]], at: int) -> None:
    async def go() -> None:
        lane, stored, restored = SideMemory(), list[bytes](), None
        lane.lane.restore(None, [])
        for number, ids in enumerate(taken):
            if number == at:
                restored = SideMemory()
                restored.rows.restore(lane.rows.snapshot())
                restored.lane.restore(None, stored)
            made = await lane.take(ids)
            if restored is not None:
                assert await restored.take(ids) == made
                assert restored.rows.snapshot() == lane.rows.snapshot()
            entries, drop = made
            assert drop <= len(stored)
            stored = (stored + entries)[drop:]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side_module, "REMEMBERED", 14)  # half of it is no less than a batch, as in a worker
        asyncio.run(go())


# -- the steps of a label lane -----------------------------------------------------------------------------------------

TASK = "t"


def scored_of(ids: Sequence[str]) -> dict[str, Scored]:
    n = len(ids)
    p = PredictionBatch(list(ids), ["u"] * n, np.arange(n, dtype=np.float64), np.full(n, 0.5), np.zeros(n, np.int64),
                        np.zeros((n, 1)))  # fmt: skip
    return {TASK: Scored(p, np.empty((n, 0)), np.empty((n, 0)), {})} if n else {}


class Stage:
    """Remembers which predictions it was given, in order."""

    class task:  # noqa: N801 - in the place of a TaskSpec
        alerting = False

    def __init__(self) -> None:
        self.seen: list[str] = []

    def scored(self, scored: Scored) -> LabelOutput:
        self.seen += scored.predictions.event_id
        return LabelOutput()

    def snapshot(self) -> bytes:
        return json.dumps(self.seen).encode()

    def restore(self, state: bytes) -> None:
        self.seen = json.loads(state)


@dataclass
class Steps:
    """A `StepLog` that lives in memory, so that the next lane finds what the last one left."""

    blob: bytes | None = None
    first: int = 1
    steps: list[Step] = field(default_factory=list)
    done_through: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def claim(self) -> None:
        """Nobody else is there."""

    async def load(self) -> StoredLane:
        return StoredLane(self.blob, self.first - 1, list(self.steps), self.done_through)

    async def append(self, first_number: int, steps: Sequence[Step]) -> None:
        assert first_number == self.first + len(self.steps), "a step was journalled out of turn"
        self.steps += steps

    async def done(self, number: int) -> None:
        self.done_through = number
        self.moved.set()

    async def snapshot(self, number: int, blob: bytes) -> None:
        self.steps = self.steps[number + 1 - self.first :]
        self.blob, self.first = blob, number + 1


class Reader:
    """The log of predictions, read in pieces of three records."""

    features = {TASK: ("x",)}  # noqa: RUF012 - as LaneReader has it

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.reads = 0

    async def bounds(self) -> tuple[int, int]:
        return 0, len(self.log)

    async def rest(self, start: int, stop: int) -> AsyncIterator[Work]:
        assert stop <= len(self.log)
        self.reads += start < stop
        for at in range(start, stop, 3):
            end = min(at + 3, stop)
            yield Work(Step(topics.PREDICTIONS, at, end), scored_of(self.log[at:end]), records=end - at)

    async def again(self, steps: Sequence[Step]) -> AsyncIterator[Work]:
        for step in steps:
            yield Work(step, scored_of(self.log[step.start : step.stop]), records=step.stop - step.start)


class Context:
    """Takes everything, and raises what a lane could not bear."""

    def __init__(self) -> None:
        self.settings, self.metrics = Settings(), Metrics()
        self.store: Any = None
        self.lanes = 0  # nothing is gathered
        self.records: Any = None
        self.failed: list[Exception] = []

    def now(self) -> float:
        return 0.0

    def name(self, topic: str) -> str:
        return topic

    async def crash(self, error: Exception) -> None:
        self.failed.append(error)


class Partition:
    """One partition of predictions, with the lane that takes them; the lane can be replaced by another."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.steps, self.reader, self.ctx = Steps(), Reader(self.log), Context()

    async def open(self) -> None:
        self.stage = Stage()
        self.lane = LabelLane(
            0, cast(Any, self.ctx), {TASK: cast(Any, self.stage)}, cast(Any, self.steps), {}, cast(Any, self.reader),
            handed_over=True,
        )  # fmt: skip
        await self.lane.open()
        self.lane.start()

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


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(cast(Any, work()))


Part = tuple[int, int]
"""Records of somebody else, then ours."""


@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=3), max_size=6),
       st.integers(0, 6), st.booleans())  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_a_label_lane_takes_every_prediction_once_and_in_order_whoever_wrote_it(
    calls: list[list[Part]], reopened_at: int, clean: bool
) -> None:
    async def go() -> None:
        at = Partition()
        at.append(2)  # of a worker that died
        await at.open()
        for number, parts in enumerate(calls):
            if number == reopened_at:
                if clean:
                    at.append(1)
                    await at.hand_over([at.append(1)])
                await at.lane.close()
                await at.open()
            sent = []
            for others, ours in parts:
                at.append(others)
                sent.append(at.append(ours))
            await at.hand_over(sent)
        await at.hand_over([at.append(1)])
        await at.processed()
        await at.lane.close()
        assert not at.ctx.failed
        assert at.stage.seen == at.log

    run(go)


def test_what_is_handed_over_without_a_gap_is_not_read_again() -> None:
    async def go() -> None:
        at = Partition()
        await at.open()
        for _ in range(20):
            await at.hand_over([at.append(3)])
        await at.processed()
        await at.lane.close()
        assert at.stage.seen == at.log
        assert at.reader.reads <= 1  # a lane looks once whether a dead worker left something, as it begins

    run(go)


def test_what_was_handed_over_to_nobody_is_found_without_a_hand_over() -> None:
    async def go() -> None:
        at = Partition()
        at.append(7)
        await at.open()
        await at.processed()
        await at.lane.close()
        assert at.stage.seen == at.log

    run(go)
