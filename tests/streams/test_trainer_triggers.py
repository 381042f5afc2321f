"""Which requests lead to a job: cooldown, repeats and the schedule."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.streams.trainer_fakes import DAY, NOW, World, asked, request, spec
from weir.online.errors import TaskError
from weir.streams.trainer.state_journal import MemoryJournal
from weir.streams.trainer.task_state import TaskState, encode
from weir.streams.trainer.triggers import check_schedule, consider, due, scheduled

MONDAY = 1_709_521_200.0
"""2024-03-04 03:00 UTC."""


def test_the_cooldown_holds_for_all_but_the_schedule_and_who_insists() -> None:
    state = consider(TaskState("fraud"), asked(1, NOW), 3600).state
    state = msgspec.structs.replace(state, pending=None)
    answers = [
        consider(state, asked(2, NOW + 3599, "drift"), 3600).answer,
        consider(state, asked(3, NOW + 3599, "volume"), 3600).answer,
        consider(state, asked(4, NOW + 3600, "drift"), 3600).answer,
        consider(state, asked(5, NOW + 1, "manual"), 3600).answer,
        consider(state, msgspec.structs.replace(asked(7, NOW + 1, "manual"), forced=True), 3600).answer,
        consider(state, asked(6, NOW + 1, "schedule"), 3600).answer,
    ]
    assert answers == ["too soon", "too soon", "accepted", "too soon", "accepted", "accepted"]
    said = consider(state, asked(2, NOW + 60, "drift"), 3600).words
    assert said == "drift asks 1m after the last request that was accepted; the cooldown is 1h"


def test_a_request_that_is_dated_far_ahead_does_not_hold_off_those_to_come(tmp_path: Path) -> None:
    world = World(tmp_path)
    cooldown = world.trainer.spec.retrain.cooldown
    assert world.trainer.ask(request(1, NOW + 3650 * DAY, "manual"), NOW).answer == "accepted"
    assert world.trainer.state.accepted_at == NOW
    assert world.trainer.ask(request(2, NOW + cooldown - 1.0), NOW + cooldown).answer == "too soon"
    assert world.trainer.ask(request(3, NOW + cooldown), NOW + cooldown).answer == "waits"


def test_a_request_that_is_repeated_is_known_also_when_it_was_refused() -> None:
    state = consider(TaskState("fraud"), asked(1, NOW), 3600).state
    state = consider(state, asked(2, NOW + 1), 3600).state
    assert consider(state, asked(1, NOW), 3600).answer == "repeat"
    assert consider(state, asked(2, NOW + 1), 3600).answer == "repeat"


def test_the_memory_of_requests_is_bounded() -> None:
    state = TaskState("fraud")
    for number in range(1000):
        state = consider(state, asked(number, NOW, "manual"), 0).state
    assert len(state.seen) == 256
    assert len(encode(state)) < 10_000


def test_the_schedule_asks_once_a_turn_and_once_for_all_turns_it_missed() -> None:
    weekly = "0 3 * * 1"
    assert due(weekly, MONDAY - 1, MONDAY - 0.5) is None
    assert due(weekly, MONDAY - 1, MONDAY) == MONDAY
    assert due(weekly, MONDAY, MONDAY + 6.9 * DAY) is None
    assert due(weekly, MONDAY, MONDAY + 30 * DAY) == MONDAY + 28 * DAY
    state, first = scheduled(TaskState("fraud"), weekly, MONDAY + 60)
    assert first is None, "a task that is seen for the first time waits for its turn"
    state, nothing = scheduled(state, weekly, MONDAY + DAY)
    state, turn = scheduled(state, weekly, MONDAY + 7 * DAY + 5)
    assert nothing is None
    assert turn is not None
    assert (turn.cause, turn.requested_at) == ("schedule", MONDAY + 7 * DAY)
    _, other = scheduled(TaskState("fraud", scheduled_at=MONDAY + DAY), weekly, MONDAY + 7 * DAY + 9)
    assert other is not None
    assert other.request_id == turn.request_id, "two trainers that look at about the same time ask once"


@pytest.mark.parametrize("schedule", ["daily", "0 3 * *", "0 25 * * *", "* * * * * *", ""])
def test_a_schedule_that_is_none_is_refused(schedule: str) -> None:
    with pytest.raises(TaskError, match="no cron expression"):
        check_schedule(schedule)
    check_schedule("*/15 2-4 * * mon-fri")


def test_a_schedule_leads_to_a_job(tmp_path: Path) -> None:
    world = World(tmp_path, task=spec('schedule = "0 3 * * *"\n'))
    world.clock.now = MONDAY - 100
    assert world.trainer.tick() is None
    world.clock.now = MONDAY + 1
    found = world.trainer.tick()
    assert found is not None
    assert found.answer == "accepted"
    assert world.trainer.tick() is None
    world.job.work()
    assert world.shelf.shadows == 1


@pytest.mark.parametrize("after", [False, True])
def test_a_turn_of_the_schedule_is_asked_for_where_the_journal_goes_away_meanwhile(tmp_path: Path, after: bool) -> None:
    class Away(MemoryJournal):
        left = 10

        def append(self, task: str, number: int, document: bytes) -> bool:
            self.left -= 1
            made = super().append(task, number, document) if self.left or after else False
            if not self.left:
                raise OSError("the share is not mounted")
            return made

    journal = Away()
    world = World(tmp_path, task=spec('schedule = "0 3 * * *"\n'), journal=journal)
    assert world.trainer.tick() is None
    world.clock.now += DAY
    for left in (1, 2):
        journal.left = left
        with suppress(OSError):
            world.trainer.tick()
    journal.left = 10
    world.restart()
    world.trainer.tick()
    assert world.trainer.state.pending is not None
    assert world.trainer.state.pending.cause == "schedule"
