"""Trainings in processes of their own: the same model as here, and however one ends, the trainer goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.streams.trainer_fakes import DAY, NOW, SkillBuilder, World, spec, training_data
from weir.models.errors import ModelError
from weir.models.types import TrainingStoppedError
from weir.online.task.full_spec import FullSpec
from weir.streams.errors import UsageError
from weir.streams.trainer.job.job_runner import InlineRunner, SubprocessRunner
from weir.streams.trainer.job.job_stages import PATIENT_S, TRIES
from weir.streams.trainer.job.job_steps import BuildWork, get, own_directory, put
from weir.streams.trainer.trainer_errors import WorkDiedError


def build(tmp_path: Path, mood: str, skill: float = 2.0) -> BuildWork:
    put(tmp_path / "data.pkl", training_data(spec(), NOW, 200))
    return BuildWork(SkillBuilder(skill, mood=mood), FullSpec(), tmp_path / "data.pkl", 1, None, tmp_path / "out.built")


def silent(what: str, done: int, of: int) -> None:
    pass


def test_a_training_in_a_process_of_its_own_gives_the_same_as_here(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    SubprocessRunner().run(
        build(tmp_path, "well"), tmp_path / "apart", lambda: False, lambda *a: told.append(a)
    )  # fmt: skip
    apart = get(tmp_path / "out.built")
    InlineRunner().run(build(tmp_path, "well"), tmp_path / "here", lambda: False, silent)
    assert apart == get(tmp_path / "out.built")
    assert told == [("trees", 1, 1)]


def test_a_training_that_is_killed_does_not_take_the_trainer_with_it(tmp_path: Path) -> None:
    with pytest.raises(WorkDiedError, match="was killed: see whether the machine ran out of memory"):
        SubprocessRunner().run(build(tmp_path, "killed"), tmp_path / "k", lambda: False, silent)


def test_what_a_training_says_of_its_failure_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="labels are all alike"):
        SubprocessRunner().run(build(tmp_path, "badly"), tmp_path / "b", lambda: False, silent)


def test_a_training_that_finds_no_room_says_so_though_it_can_write_nothing_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "full"
    with pytest.raises(OSError, match=r"No space left on device.*checkpoint"):
        SubprocessRunner().run(build(tmp_path, "full"), folder, lambda: False, silent)
    assert not (folder / "error.txt").exists(), "the disk is full"


def test_a_job_waits_for_room_and_then_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path, builders={"trees": SkillBuilder(2.0, mood="full")})
    world.ask(1)
    for _ in range(2 * TRIES):
        assert world.job.work(), "it is to be tried again"
    job = world.trainer.state.job
    assert job is not None
    assert (job.stage, job.tries) == ("data", 0)
    assert "No space left on device" in job.reason
    world.builders["trees"] = SkillBuilder(2.0)
    world.restart()
    world.job.work()
    assert world.shelf.shadows == 1


def test_a_training_that_is_stopped_writes_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    with pytest.raises(TrainingStoppedError, match="stopped at a checkpoint"):
        SubprocessRunner().run(build(tmp_path, "forever"), folder, lambda: (folder / "began").exists(), silent)
    assert (folder / "checkpoint").exists()


def test_a_killed_training_fails_its_job_and_a_stopped_one_goes_on_later(tmp_path: Path) -> None:
    class Dies(InlineRunner):
        def run(self, *args: Any) -> Any:
            if isinstance(args[0], BuildWork):
                raise WorkDiedError("its process was killed")
            return super().run(*args)

    world = World(tmp_path, runner=Dies())
    world.ask(1)
    world.job.work()
    assert world.stages() == ["failed"]
    assert "was killed" in world.trainer.state.ended[-1].reason

    class Stops(InlineRunner):
        def run(self, *args: Any) -> Any:
            if isinstance(args[0], BuildWork) and not world.stop:
                world.stop = True
                raise TrainingStoppedError("at a checkpoint")
            return super().run(*args)

    world.builders["trees"], world.runner = SkillBuilder(2.0), Stops()
    world.restart()
    world.ask(2, NOW + DAY)
    with pytest.raises(TrainingStoppedError):
        world.job.work()
    job = world.trainer.state.job
    assert job is not None
    assert (job.stage, job.tries) == ("data", 0)
    world.runner, world.stop = InlineRunner(), False
    world.restart()
    world.job.work()
    assert world.shelf.shadows == 1
    assert world.trainer.state.jobs == 2


def test_a_stage_that_never_ends_is_given_up(tmp_path: Path) -> None:
    class Away(InlineRunner):
        def run(self, *args: Any) -> Any:
            raise OSError("the disk is away")

    world = World(tmp_path, runner=Away())
    world.ask(1)
    for _ in range(10):
        world.job.work()
    assert world.stages() == [], "brokers and disks come back"
    world.clock.now += PATIENT_S + 1.0
    for _ in range(4):
        world.job.work()
    assert world.stages() == ["failed"]
    assert "begun 3 times and never ended: OSError: the disk is away" in world.trainer.state.ended[-1].reason


def test_what_lies_in_the_work_of_a_trainer_is_its_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir(mode=0o755)
    assert own_directory(work).stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("os.geteuid", lambda: work.stat().st_uid + 1)
    with pytest.raises(UsageError, match="belongs to another user"):
        own_directory(work)
