"""Writes what a command made: whole, or with what was there before left as it was; a full disk in one sentence.

And reads what it was given: a file that loses its end meanwhile is not taken for a short one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from weir.models.durable import durable
from weir.streams.errors import UsageError, in_words


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Errors of writing ``path``, such as a full disk, as ``UsageError`` in one sentence."""
    try:
        yield
    except OSError as exc:  # Arrow's have no file name
        why = exc.strerror or in_words(exc)  # without the name of the file beside it, which is ours
        raise UsageError(f"{path} cannot be written: {why}; check its rights and the free space") from exc


@contextmanager
def read_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that is read to its end, however long that takes; one that grows meanwhile may be read further.

    Raises ``UsageError`` at the end where it became shorter: what stood there was not read, or only a part of a line.
    """
    with path.open("rb") as file:
        began = os.fstat(file.fileno()).st_size
        yield file
        left = os.fstat(file.fileno()).st_size
    if left < began:
        raise UsageError(
            f"{path} became shorter while it was read, from {began:,} to {left:,} bytes, so not all that stood there "
            "was read; do it again with a copy that nobody writes to"
        )


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to be written, which is in the place of ``path`` at the end; ``UsageError`` leaves what was there.

    A link stays one, and a file keeps its rights. What is no file, such as a pipe or a terminal, is written to.
    """
    with written(path):
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        rights = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
        # The folder is of a person, who may have files of any name there.
        with durable(path.resolve(), sweep=False) as file:
            if rights is not None:
                os.fchmod(file.fileno(), rights)
            yield file


def write_whole(path: Path, data: bytes) -> None:
    """Put ``data`` in the place of a file, as `whole` does."""
    with whole(path) as file:
        file.write(data)
