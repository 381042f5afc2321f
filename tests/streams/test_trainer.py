"""The trainer's core among fakes: what leads to a job, how it survives crashes, who is promoted and who rolled back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.streams.trainer_fakes import DAY, NOW, FakeShelf, SkillBuilder, World, spec
from weir.models.registry.registry import open_files
from weir.models.types import Built
from weir.online.codec.wire import ModelUpdate
from weir.streams.trainer.job import job_files
from weir.streams.trainer.job.live_examples import LiveRows
from weir.streams.trainer.leased_state import Change
from weir.streams.trainer.state_journal import FilesJournal, MemoryJournal
from weir.streams.trainer.task_state import Effect, Stage, TaskState
from weir.streams.trainer.trainer_errors import LeaseLostError

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "weir.streams.trainer")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Killed(BaseException):
    """As ``kill -9``: nothing of the trainer's own code runs any more."""


def test_a_request_leads_to_a_champion(world: World) -> None:
    assert world.ask(1) == "accepted"
    world.job.work()
    assert world.trainer.state.job is not None
    assert world.trainer.state.job.stage == "shadowing"
    assert (world.shelf.serves, world.shelf.shadows) == (0, 1)
    world.live(180)
    assert world.shelf.serves == 0, "the shadow has not seen its 200 labels yet"
    world.live(20)
    assert world.shelf.serves == 1
    assert world.stages() == ["promoted"]
    assert [(u.action, u.version) for u in world.updates] == [("shadow", "1"), ("promote", "1")]
    assert not world.trainer.state.busy
    assert not list((world.tmp / "work" / "fraud").iterdir()), "a job leaves nothing behind"


def test_a_better_candidate_replaces_the_champion_which_is_then_let_go(world: World) -> None:
    world.promoted(1.0)
    world.builders["trees"] = SkillBuilder(2.5)
    world.restart()
    world.ask(2, world.clock.now)
    world.job.work()
    world.live(400)
    assert world.shelf.serves == 2
    assert world.shelf.told[2:] == [("shadow", 2), ("promote", 2), ("retire", 1)]
    assert not world.trainer.state.busy


def test_a_candidate_that_is_worse_on_the_newest_labels_is_rejected(world: World) -> None:
    world.promoted(2.5)
    world.builders["trees"] = SkillBuilder(0.5)
    world.restart()
    world.ask(2, world.clock.now)
    world.job.work()
    assert world.stages() == ["promoted", "rejected"]
    assert "worse" in world.trainer.state.ended[-1].reason
    assert world.shelf.told[2:] == []
    assert world.shelf.serves == 1


@pytest.mark.parametrize("live", [-1.0, 0.0, 0.5, 1.0])
def test_a_candidate_that_is_worse_on_purpose_is_never_promoted(world: World, live: float) -> None:
    """It looks better on the newest labelled window, and is worse on live events."""
    world.promoted(2.0)
    world.builders["trees"] = SkillBuilder(3.0)
    world.drop[2] = live
    world.restart()
    world.ask(2, world.clock.now)
    world.job.work()
    assert world.shelf.shadows == 2
    world.live(400)
    assert world.shelf.serves == 1
    assert world.stages()[-1] == "retired"
    assert world.shelf.told[2:] == [("shadow", 2), ("retire", 2)]


def test_a_champion_that_becomes_worse_after_its_promotion_is_rolled_back(world: World) -> None:
    world.promoted(2.0)
    world.builders["trees"] = SkillBuilder(3.0)
    world.restart()
    world.ask(2, world.clock.now)
    world.job.work()
    world.live(200)
    assert (world.shelf.serves, world.shelf.shadows) == (2, 1)
    world.drop[2] = 0.5
    world.live(200)
    assert world.shelf.serves == 1
    assert world.shelf.told[-1] == ("rollback", 1)
    assert world.stages()[-1] == "rolled back"
    assert not world.trainer.state.busy


def test_an_equal_champion_is_not_rolled_back(world: World) -> None:
    world.promoted(2.0)
    world.builders["trees"] = SkillBuilder(2.6)
    world.restart()
    world.ask(2, world.clock.now)
    world.job.work()
    world.live(200)
    world.drop[2] = 2.0
    world.live(200)
    assert world.shelf.serves == 2
    assert world.shelf.told[-1] == ("retire", 1)


@pytest.mark.parametrize(("mood", "says"), [("badly", "labels are all alike"), ("bug", "ZeroDivisionError")])
def test_a_failed_job_leaves_the_champion_and_says_why(world: World, mood: str, says: str) -> None:
    world.promoted(1.0)
    world.builders["trees"] = SkillBuilder(3.0, mood=mood)
    world.restart()
    world.ask(2, world.clock.now)
    world.job.work()
    assert world.stages()[-1] == "failed"
    assert says in world.trainer.state.ended[-1].reason
    assert world.shelf.serves == 1
    assert not world.trainer.state.busy
    world.builders["trees"] = SkillBuilder(3.0)
    world.restart()
    assert world.ask(3, world.clock.now + 7200) == "accepted", "the next request is taken"


