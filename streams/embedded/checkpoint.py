"""Checkpoint files: replaced whole, and checked by their digest when they are read; written here or by a child.

A child has the state as it was at the fork, while this process goes on: it stands still for the fork alone.
"""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from weir.models.durable import sync_names, write_durably
from weir.streams.errors import StateError

_MAGIC = b"WCP1"
_DIGEST = 32
_PATIENCE_S: Final = 600
"""After this a child that hangs is killed, and its checkpoint has failed."""


class Checkpoints:
    """The newest checkpoint of a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "checkpoint.bin"
        # Named for this process: a child of one that was killed may still be writing its own.
        self._beside = directory / f"checkpoint.{os.getpid()}.part"
        for left in directory.glob("*.part*"):  # of processes that were killed while a child wrote
            left.unlink()

    def write(self, data: bytes) -> None:
        """Replace the checkpoint; a crash at any moment leaves the old or the new one, whole."""
        _write(self.path, data, hashlib.sha256())

    def fork(self, make: Callable[[], bytes]) -> Callable[[], None]:
        """Write what ``make`` gives in a child; the call of what this returns puts it in place, when it is written.

        It is for another thread, as it waits, and raises ``StateError`` where the child fails. A fork copies the
        calling thread alone, so a lock that another one holds at that moment is never released in the child. What it
        does takes none but those that a fork takes care of (memory, the interpreter): it copies arrays, encodes them,
        hashes with a digest that is made before, writes a file, and ends without a finaliser. Should it hang all the
        same, it is killed by its alarm.
        """
        reader, writer = os.pipe()
        digest = hashlib.sha256()
        # A handler of this process must not run in the child: it would write to sockets that both have.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGALRM})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads: see above
                child = os.fork()
            if child == 0:
                self._in_child(make, digest, writer)
        except OSError as error:  # no memory, or no process more for this user: as where a child fails
            os.close(reader)
            os.close(writer)
            return partial(self._no_child, error)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(writer)
        return lambda: self._put_in_place(child, reader)

    def _in_child(self, make: Callable[[], bytes], digest: hashlib._Hash, writer: int) -> NoReturn:
        try:
            # The port and the lock of the directory must be free when the parent ends, whatever the child does then. So
            # first of all: where it is not its turn for long, a service that is started again would be refused.
            os.dup2(writer, 3)
            os.closerange(4, os.sysconf("SC_OPEN_MAX"))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_PATIENCE_S)
            gc.disable()  # it would touch, and so copy, every page
            os.nice(10)  # the parent has callers that wait
            _write(self._beside, make(), digest)
            # Past all finalisers: what they would flush and close is the parent's.
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, the parent is told
            # Less than a pipe holds (64 kB), so that the child ends also where nobody reads; the end, as the error
            # stands there.
            os.write(3, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(1)

    def _no_child(self, error: OSError) -> None:
        why = f"no child can be made ({error.strerror}): see what memory and processes are left"
        raise StateError(f"{self.path}: the checkpoint could not be written: {why}; the one before it stays") from error

    def _put_in_place(self, child: int, reader: int) -> None:
        with open(reader, "rb") as pipe:
            told = pipe.read().decode(errors="replace").strip()
        # Behind the reading, which ends when the child does: it holds the other end alone.
        _, status = os.waitpid(child, 0)
        if status:
            why = told.rpartition("\n")[2] or f"the child ended with status {status}"
            raise StateError(f"{self.path}: the checkpoint could not be written: {why}; the one before it stays")
        # By the parent, and only here: what a child wrote that was killed or failed never gets the name.
        self._beside.replace(self.path)
        sync_names(self.path.parent)

    def newest(self) -> bytes | None:
        """The checkpoint's data; ``None`` when there is none. Raises ``StateError`` when it is damaged."""
        if not self.path.exists():
            return None
        whole = self.path.read_bytes()
        data = whole[len(_MAGIC) + _DIGEST :]
        if not whole.startswith(_MAGIC) or hashlib.sha256(data).digest() != whole[len(_MAGIC) : len(_MAGIC) + _DIGEST]:
            raise StateError(f"{self.path}: damaged ({len(whole)} B); remove the directory to start afresh")
        return data


def _write(path: Path, data: bytes, digest: hashlib._Hash) -> None:
    digest.update(data)
    write_durably(path, lambda file: file.write(_MAGIC + digest.digest()) and file.write(data))
