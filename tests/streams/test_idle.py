"""Time that passes without events: when, how far, and what a lane makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest
from faust.types import TP

from tests.streams.score_lanes import NOW, Lanes
from tests.streams.test_worker_scoring import SILENT, SPEND
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.records import Record
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.worker.idle import IdleTime
from weir.streams.worker.lanes.step_writer import PendingWrite

DAY = 86_400.0


@dataclass
class Timed:
    """A lane that notes what time it is told."""

    watermark: float
    live: bool = True
    active_at: float = 0.0
    next_due: float = 0.0
    told: list[float] = field(default_factory=list)

    def due(self, at: float) -> bool:
        return self.next_due <= at

    def pass_time(self, at: float) -> None:
        self.told.append(at)


@dataclass
class Worker:
    """As much of a worker as time needs; ``behind`` are partitions with more to read."""

    behind: set[int] = field(default_factory=set)
    settings: Settings = field(default_factory=Settings)

    @property
    def consumer(self) -> Worker:
        return self

    def at_end(self, tp: TP) -> bool:
        return tp.partition not in self.behind

    def now(self) -> float:
        return NOW


def look(at: float, *lanes: Timed, behind: set[int] | None = None) -> list[list[float]]:
    keyed: dict[Lane, Any] = {("user-events", i): lane for i, lane in enumerate(lanes)}
    idle = IdleTime(cast(Any, Worker(behind or set())), lambda: [keyed], lambda lane: [TP(*lane)])
    idle.look(at)
    return [lane.told for lane in lanes]


def test_a_lane_that_stands_still_takes_its_time_from_the_others() -> None:
    busy, still, recent = Timed(NOW - 60.0, active_at=100.0), Timed(NOW - DAY), Timed(NOW - DAY, active_at=95.0)
    assert look(100.0, busy, still, recent) == [[], [NOW - 60.0], []]


def test_where_all_stand_still_it_is_the_clocks_less_what_may_be_late() -> None:
    assert look(100.0, Timed(NOW - 3 * DAY), Timed(NOW - 2 * DAY)) == [[NOW - DAY], [NOW - DAY]]


def test_a_history_that_is_loaded_is_not_ended_by_the_clock() -> None:
    lanes = [Timed(NOW - 900 * DAY, live=False), Timed(NOW - 800 * DAY, live=False)]
    assert look(100.0, *lanes) == [[NOW - 800 * DAY], [NOW - 900 * DAY]]


def test_nothing_passes_where_more_is_to_be_read_or_nothing_is_due() -> None:
    waiting = Timed(NOW - DAY, next_due=NOW)
    assert look(100.0, Timed(NOW - 60.0), Timed(NOW - DAY), waiting, behind={1}) == [[NOW - DAY], [], []]


def test_no_lane_is_taken_past_the_clock() -> None:
    assert look(100.0, Timed(NOW + 1_800.0), Timed(NOW - DAY))[1] == [NOW]


# -- a score lane ------------------------------------------------------------------------------------------------------


def view(number: int, user: str, at: float) -> Record:
    event = {"v": 1, "event_id": f"e{number}", "type": "view", "user_id": user, "ts": at, "amount": 1.0}
    return Record(user.encode(), orjson.dumps(event), at)


async def taken(lanes: Lanes, records: list[Record], tick: float | None = None) -> PendingWrite:
    """Compute a batch, or let time pass, and take it as computed."""
    lane = lanes.lanes[0]
    if tick is None:
        batch = lanes.batch(0, records)
    else:
        lane.pass_time(tick)
        batch = lanes.scoring._waiting[lane].popleft()
    (step,) = await lanes.scoring.compute([(lane, batch)])
    assert isinstance(step, PendingWrite)
    lane.made(step)
    return step


async def test_silence_is_found_where_time_passes_without_events_and_nothing_is_late_by_it() -> None:
    """A user seen once: scored after a minute, silent after five; the offset stays, the watermark, too."""

    lanes = await Lanes([SPEND, SILENT], 1).open()
    lane, outbox = lanes.lanes[0], lanes.ctx.records
    first = await taken(lanes, [view(1, "a", NOW - 7_200.0)])
    assert not lane.due(NOW)  # its step is not written yet
    lane.writer.steps.clear()
    assert lane.due(NOW)
    step = await taken(lanes, [], NOW)
    assert (step.batch.base_offset, step.batch.next_offset, step.expected) == (1, 1, 1)
    (scored,) = [orjson.loads(r.value) for r in outbox.sent[topics.PREDICTIONS, 0] if b"silent" in r.value]
    assert scored["entity_id"] == "a"
    labels = [record for (topic, _), held in outbox.sent.items() if topic == topics.LABELS for record in held]
    (told,) = map(orjson.loads, [record.value for record in labels])
    assert (told["event_id"], told["value"]) == (f"a@{NOW - 7_200.0:.0f}", 1)
    assert not lane.stages[1].timers.due(NOW)  # type: ignore[union-attr] # it has some
    # An event of before that is scored all the same, and so is who is seen in it for the first time.
    late = await taken(lanes, [view(2, "b", NOW - 7_100.0)])
    assert (lane.intake.late, late.batch.next_offset) == (0, 2)
    assert lane.stages[1].timers.due(NOW)  # type: ignore[union-attr]
    entries = [*first.journal, *step.journal, *late.journal]
    again = await Lanes([SPEND, SILENT], 1).open()
    again.lanes[0].restore(None, entries)
    for stage, other in zip(lane.stages, again.lanes[0].stages, strict=True):
        held = stage.timers.snapshot() if stage.timers is not None else None
        assert held == (other.timers.snapshot() if other.timers is not None else None)


@pytest.mark.parametrize("started", [False, True])
async def test_a_lane_of_which_nothing_is_stored_has_nothing_due(started: bool) -> None:
    lanes = await Lanes([SILENT], 1).open()
    if started:
        await taken(lanes, [view(1, "a", NOW - 10.0)])
        lanes.lanes[0].writer.steps.clear()
    assert lanes.lanes[0].due(NOW + 60.0) is started


def test_what_is_wrong_with_one_lane_stops_the_time_of_no_other() -> None:
    class Broken(Timed):
        def due(self, at: float) -> bool:
            raise ZeroDivisionError(at)

    failed: list[tuple[Lane, Exception]] = []
    worker: Any = Worker()
    worker.fail = lambda key, error: failed.append((key, error))
    broken, still = Broken(NOW - DAY), Timed(NOW - DAY)
    busy = Timed(NOW - 60.0, active_at=100.0)
    keyed: dict[Lane, Any] = {("user-events", i): lane for i, lane in enumerate((broken, still, busy))}
    IdleTime(worker, lambda: [keyed], lambda lane: [TP(*lane)]).look(100.0)
    assert still.told == [NOW - 60.0]
    assert [(key, type(error)) for key, error in failed] == [(("user-events", 0), ZeroDivisionError)]