def test_the_best_of_several_candidates_is_proposed_and_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    task = spec()
    full = task.full
    assert full is not None
    both = full.model_copy(update={"training": full.training.model_copy(update={"candidates": ("encoder", "trees")})})
    task = task.model_copy(update={"full": both})
    good = {"encoder": SkillBuilder(1.0, "encoder"), "trees": SkillBuilder(2.0)}
    world = World(tmp_path / "a", task=task, builders=good)
    world.ask(1)
    world.job.work()
    assert world.trainer.state.job is not None
    assert world.trainer.state.job.chosen == "blend"
    world = World(tmp_path / "b", task=task, builders=good | {"encoder": SkillBuilder(9.0, "encoder", "badly")})
    world.ask(1)
    world.job.work()
    assert world.trainer.state.job is not None
    assert world.trainer.state.job.chosen == "trees"
    assert "all alike" in world.trainer.state.job.built["encoder"]


def test_requests_wait_for_the_job_under_way_and_are_one_when_its_turn_comes(world: World) -> None:
    assert world.ask(1) == "accepted"
    world.job.work()
    assert [world.ask(n, NOW + 7200 * n) for n in (2, 3, 3)] == ["waits", "waits", "repeat"]
    world.live(200)
    assert world.trainer.state.jobs == 1
    world.job.work()
    assert world.trainer.state.jobs == 2
    assert world.trainer.state.job is not None
    assert world.trainer.state.job.asked.request_id == "r3"


def test_the_registry_notes_the_reason_of_each_move_also_where_another_job_ended_meanwhile(tmp_path: Path) -> None:
    class Noted(FakeShelf):
        def tell(self, task: str, effect: Effect, why: str) -> ModelUpdate:
            noted.append((effect.action, effect.version, why.partition(":")[0]))
            return super().tell(task, effect, why)

    noted: list[tuple[str, int, str]] = []
    world = World(tmp_path, shelf=Noted())
    world.promoted(1.0)
    for number, skill in ((8, 2.0), (9, -2.0)):
        world.builders["trees"] = SkillBuilder(skill)
        world.restart()
        world.ask(number, world.clock.now + number * DAY)
        world.job.work()
        world.live(220)  # promoted, and watched
    assert world.stages() == ["promoted", "promoted", "rejected"]
    assert noted == [
        ("shadow", 1, ""), ("promote", 1, "version 1 beside none"),
        ("shadow", 2, ""), ("promote", 2, "version 2 beside 1"), ("retire", 1, "version 2 beside 1"),
    ]  # fmt: skip


def test_what_is_left_of_a_job_that_another_trainer_went_on_with_is_removed(world: World) -> None:
    left = world.tmp / "work" / "fraud" / "fraud-0"
    left.mkdir(parents=True)
    (left / "data.pkl").write_bytes(b"much")
    world.ask(1)
    world.job.work()
    assert world.trainer.state.job is not None
    assert world.trainer.state.job.stage == "shadowing"
    assert [*left.parent.iterdir()] == []


@pytest.mark.parametrize("stage", ["data", "trained", "gated"])
def test_a_job_that_other_code_began_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """An upgrade while a job is at a stage: the data set and all candidates that are judged are of the new code."""
    world = World(tmp_path)
    monkeypatch.setattr(job_files, "code_version", lambda: "1+src.old")
    noted, reached = world.trainer.desk.change, list[str]()

    def stopping(change: Change, *, free: bool = False) -> TaskState:
        after = noted(change, free=free)
        reached.append(after.job.stage if after.job is not None else "")
        world.stop = stage in reached
        return after

    world.trainer.desk.change = stopping  # type: ignore[method-assign]
    world.ask(1)
    world.job.work()
    assert world.trainer.state.job is not None
    assert world.trainer.state.job.stage == stage
    monkeypatch.setattr(job_files, "code_version", lambda: "2+src.new")
    world.builders, world.stop = {"trees": SkillBuilder(2.5)}, False
    world.restart()
    world.job.work()
    assert world.trainer.state.job.stage == "shadowing"
    assert world.shelf.built("fraud", world.trainer.state.job.version).onnx == b"2.5", "what the new code builds"


def test_two_trainers_race_for_one_request(tmp_path: Path) -> None:
    journal, shelf = FilesJournal(open_files(str(tmp_path / "registry"))), FakeShelf()
    one = World(tmp_path / "1", journal=journal, shelf=shelf, owner="one")
    two = World(tmp_path / "2", journal=journal, shelf=shelf, owner="two")
    assert {one.ask(1), two.ask(1)} == {"accepted", "repeat"}
    holders = [world for world in (two, one) if world.trainer.desk.claim()]
    assert len(holders) == 1
    holders[0].job.work()
    other = two if holders[0] is one else one
    other.trainer.desk.reload()
    with pytest.raises(LeaseLostError):
        other.trainer.checkpoint()
    assert shelf.told == [("shadow", 1)]
    assert len(shelf.models) == 1


