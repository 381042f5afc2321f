"""The demo's registry as it was at a checkpoint: a run that goes on from there makes what came later once more."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from weir.models.registry.registry import STAGES, Registry, open_files
from weir.streams.trainer.state_journal import FOLDER, FilesJournal, MemoryJournal


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
    # A registry never uses a number again; here the same version is made once more, and has to get its number.
    for path in (directory / task).glob("*"):
        if path.name.isdecimal() and int(path.name) > marker.version:
            shutil.rmtree(path)
    for path in (directory / task / STAGES).glob("*.json"):
        if path.stem.isdecimal() and int(path.stem) > marker.entry:
            path.unlink()


class ShownJournal(MemoryJournal):
    """A journal that can be written beside the models, for the console to show; a run never reads it from there.

    Parameters
    ----------
    models, task : where; what an earlier run wrote is removed, as this one may go on from before it.
    """

    def __init__(self, models: Path, task: str) -> None:
        super().__init__()
        shutil.rmtree(models / task / FOLDER, ignore_errors=True)
        self._files, self._task, self._shown = FilesJournal(open_files(str(models))), task, 0

    def show(self) -> None:
        """Write the newest document: not each of them, as every labelled event makes one while a model is judged."""
        found = self.newest(self._task)
        if found is not None and found[0] != self._shown:
            self._shown = found[0]
            self._files.append(self._task, *found)
