"""The stages of versions, on every storage: who serves, who served before, and moves that make no sense."""

from __future__ import annotations

import pytest

from tests.models.registering import register
from weir.models.errors import ModelError, StageConflictError
from weir.models.registry.registry import Registry
from weir.models.registry.stages import move


def test_the_life_of_two_versions(registry: Registry) -> None:
    register(registry), register(registry)
    assert registry.stages("fraud").of(1) == "candidate"
    registry.set_stage("fraud", 1, "champion", at=1.0)
    registry.set_stage("fraud", 2, "shadow", at=2.0)
    assert (registry.champion("fraud"), registry.stages("fraud").shadow) == (1, 2)
    stages = registry.set_stage("fraud", 2, "champion", at=3.0, why="better")
    assert (stages.champion, stages.shadow, stages.of(1)) == (2, None, "archived")
    stages = registry.rollback("fraud", at=4.0, why="worse")
    assert (stages.champion, stages.of(2), stages) == (1, "archived", registry.stages("fraud"))
    assert [(e.action, e.version, e.at, e.why) for e in registry.history("fraud")] == [
        ("promote", 1, 1.0, ""), ("shadow", 2, 2.0, ""), ("promote", 2, 3.0, "better"), ("rollback", 1, 4.0, "worse"),
    ]  # fmt: skip


def test_a_rollback_goes_back_champion_by_champion(registry: Registry) -> None:
    for version in (1, 2, 3):
        assert register(registry) == version
        registry.set_stage("fraud", version, "champion", at=1.0)
    assert registry.rollback("fraud", at=2.0).champion == 2
    assert registry.rollback("fraud", at=3.0).champion == 1
    with pytest.raises(ModelError, match="fraud: no champion served before this one; promote a version instead"):
        registry.rollback("fraud", at=4.0)
    assert registry.set_stage("fraud", 3, "champion", at=5.0).champion == 3, "an archived one may serve again"


def test_what_was_retired_is_not_rolled_back_to(registry: Registry) -> None:
    for version in (1, 2, 3, 4):
        assert register(registry) == version
        registry.set_stage("fraud", version, "champion", at=1.0)
    seq = registry.set_stage("fraud", 3, "archived", at=2.0).seq  # where it is already, as a champion of before
    assert registry.set_stage("fraud", 3, "archived", at=3.0).seq == seq, "a second time says nothing new"
    with pytest.raises(ModelError, match="v3 was retired since it served; name one that can be rolled back to: v2, v1"):
        registry.rollback("fraud", at=4.0)
    with pytest.raises(ModelError, match="v9 did not serve before; name one that can be rolled back to: v2, v1, or"):
        registry.rollback("fraud", to=9, at=4.0)
    stages = registry.rollback("fraud", to=2, at=5.0)
    assert (stages.champion, stages.previous, stages.of(4)) == (2, (1,), "archived")
    registry.set_stage("fraud", 1, "shadow", at=6.0), registry.set_stage("fraud", 1, "archived", at=7.0)
    with pytest.raises(ModelError, match="v1 was retired since it served; none is left to roll back to, or promote"):
        registry.rollback("fraud", at=8.0)
    registry.set_stage("fraud", 1, "champion", at=9.0), registry.set_stage("fraud", 2, "champion", at=10.0)
    assert registry.rollback("fraud", at=11.0).champion == 1, "a promotion ends the retirement"


def test_a_stage_that_is_there_already_makes_no_entry(registry: Registry) -> None:
    register(registry)
    first = registry.set_stage("fraud", 1, "champion", at=1.0)
    assert registry.set_stage("fraud", 1, "champion", at=2.0) == first
    assert len(registry.history("fraud")) == 1


def test_retiring_leaves_nothing_behind(registry: Registry) -> None:
    register(registry), register(registry), register(registry)
    registry.set_stage("fraud", 1, "champion", at=1.0)
    registry.set_stage("fraud", 2, "shadow", at=1.0)
    stages = registry.set_stage("fraud", 2, "archived", at=2.0)
    assert (stages.champion, stages.shadow, stages.of(2)) == (1, None, "archived")
    assert registry.set_stage("fraud", 3, "archived", at=2.0).of(3) == "archived", "a candidate that failed its gate"
    assert registry.set_stage("fraud", 1, "archived", at=3.0).champion is None


def test_moves_that_make_no_sense(registry: Registry) -> None:
    register(registry)
    registry.set_stage("fraud", 1, "champion", at=1.0)
    with pytest.raises(ModelError, match="fraud v1 serves; promote or roll back to another version"):
        registry.set_stage("fraud", 1, "shadow", at=2.0)
    with pytest.raises(ModelError, match="no version becomes a candidate again"):
        registry.set_stage("fraud", 1, "candidate", at=2.0)
    with pytest.raises(ModelError, match="v3 did not serve before"):
        move(registry.stages("fraud"), "rollback", 3, "fraud")


def test_who_decided_on_old_stages_is_told(registry: Registry) -> None:
    register(registry), register(registry)
    seen = registry.stages("fraud").seq
    registry.set_stage("fraud", 1, "champion", at=1.0, expect=seen)
    with pytest.raises(StageConflictError, match=r"the stages changed meanwhile \(entry 1 after 0; champion now 1"):
        registry.set_stage("fraud", 2, "champion", at=1.0, expect=seen)
    assert registry.set_stage("fraud", 2, "champion", at=1.0, expect=seen + 1).champion == 2
