"""A bench takes a task while there is something to do for it, and outlives a registry that is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.streams.trainer_fakes import Clock, FakeShelf, World, fake_score, request, training_data
from weir.models.errors import ModelError, RegistryError
from weir.streams.errors import BrokerError
from weir.streams.trainer.job.job_files import JobWorkshop
from weir.streams.trainer.state_journal import MemoryJournal
from weir.streams.trainer.task_supervisor import TaskSupervisor
from weir.streams.trainer.trainer_errors import LeaseLostError


def bench(world: World, shelf: Any = None, data: Any = training_data) -> TaskSupervisor:
    shop = JobWorkshop(data, dict(world.builders), None, fake_score, world.runner, world.tmp / "work")
    return TaskSupervisor(
        world.task, world.journal, shelf or world.shelf, shop, world.updates.append,
        owner="bench", lease_s=30.0, clock=world.clock,
    )  # fmt: skip


def test_a_bench_takes_a_task_when_there_is_something_to_do_and_gives_it_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.trainer.desk.release()
    ours = bench(world)
    ours.beat()
    assert not ours.held
    ours.trainer.ask(request(1))
    ours.beat()
    assert (ours.held, ours.has_work, ours.state.owner) == (True, True, "bench")
    ours.work()
    assert not ours.has_work, "it waits for labels"
    world.trainer.desk.reload()
    assert not world.trainer.desk.claim()
    for _ in range(10):
        ours.give(world.rows(20), world.events)
    ours.beat()
    assert world.shelf.serves == 1
    assert (ours.held, ours.state.owner) == (False, "")


def test_a_bench_outlives_a_registry_that_is_away(tmp_path: Path) -> None:
    class Away(FakeShelf):
        away = False

        def champion(self, task: str) -> int:
            if self.away:
                raise RegistryError("s3://models: no answer")
            return super().champion(task)

        def tell(self, *about: Any) -> Any:
            if self.away:
                raise RegistryError("s3://models: no answer")
            return super().tell(*about)

    world, shelf = World(tmp_path), Away()
    world.trainer.desk.release()
    world.shelf = shelf
    ours = bench(world)
    ours.trainer.ask(request(1))
    ours.beat()
    ours.work()
    rows = world.rows(200)
    shelf.away = True
    ours.give(rows, world.events)
    ours.beat()
    assert [effect.action for effect in ours.state.effects] == ["promote"], "decided, and still to be told"
    shelf.away = False
    ours.beat()
    ours.work()
    assert shelf.told == [("shadow", 1), ("promote", 1)]


def test_a_job_that_lacks_a_link_waits_for_the_next_beat(tmp_path: Path) -> None:
    """Its thread ends at once and wakes the host; each time that it fails again it waits for twice as many."""

    tried = 0

    def away(*_: Any) -> Any:
        nonlocal tried
        tried += 1
        raise BrokerError("k:9092: no answer")

    world = World(tmp_path)
    world.trainer.desk.release()
    ours = bench(world, data=away)
    ours.trainer.ask(request(1))
    after = []
    for _ in range(300):
        ours.beat()
        for _ in range(5):
            ours.start()
            ours.join()
        after.append(tried)
    assert ours.state.job is not None
    assert (ours.state.job.stage, ours.state.job.tries) == ("accepted", 0)
    begun = [1 + after.index(n) for n in range(1, tried + 1)]
    assert begun == [1, 2, 4, 8, 16, 32, 64, 128, 256], "by the number of the beat"


def test_a_bench_that_cannot_give_its_task_back_stops_all_the_same(tmp_path: Path) -> None:
    class Away(MemoryJournal):
        away = False

        def append(self, task: str, number: int, document: bytes) -> bool:
            if self.away:
                raise OSError("the share is not mounted")
            return super().append(task, number, document)

    journal = Away()
    world = World(tmp_path, journal=journal)
    world.trainer.desk.release()
    ours = bench(world)
    ours.trainer.ask(request(1))
    ours.beat()
    assert ours.held
    journal.away = True
    ours.stop()
    journal.away = False
    ours.start()
    assert not ours.working, "no job begins any more"


def test_a_job_that_ends_in_an_error_nobody_expected_waits_for_the_next_beat_too(tmp_path: Path) -> None:
    """Such as a version that somebody deleted before it was told."""

    class Gone(FakeShelf):
        tried = 0

        def tell(self, *_: Any) -> Any:
            self.tried += 1
            raise ModelError("fraud v1: no such version")

    world, shelf = World(tmp_path), Gone()
    world.trainer.desk.release()
    ours = bench(world, shelf)
    ours.trainer.ask(request(1))
    ours.beat()
    with pytest.raises(ModelError):
        ours.work()
    ours.start()
    ours.join()
    assert shelf.tried == 1
    ours.beat()
    with pytest.raises(ModelError):
        ours.work()
    assert shelf.tried == 2


def test_a_sign_of_life_is_one_entry_of_the_journal_whatever_it_notes(tmp_path: Path) -> None:
    class Counted(MemoryJournal):
        made = 0

        def append(self, task: str, number: int, document: bytes) -> bool:
            self.made += 1
            return super().append(task, number, document)

    class Ticking(Clock):
        def __call__(self) -> float:
            self.now += 0.001
            return self.now

    journal = Counted()
    world = World(tmp_path, journal=journal, clock=Ticking())
    world.ask(1)
    world.job.work()
    for rows in (20, 0, 40):
        before, world.clock.now = journal.made, world.clock.now + 5.0
        world.trainer.take(world.rows(rows), world.events)
        world.trainer.checkpoint()
        assert journal.made == before + 1
        assert world.trainer.state.lease_until == pytest.approx(world.clock.now + 30.0, abs=0.1)
    assert world.trainer.state.phase is not None
    assert len(world.trainer.state.phase.y) == 60


def test_what_another_trainer_works_at_is_not_awaited(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.trainer.desk.release()
    shop = JobWorkshop(training_data, {}, None, fake_score, world.runner, tmp_path)
    one, other = bench(world), TaskSupervisor(
        world.task, world.journal, world.shelf, shop, world.updates.append,
        owner="other", lease_s=30.0, clock=world.clock,
    )  # fmt: skip
    one.trainer.ask(request(1))
    assert one.awaited
    one.beat()
    other.beat()
    assert (one.held, other.held) == (True, False)
    assert (one.awaited, other.awaited) == (False, False)
    world.clock.now += 31.0
    other.beat()
    assert other.held, "its lease ran out"


def test_a_trainer_whose_clock_is_ahead_is_followed_after_its_lease_when_it_dies(tmp_path: Path) -> None:
    journal, shelf = MemoryJournal(), FakeShelf()
    ahead = World(tmp_path / "1", journal=journal, shelf=shelf, owner="ahead")
    ahead.trainer.desk.release()
    ahead.clock.now += 7_200.0
    assert ahead.trainer.desk.claim()
    ahead.ask(1)
    other = World(tmp_path / "2", journal=journal, shelf=shelf, owner="other")
    for _ in range(3):  # its signs of life count, whatever time they say
        other.clock.now += 20.0
        ahead.clock.now += 20.0
        ahead.trainer.desk.beat()
        assert not other.trainer.desk.claim()
    other.trainer.ask(request(2), other.clock.now)  # a request is no sign of life of who holds the lease
    other.clock.now += 20.0
    assert not other.trainer.desk.claim()
    other.clock.now += 11.0
    assert other.trainer.desk.claim(), "by its own clock it would have two hours yet"
    with pytest.raises(LeaseLostError):
        ahead.job.work()
    other.job.work()
    assert shelf.told == [("shadow", 1)]