def test_a_trainer_that_slept_through_its_lease_has_no_effect(tmp_path: Path) -> None:
    journal, shelf = MemoryJournal(), FakeShelf()
    sleeper = World(tmp_path / "1", journal=journal, shelf=shelf, owner="sleeper")
    sleeper.ask(1)
    other = World(tmp_path / "2", journal=journal, shelf=shelf, owner="other", clock=sleeper.clock)
    assert not other.trainer.desk.claim()
    sleeper.clock.now += 31.0
    assert other.trainer.desk.claim()
    with pytest.raises(LeaseLostError, match="other has taken it over from sleeper"):
        sleeper.job.work()
    other.job.work()
    assert shelf.told == [("shadow", 1)]


class Tripwire:
    """A journal, and whatever else can be seen from outside, that kills its trainer at the n-th thing."""

    def __init__(self, at: int = 0, after: bool = False) -> None:
        self.inner, self.seen, self.at, self.after = MemoryJournal(), 0, at, after

    def newest(self, task: str) -> tuple[int, bytes] | None:
        return self.inner.newest(task)

    def append(self, task: str, number: int, document: bytes) -> bool:
        return self.trip(lambda: self.inner.append(task, number, document))

    def trip(self, act: Callable[[], bool]) -> bool:
        self.seen += 1
        if self.seen == self.at and not self.after:
            raise Killed
        done = act()
        if self.seen == self.at:
            raise Killed
        return done


class Trapped(World):
    """A world whose trainer is killed once, and started again."""

    def __init__(self, tmp: Path, wire: Tripwire) -> None:
        shelf = FakeShelf([("before", Built("trees", b"1.0", ("truth",)))], serves=1)
        super().__init__(tmp, journal=wire, shelf=shelf, builders={"trees": SkillBuilder(2.5)})
        tell, register, publish = shelf.tell, shelf.register, self.updates.append
        self.wire = wire
        shelf.tell = lambda *a: self.seen(lambda: tell(*a))  # type: ignore[method-assign]
        shelf.register = lambda *a: self.seen(lambda: register(*a))  # type: ignore[method-assign]
        self.trainer._publish = self.publish = lambda update: self.seen(lambda: publish(update))

    def seen(self, act: Callable[[], T]) -> T:
        found: list[T] = []

        def once() -> bool:
            found.append(act())
            return True

        self.wire.trip(once)
        return found[0]

    def survive(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Killed:
            self.restart()
            self.trainer._publish = self.publish
            step()

    def scenario(self) -> None:
        """A candidate is better, is promoted, becomes worse and is rolled back."""
        self.survive(lambda: self.ask(1))
        self.survive(lambda: self.job.work())
        self.blocks(2)
        self.drop[2] = 0.2
        self.blocks(2)
        self.survive(lambda: self.trainer.tell())

    def blocks(self, n: int) -> None:
        for _ in range(n):
            self.clock.now += 60.0
            rows = self.rows(100)
            self.survive(lambda rows=rows: self.block(rows))  # type: ignore[misc]

    def block(self, rows: LiveRows) -> None:
        self.trainer.tell()
        self.trainer.take(rows, self.events)
        self.trainer.checkpoint()

    def outcome(self) -> tuple[object, ...]:
        told, state = list(dict.fromkeys(self.shelf.told)), self.trainer.state
        jobs = [(job.job_id, job.stage, job.version, job.chosen, job.verdict, job.reason) for job in state.ended]
        heard = list(dict.fromkeys((u.action, u.version) for u in self.updates))
        return told, heard, jobs, self.shelf.serves, self.shelf.shadows, len(self.shelf.models), state.busy


def test_a_trainer_killed_at_any_moment_ends_in_the_same_state(tmp_path: Path) -> None:
    """At every journal entry, registry move, registration and message: before it, and (now and then) right after it."""
    calm = Trapped(tmp_path / "calm", Tripwire())
    began = calm.wire.seen
    calm.scenario()
    expected = calm.outcome()
    assert calm.stages() == ["rolled back"]
    assert calm.shelf.told == [("shadow", 2), ("promote", 2), ("rollback", 1)]
    for at in range(began + 1, calm.wire.seen + 1):
        for after in (False, True) if at % 5 == 0 else (False,):
            world = Trapped(tmp_path / f"{at}{after}", Tripwire(at, after))
            world.scenario()
            assert world.outcome() == expected, f"killed {'after' if after else 'before'} moment {at}"
    assert calm.wire.seen - began > 25
