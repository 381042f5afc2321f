"""A file by which one process alone has what is beside it. The kernel lets go of it when the process ends, however."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from weir.streams.errors import UsageError


def lock_file(path: Path, what: object, fix: str) -> int:
    """Lock ``path``, which is made where it is not there; the lock lasts until the descriptor that it gives is closed.

    Raises
    ------
    UsageError
        Another process has it: ``what`` is in use, and ``fix`` is what to do besides stopping that process.
    OSError
        It cannot be made.
    """
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(held, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(held)
        raise UsageError(f"{what} is in use by process {holder}; stop that one, or {fix}") from error
    except BaseException:
        os.close(held)
        raise
    # Only for the words to the one that is refused: the lock itself is the kernel's, and needs no content.
    os.ftruncate(held, 0)
    os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
    return held
