"""The port to storage, and the adapter for a local directory.

The registry asks one thing of a storage beside reading and listing: to create a file whole or not at all, and only if
there is none of that name. Everything that must not be done twice or by halves rests on it.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from weir.models.durable import write_durably
from weir.models.errors import RegistryError


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
        """See ``Files.create``."""
        with _explained(self.root / path):
            write_durably(self.root / path, lambda file: file.write(data), exclusive=True)

    def names(self, path: str) -> list[str]:
        """Sorted names of what lies directly in ``path``, unfinished files left out."""
        with _explained(self.root / path):
            try:
                # Unfinished files begin with a dot.
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


def is_exclusive(files: Files) -> bool:
    """Try whether a storage refuses to create a file twice, by a file that is removed again.

    Raises ``RegistryError`` where it cannot be reached or written to.
    """
    path = f"exclusive-{secrets.token_hex(8)}.probe"
    try:
        files.create(path, b"1")
        files.create(path, b"2")
    except FileExistsError:
        return True
    finally:
        files.remove(path)
    return False


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into ``RegistryError``; whether a file is there stays an answer."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as exc:
        raise RegistryError(f"{path}: {exc.strerror or exc}; check the path, its rights and the free space") from exc
