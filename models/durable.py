"""Writes files that are there whole or not at all, for whoever reads them, and after a power loss."""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

_UNFINISHED: Final = re.compile(r"\.(.+)\.(\d+)-\d+\.tmp")
_DEAD_S: Final = 86_400.0
"""A writer that added nothing for so long has died; clocks of machines that share a folder differ by less."""


@contextmanager
def durable(path: Path, *, exclusive: bool = False, sweep: bool = True) -> Iterator[BinaryIO]:
    """A file to be written, which is in the place of ``path`` at the end; a crash leaves what was there, or all of it.

    Parameters
    ----------
    path : its folder is made where there is none.
    exclusive : only make a file that does not exist; of several writers at one moment exactly one succeeds.
    sweep : whether to clear away what killed writers left in the folder, which then has to be one of ours; else what
        they left of ``path`` alone is cleared away, before it takes the room that is needed now.

    Raises
    ------
    FileExistsError : ``exclusive``, and there is a file; it is not changed.
    OSError : what the file system refuses, with the name of ``path``; the place is then as it was.
    """
    # One name a writer: two of them must not write into each other's file before it is in its place.
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        _make_lasting(path.parent)
        if not sweep:
            clear_left(path)
        with beside.open("wb") as file:
            with suppress(OSError):  # on a file system without locks nothing is taken for left, see `clear_left`
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the name points to it: else a power loss leaves a name without content
        if exclusive:
            os.link(beside, path)  # fails where the name is taken; a rename would replace what is there
        else:
            beside.replace(path)
        sync_names(path.parent)
    except OSError as exc:
        if exc.filename in (None, str(beside)):  # a full disk is told by a write, which knows of no name
            exc.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)  # after a rename there is none
    if sweep:
        sweep_unfinished(path.parent, time.time() - _DEAD_S)


def write_durably(path: Path, write: Callable[[Any], object], *, exclusive: bool = False, sweep: bool = True) -> None:
    """Put what ``write`` writes, called once with the file, in the place of ``path``; all else is as `durable` says."""
    with durable(path, exclusive=exclusive, sweep=sweep) as file:
        write(file)


def clear_left(path: Path) -> int:
    """Remove what writers of ``path`` left beside it that were killed; how many files.

    Only where no process has its number *and* nobody holds its lock: in another container, or on another machine, a
    number says nothing.
    """
    cleared = 0
    for entry in path.parent.iterdir() if path.parent.is_dir() else ():
        made = _UNFINISHED.fullmatch(entry.name)
        if made is None or made[1] != path.name or _runs(int(made[2])):
            continue
        with suppress(OSError), entry.open("rb") as file:  # somebody else may clear up, too
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entry.unlink()
            cleared += 1
    return cleared


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user; or no number that we gave
        return True
    return True


def sweep_unfinished(folder: Path, before: float) -> int:
    """Remove what writers left in a folder that were killed, and have written nothing since ``before``; how many.

    Nobody reads such a file, and nobody else would ever remove it: its name is its writer's own.
    """
    swept = 0
    # Another process may sweep, too, or finish its file at this moment; and to clear up is no reason to fail.
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _UNFINISHED.fullmatch(entry.name) and entry.stat().st_mtime < before:
                Path(entry.path).unlink()
                swept += 1
    return swept


def _make_lasting(folder: Path) -> None:
    """Make a folder, and those above it, so that a power loss does not take it away with what is in it."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(made):
        # A name belongs to the folder above: to sync a new folder itself keeps what is in it, not that it is there.
        sync_names(each.parent)


def sync_names(folder: Path) -> None:
    """Make new and changed names in a folder survive a power loss: it is written back by itself."""
    held = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)
