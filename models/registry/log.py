"""The log of moves of a registry: ``<task>/stages/<seq>.json``, each made exclusively by one writer."""

from __future__ import annotations

import secrets

from pydantic import ValidationError

from weir.models.manifest import faults
from weir.models.registry.files import Files
from weir.models.registry.registry_errors import RegistryError, StageConflictError
from weir.models.registry.stages import Action, StageEntry, Stages, move

STAGES = "stages"


class StageLog:
    """Moves over a storage. Time is an argument."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def stages(self, task: str) -> Stages:
        """What serves and what shadows now."""
        names = self._names(task)
        return self._entry(task, names[-1]).stages if names else Stages()

    def history(self, task: str) -> list[StageEntry]:
        """All moves, the oldest first."""
        return [self._entry(task, name) for name in self._names(task)]

    def expected(self, task: str, expect: int | None) -> Stages:
        """The stages, if they still are those of entry ``expect``; else raises ``StageConflictError``."""
        now = self.stages(task)
        if expect is not None and now.seq != expect:
            raise _conflict(task, expect, now)
        return now

    def append(self, task: str, now: Stages, action: Action, version: int, at: float, why: str) -> Stages:
        """Make the entry after ``now``; raises ``StageConflictError`` where somebody else has made it."""
        after = move(now, action, version, task)
        entry = StageEntry(at=at, action=action, version=version, why=why, by=secrets.token_hex(8), stages=after)
        try:
            self._files.create(f"{task}/{STAGES}/{after.seq:08d}.json", entry.model_dump_json(indent=2).encode())
        except FileExistsError:
            raise _conflict(task, now.seq, self.stages(task)) from None
        return after

    def _names(self, task: str) -> list[str]:
        return [name for name in self._files.names(f"{task}/{STAGES}") if name.endswith(".json")]

    def _entry(self, task: str, name: str) -> StageEntry:
        path = f"{task}/{STAGES}/{name}"
        try:
            return StageEntry.model_validate_json(data := self._files.read(path))
        except ValidationError as exc:
            why = faults(StageEntry, exc, data)
            raise RegistryError(f"{self._files.url}/{path}: not a stage entry: {why}; restore it") from None


def _conflict(task: str, seen: int, now: Stages) -> StageConflictError:
    return StageConflictError(
        f"{task}: the stages changed meanwhile (entry {now.seq} after {seen}; champion now {now.champion}, shadow "
        f"{now.shadow}); look at them again and repeat if it still holds"
    )
