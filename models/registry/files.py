"""The port to storage, and the adapter for a local directory.

The registry asks one thing of a storage beside reading and listing: to create a file whole or not at all, and only if
there is none of that name. Everything that must not be done twice or by halves rests on it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from weir.models.registry.registry_errors import RegistryError


class Files(Protocol):
    """Paths are relative to the registry, with ``/`` between their parts."""

    url: str

    def read(self, path: str) -> bytes:
        """The bytes of a file; raises ``FileNotFoundError``."""

    def create(self, path: str, data: bytes) -> None:
        """Make a file that does not exist, whole and lasting, or raise ``FileExistsError`` and change nothing."""

    def names(self, path: str) -> list[str]:
        """Sorted names of what lies directly in ``path``; none where there is no such directory."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""


class LocalFiles:
    """A directory of this machine or of a network file system that has hard links."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.url = str(self.root)

    def read(self, path: str) -> bytes:
        """The bytes of a file; raises ``FileNotFoundError``."""
        with _explained(self.root / path):
            return (self.root / path).read_bytes()

    def create(self, path: str, data: bytes) -> None:
        """Write beside, sync, then link into place: a link is made by one writer only, and to complete content."""
        target = self.root / path
        beside = target.parent / f".{target.name}.{secrets.token_hex(8)}.tmp"
        with _explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write_synced(beside, data)
                os.link(beside, target)
            finally:
                beside.unlink(missing_ok=True)
            _sync_directory(target.parent)

    def names(self, path: str) -> list[str]:
        """Sorted names of what lies directly in ``path``, unfinished files left out."""
        with _explained(self.root / path):
            try:
                return sorted(p.name for p in (self.root / path).iterdir() if not p.name.startswith("."))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def remove(self, path: str) -> None:
        """Remove a file, or a directory with what is in it, if it is there."""
        target = self.root / path
        with _explained(target):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into ``RegistryError``; whether a file is there stays an answer."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as exc:
        raise RegistryError(f"{path}: {exc.strerror or exc}; check the path, its rights and the free space") from exc


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make a new name last through a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
