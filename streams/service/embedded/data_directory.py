"""The directory of an embedded service: which process has it, which tasks it is of, and the identity of its log."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, Self

import msgspec

from weir.models.durable import write_durably
from weir.online.errors import UNREADABLE
from weir.online.task.spec import TaskSpec
from weir.streams.errors import LogFull, StateError, UsageError
from weir.streams.ops.file_lock import lock_file

log = logging.getLogger(__name__)
FILE: Final = "service.json"
_FORMAT: Final = 1
_KEPT: Final = 100
"""Lines about differences that are kept."""
_ROOM: Final = 64 << 20
"""Bytes of the disk that stay free: a full one must stop new inputs, before outputs or a checkpoint find no room."""


class _About(msgspec.Struct):
    """The file."""

    v: int
    epoch: str
    """Made with the directory: offsets of another epoch mean nothing here."""
    tasks: dict[str, str]
    """Name and digest of each task."""
    stopped_at: int | None = None
    """End of the log of inputs when the process before stopped cleanly; ``None`` while one runs, and after a crash."""
    crashes: dict[int, str] = {}
    """By sequence number of an input batch, what the tasks raised at it the last time."""
    aside: list[int] = []
    """Batches that crashed the tasks twice: they go to the dead letters instead."""
    version: str = ""
    """Of Weir, by which outputs after the checkpoint were made; empty where that was before it was noted."""
    differed: list[str] = []
    """What starts computed otherwise than the process before had published, a line for each topic and start."""


class DataDirectory:
    """See the module; this process has it until ``close``.

    Parameters
    ----------
    path : made where it is not there.
    tasks : that are to run.

    Raises
    ------
    UsageError
        Another process has it, or it cannot be written.
    StateError
        Another version made it.
    """

    def __init__(self, path: Path, tasks: Sequence[TaskSpec]) -> None:
        self.path, self._file = path, path / FILE
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)  # what people did is in it
            self._lock = lock_file(path / "lock", path, "give another directory by --dir")
            try:
                self._about = self._read({task.name: _digest(task) for task in tasks})
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            why = f"{path}: {error.strerror}; free some, or give a directory that can be written, by --dir"
            raise UsageError(why) from error

    def _read(self, tasks: dict[str, str]) -> _About:
        if not self._file.exists():
            about = _About(_FORMAT, secrets.token_hex(6), tasks)
            self._write(about)
            self._wanted = tasks
            return about
        try:
            about = msgspec.json.decode(self._file.read_bytes(), type=_About)
        except UNREADABLE as error:
            raise StateError(f"{self._file}: damaged: {error}; give another directory by --dir") from error
        if about.v != _FORMAT:
            raise StateError(f"{self._file}: of format {about.v}, this version reads {_FORMAT}; use what wrote it")
        self._wanted = tasks
        return about

    @property
    def changed(self) -> list[str]:
        """Tasks that are new, gone, or other than those of the process before."""
        return sorted({name for name, _ in self._about.tasks.items() ^ self._wanted.items()})

    def begin(self, end: int) -> None:
        """A process goes on, with the log of inputs ending at ``end``; raises ``UsageError`` where it must not.

        After a crash inputs are computed again, to outputs that others may have seen: by the tasks of then. Another
        version may read the same task files otherwise, so it goes on, and what was published stays.
        """
        about, now, changed = self._about, version("weir"), ", ".join(self.changed)
        crashed = bool(end) and about.stopped_at != end
        if crashed and about.version != now:
            log.warning(
                "%s: %s did not stop cleanly, and this is Weir %s: what came after the checkpoint is computed again%s; "
                "what was published stays, and a difference is told",
                self.path, self._before, now, f", {changed} otherwise (changed, or read otherwise)" if changed else "",
            )  # fmt: skip
        if crashed and changed and (about.version == now or about.tasks.keys() != self._wanted.keys()):
            raise UsageError(
                f"{self.path}: the service did not stop cleanly, and since then {changed} changed: start it once with "
                "the task files as they were, stop it, and change them then"
            )
        about.tasks, about.stopped_at = self._wanted, None
        self._write(about)

    @property
    def _before(self) -> str:
        return f"Weir {self._about.version}" if self._about.version else "an older Weir"

    def resumed(self, differences: Sequence[str]) -> None:
        """What came after the checkpoint was computed again; note who did, and tell what had been published otherwise.

        ``differences`` has a line for each topic.
        """
        if differences:
            log.warning(
                "%s: some outputs are computed otherwise now than they were published by %s, which did not stop "
                "cleanly. What was published stays in the log; rows and models go on by what is computed now. %s keeps "
                "these lines. A clean stop before an upgrade leaves no such outputs",
                self.path, self._before, FILE,
            )  # fmt: skip
        for line in differences:
            log.warning("%s", line)
        # Only now: a start that is killed on its way leaves the outputs of the one before.
        self._about.version = version("weir")
        self._about.differed = [*self._about.differed, *differences][-_KEPT:]
        self._write(self._about)

    def stopped(self, end: int) -> None:
        """The process has written a checkpoint of everything up to ``end``."""
        self._about.stopped_at = end
        self._write(self._about)

    def _write(self, about: _About) -> None:
        document = msgspec.json.format(msgspec.json.encode(about), indent=1)
        write_durably(self._file, lambda file: file.write(document))

    def check_room(self) -> None:
        """Raise ``LogFull`` where the disk is so full that nothing new may come."""
        free = shutil.disk_usage(self.path).free
        if free < _ROOM:
            raise LogFull(f"{self.path}: {free >> 20} MiB are free, {_ROOM >> 20} have to stay so; make room")

    @property
    def epoch(self) -> str:
        """Identity of the log."""
        return self._about.epoch

    @property
    def aside(self) -> frozenset[int]:
        """Input batches that are put aside: in every computation from now on, so that a replay stays exact."""
        return frozenset(self._about.aside)

    def crashed(self, seq: int, words: str) -> bool:
        """Note that the tasks raised at an input batch; whether it is put aside from now on: it was the second time."""
        again = seq in self._about.crashes
        if again:
            self._about.aside.append(seq)
        self._about.crashes[seq] = words
        self._write(self._about)
        return again

    def close(self) -> None:
        """Let others have it."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _digest(task: TaskSpec) -> str:
    """Of all that a task's file says."""
    return hashlib.sha256(task.model_dump_json().encode()).hexdigest()[:16]
