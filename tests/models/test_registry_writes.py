"""Many writers and writers that die: of a race one wins, and a write cut anywhere is never served."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.graphs import candidate
from tests.models.registering import DATA, register
from weir.models.errors import ModelError, RegistryError, StageConflictError
from weir.models.manifest import ArtefactError
from weir.models.registry.registry import Registry
from weir.models.registry.stages import Stages, move

# --- races


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call ``work`` in as many threads, begun at one moment; results or errors."""
    barrier, found = threading.Barrier(count), [None] * count

    def one(i: int) -> None:
        barrier.wait()
        try:
            found[i] = work(i)
        except ModelError as exc:
            found[i] = exc  # type: ignore[call-overload]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_of_writers_at_one_moment_exactly_one_moves_the_stage(registry: Registry) -> None:
    for _ in range(4):
        register(registry)
    for round_ in range(5):
        seen = registry.stages("fraud")
        versions = [v for v in (1, 2, 3, 4) if v != seen.champion]

        def promote(i: int, versions: list[int] = versions, seq: int = seen.seq) -> Stages:
            return registry.set_stage("fraud", versions[i], "champion", at=1.0, expect=seq)

        found = together(3, promote)
        won = [f for f in found if isinstance(f, Stages)]
        assert len(won) == 1, found
        assert sum(isinstance(f, StageConflictError) for f in found) == 2
        assert registry.stages("fraud") == won[0]
        assert won[0].seq == round_ + 1


def test_writers_at_one_moment_get_a_number_each(registry: Registry) -> None:
    assert sorted(together(6, lambda i: register(registry, seed=i))) == [1, 2, 3, 4, 5, 6]
    assert {registry.load("fraud", v).manifest.seed for v in registry.versions("fraud")} == {0, 1, 2, 3, 4, 5}


def _race(url: str, seed: int, start: Any, results: Any) -> None:
    registry = Registry(url)
    start.wait()
    mine = [registry.register("fraud", candidate(seed), data=DATA, created_at=1.0).version for _ in range(5)]
    won = 0
    for version in mine:
        seen = registry.stages("fraud")
        try:
            won += registry.set_stage("fraud", version, "champion", at=1.0, expect=seen.seq).champion == version
        except StageConflictError:
            continue
    results.put((mine, won))


def test_processes_share_no_version_and_no_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    workers = [context.Process(target=_race, args=(str(tmp_path), i, start, results)) for i in range(2)]
    for worker in workers:
        worker.start()
    start.set()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    registry = Registry(str(tmp_path))
    assert sorted(v for mine, _ in found for v in mine) == list(range(1, 11))
    for seed, _ in enumerate(found):
        made = [v for v in registry.versions("fraud") if registry.load("fraud", v).manifest.seed == seed]
        assert len(made) == 5
    history = registry.history("fraud")
    assert [entry.stages.seq for entry in history] == list(range(1, len(history) + 1))
    assert len(history) == sum(won for _, won in found), "who was told that it won has an entry"
    folded = Stages()
    for entry in history:
        folded = move(folded, entry.action, entry.version, "fraud")
        assert folded == entry.stages


# --- cut writes


class CutError(Exception):
    """The writer died."""


def cut_after(registry: Registry, steps: int) -> None:
    """Let the storage of this registry die before its ``steps + 1``-th write."""
    files, left = registry._files, [steps]
    create = files.create

    def dying(path: str, data: bytes) -> None:
        if left[0] == 0:
            raise CutError
        left[0] -= 1
        create(path, data)

    files.create = dying  # type: ignore[method-assign]


def test_a_write_cut_at_any_step_is_never_usable_and_is_cleared_away(registry: Registry) -> None:
    register(registry)
    steps = 4  # claim, two files, manifest
    for cut in range(steps):
        dying = Registry(registry.url)
        cut_after(dying, cut)
        with pytest.raises(CutError):
            register(dying)
        assert registry.versions("fraud") == [1]
    for version in range(2, 1 + steps):  # the first cut came before any number was taken
        with pytest.raises(ArtefactError, match="incomplete, its writer has not finished"):
            registry.load("fraud", version)
        with pytest.raises(ArtefactError, match="incomplete"):
            registry.set_stage("fraud", version, "champion", at=1.0)
    assert registry.gc("fraud", now=1.7e9 + 60) == [], "they may still be at work"
    assert registry.gc("fraud", now=1.7e9 + 3_600) == [2, 3, 4]
    assert registry.gc("fraud", now=1.7e9 + 9_999) == []
    with pytest.raises(ArtefactError, match="abandoned by its writer"):
        registry.load("fraud", 3)
    assert register(registry) == 5, "numbers are not used again"
    assert registry.versions("fraud") == [1, 5]
    assert registry.load("fraud", 1)


def test_files_that_killed_writers_left_are_cleared_away_and_those_of_slow_ones_stay(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    register(registry), registry.set_stage("fraud", 1, "champion", at=1.0)
    left = [tmp_path / "fraud" / f"{at}.4711-140000000000.tmp" for at in ("1/.model.onnx", "stages/.00000002.json")]
    others = [tmp_path / "fraud/1/.nfs0001", tmp_path / "fraud/stages/.00000003.json.4712-140000000000.tmp"]
    for k, path in enumerate([*left, *others]):
        path.write_bytes(b"half")
        os.utime(path, (1.7e9, 1.7e9 + 9_000 * (k == 3)))
    registry.gc("fraud", now=1.7e9 + 9_000)
    assert [path.exists() for path in (*left, *others)] == [False, False, True, True]
    register(registry)  # who writes to a folder clears it up, too: there a day is waited
    registry.set_stage("fraud", 2, "shadow", at=2.0)
    assert [path.exists() for path in others] == [True, False]
    assert registry.load("fraud", 1)


def test_a_slow_writer_whose_version_was_cleared_away_fails_instead_of_leaving_half_of_one(registry: Registry) -> None:
    slow = Registry(registry.url)
    files = slow._files
    create = files.create

    def cleared_meanwhile(path: str, data: bytes) -> None:
        if path.endswith("manifest.json"):
            assert registry.gc("fraud", now=1.7e9 + 4_000) == [1]
        create(path, data)

    files.create = cleared_meanwhile  # type: ignore[method-assign]
    with pytest.raises(RegistryError, match="fraud v1 was cleared away as abandoned"):
        register(slow)
    assert registry.versions("fraud") == []


def test_a_move_cut_before_its_entry_changes_nothing(registry: Registry) -> None:
    register(registry)
    dying = Registry(registry.url)
    cut_after(dying, 0)
    with pytest.raises(CutError):
        dying.set_stage("fraud", 1, "champion", at=1.0)
    assert registry.stages("fraud") == Stages()
