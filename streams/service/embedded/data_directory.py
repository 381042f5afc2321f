"""The directory of an embedded service: which process has it, which tasks it is of, and the identity of its log."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from weir.models.durable import write_durably
from weir.online.errors import UNREADABLE
from weir.streams.errors import StateError, UsageError

FILE: Final = "service.json"
_FORMAT: Final = 1


class _About(msgspec.Struct):
    """The file."""

    v: int
    epoch: str
    """Made with the directory: offsets of another epoch mean nothing here."""
    tasks: list[str]
    crashes: dict[int, str] = {}
    """By sequence number of an input batch, what the tasks raised at it the last time."""
    aside: list[int] = []
    """Batches that crashed the tasks twice: they go to the dead letters instead."""


class DataDirectory:
    """See the module; this process has it until ``close``.

    Parameters
    ----------
    path : made where it is not there.
    tasks : names of the tasks that are to run.

    Raises
    ------
    UsageError
        Another process has it, or it cannot be written.
    StateError
        It is of other tasks, or another version made it.
    """

    def __init__(self, path: Path, tasks: Sequence[str]) -> None:
        self.path, self._file = path, path / FILE
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; give a directory that can be written, by --dir") from error
        try:
            self._acquire()
            self._about = self._read(sorted(tasks))
        except BaseException:
            os.close(self._lock)
            raise

    def _acquire(self) -> None:
        try:
            # The kernel lets go of it when the process ends, however that happens: no stale lock stays.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise UsageError(
                f"{self.path} is in use by process {holder}; stop that one, or give another directory by --dir"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _read(self, tasks: list[str]) -> _About:
        if not self._file.exists():
            about = _About(_FORMAT, secrets.token_hex(6), tasks)
            self._write(about)
            return about
        try:
            about = msgspec.json.decode(self._file.read_bytes(), type=_About)
        except UNREADABLE as error:
            raise StateError(f"{self._file}: damaged: {error}; give another directory by --dir") from error
        if about.v != _FORMAT:
            raise StateError(f"{self._file}: of format {about.v}, this version reads {_FORMAT}; use what wrote it")
        if about.tasks != tasks:
            raise StateError(
                f"{self.path} is of the tasks {', '.join(about.tasks)}, now there are {', '.join(tasks)}; give those, "
                "or another directory by --dir"
            )
        return about

    def _write(self, about: _About) -> None:
        document = msgspec.json.format(msgspec.json.encode(about), indent=1)
        write_durably(self._file, lambda file: file.write(document))

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
