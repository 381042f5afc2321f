"""What score and side lanes remember besides rows: journals of ids and timers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams.lane_context import Context
from weir.online.batch import EventBatch, UpdateBatch
from weir.online.codec.row_updates import encode_updates
from weir.online.errors import StateError
from weir.online.intake_policy import IntakePolicy
from weir.online.labels.silence import SilencePolicy, SilenceTimers
from weir.online.stages.admission import Admission
from weir.online.stages.scoring import ScoringStage
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.consume.offset_tracker import Ticket
from weir.streams.records import Record
from weir.streams.redis.partitions.partition_store import LaneRecord
from weir.streams.worker.lanes import journal as journal_module
from weir.streams.worker.lanes import journal as remembered_module
from weir.streams.worker.lanes import lane as side_module
from weir.streams.worker.lanes.journal import LaneJournal
from weir.streams.worker.lanes.update_partition import SideLane, side_layouts

# -- the journal of a score lane ---------------------------------------------------------------------------------------

POLICY = IntakePolicy(dedupe_window=60.0, allowed_lateness=30.0, max_ahead=1e9)
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

    def __init__(self, timers: Sequence[bool], names: Sequence[str] = ("a", "b", "c")) -> None:
        self.intake = Admission(POLICY, journal=True)
        self.timers = [SilenceTimers(SILENCE) if has else None for has in timers]
        self.journal = LaneJournal(self.intake, dict(zip(names, self.timers, strict=False)))

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


@pytest.mark.parametrize("snapshot_rows", [3, 1_000])
@pytest.mark.parametrize(("before", "now"), [(2, 1), (3, 2), (1, 2)])
def test_a_lane_whose_tasks_are_others_says_so(
    monkeypatch: pytest.MonkeyPatch, before: int, now: int, snapshot_rows: int
) -> None:
    """Entries of before know a task by its place, so those of more tasks than there are, or of fewer, are nobody's."""
    monkeypatch.setattr(journal_module, "SNAPSHOT_ROWS", snapshot_rows)
    lane, entries = ScoreMemory([True] * before), list[bytes]()
    for number in range(4):
        *_, made, dropped = lane.step([(10 * number + i, i, 1.0) for i in range(4)], 100.0 * number)
        entries = (entries + [_unnamed(entry) for entry in made])[dropped:]
    if before < now and snapshot_rows > 3:  # nothing in the entries says how many there were
        ScoreMemory([True] * now).journal.restore(entries)
        return
    with pytest.raises(StateError, match=f"timers of {before} tasks, and the stream has {now} here.*rebuild"):
        ScoreMemory([True] * now).journal.restore(entries)


def _unnamed(entry: bytes) -> bytes:
    """As a version wrote it that did not name the tasks."""
    return msgspec.msgpack.encode(msgspec.msgpack.decode(entry)[:-1])


@pytest.mark.parametrize("snapshot_rows", [3, 1_000])
@pytest.mark.parametrize("names", [("b", "a"), ("new", "a", "b"), ("b",), ("a", "new", "b")])
def test_timers_stay_with_their_task_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], snapshot_rows: int
) -> None:
    monkeypatch.setattr(journal_module, "SNAPSHOT_ROWS", snapshot_rows)
    lane, entries = ScoreMemory([True, True]), list[bytes]()
    for number in range(4):
        *_, made, dropped = lane.step([(10 * number + i, i, 1.0) for i in range(4)], 100.0 * number)
        entries = (entries + made)[dropped:]
    # So that the two differ.
    first, second = lane.timers
    assert first is not None
    assert second is not None
    second.advance(["k9"], np.array([400.0]))
    made, dropped = lane.journal.entry([None, (["k9"], np.array([400.0]))])
    entries = (entries + made)[dropped:]
    restored = ScoreMemory([True] * len(names), names)
    restored.journal.restore(entries)
    found = {name: len(timers or ()) for name, timers in zip(names, restored.timers, strict=True)}
    held = {"a": len(first), "b": len(second), "new": 0}
    assert found == {name: held[name] for name in names}
    assert held["a"] != held["b"]


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
        assert held < 60  # of 90 seconds


def test_entries_of_the_version_before_are_read_and_leave_in_time() -> None:
    old: list[Any] = [(5, [msgspec.msgpack.encode((5, ["a", "b"], np.array([1.7e9, 1.7e9 + 5]).tobytes()))], [], None)]
    old.append((5, [], [(0, ["k1"], np.array([1.7e9 + 6]).tobytes())], None))
    lane = ScoreMemory([True])
    lane.intake.set_watermark(1.7e9 + 6)
    lane.journal.restore([msgspec.msgpack.encode(entry) for entry in old])
    batch = EventBatch(["a", "c"], np.array([1.7e9, 1.7e9 + 6]), ["view"] * 2, {"user_id": ["u1", "u2"]})
    assert lane.intake.admit(batch, 1.7e9 + 6).batch.event_id == ["c"]
    assert lane.journal.entry([(["k2"], np.array([1.7e9 + 6]))])[1] == 0
    lane.intake.set_watermark(1.7e9 + 200)
    lane.intake.admit(batch.take(np.array([1])), 1.7e9 + 200)
    lane.intake.admit(EventBatch(["d"], np.array([1.7e9 + 200]), ["view"]), 1.7e9 + 200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "SNAPSHOT_ROWS", 1)  # so that nothing is kept for the timers
        assert lane.journal.entry([(["k2"], np.array([1.7e9 + 200]))])[1] == 3


def test_an_entry_that_is_none_is_refused_with_what_to_do() -> None:
    for wrong in (b"", b"hello", msgspec.msgpack.encode(("ids", 4, b"uneven"))):
        with pytest.raises(StateError, match="run 'weir features rebuild'"):
            ScoreMemory([False]).journal.restore([wrong])


def test_an_id_in_the_store_takes_little_more_than_20_bytes() -> None:
    lane, ids = ScoreMemory([False]), 0
    for number in range(20):
        entries, _ = lane.step([(500 * number + i, 0, 0.01) for i in range(500)], 1.7e9 + 5.0 * number)[2:]
        ids += sum(len(entry) for entry in entries)
    assert ids <= 21 * 10_000


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
        self.offset = 0

    async def take(self, ids: Sequence[int]) -> tuple[list[bytes], int]:
        """Apply updates; the entries written and how many old ones may go."""
        n, start = len(ids), self.offset
        self.offset += n
        updates = UpdateBatch([f"e{i}" for i in ids], ["m"] * n, np.full(n, 1.7e9), np.ones((n, self.width)))
        records = [Record(b"m", value, 1.7e9) for value in encode_updates(updates, "t", self.layout)]
        batch = FetchedBatch("u", 0, start, start + n, records, Ticket(TP("u", 0), start, start + n, 0))
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
async def test_a_side_lane_restored_from_its_journal_knows_the_same_repeats(taken: list[list[int]], at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side_module, "REMEMBERED", 14)
        patch.setattr(remembered_module, "TICK", 4)
        lane, stored, restored = SideMemory(), list[bytes](), None
        lane.lane.restore(None, [])
        for number, ids in enumerate(taken):
            if number == at:
                restored = SideMemory()
                restored.rows.restore(lane.rows.snapshot())
                restored.offset = lane.offset
                restored.lane.restore(LaneRecord(next_offset=lane.offset, mark=lane.lane.ids.key), stored)
            made = await lane.take(ids)
            if restored is not None:
                assert await restored.take(ids) == made
                assert restored.rows.snapshot() == lane.rows.snapshot()
            entries, drop = made
            assert drop <= len(stored)
            stored = (stored + entries)[drop:]
