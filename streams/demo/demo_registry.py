"""The demo's registry as it was at a checkpoint: a run that goes on from there makes what came later once more."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from weir.models.registry.registry import STAGES, Registry


class Marker(msgspec.Struct, frozen=True):
    """How far a task's registry had come."""

    version: int = 0
    """The newest."""
    entry: int = 0
    """The newest of the log of stages."""

    @classmethod
    def of(cls, registry: Registry, task: str) -> Marker:
        """How far it has come now."""
        return cls(max(registry.versions(task), default=0), registry.stages(task).seq)


def keep_until(directory: Path, task: str, marker: Marker) -> None:
    """Remove the versions and the moves behind ``marker`` from the registry in ``directory``, unfinished ones too."""
    for path in (directory / task).glob("*"):
        if path.name.isdecimal() and int(path.name) > marker.version:
            shutil.rmtree(path)
    for path in (directory / task / STAGES).glob("*.json"):
        if path.stem.isdecimal() and int(path.stem) > marker.entry:
            path.unlink()
