"""The port to storage, and the adapters for a local directory and for object stores.

The registry asks one thing of a storage beside reading and listing: to create a file whole or not at all, and only if
there is none of that name. Everything that must not be done twice or by halves rests on it.
"""

from __future__ import annotations

import errno
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from weir.models.durable import sweep_unfinished, write_durably
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

    def sweep(self, path: str, before: float) -> None:
        """Remove from ``path`` what writers left that died before then (epoch seconds) within a ``create``."""


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

    def sweep(self, path: str, before: float) -> None:
        """See ``Files.sweep``."""
        sweep_unfinished(self.root / path, before)


def is_exclusive(files: Files) -> bool:
    """Try whether a storage refuses to create a file twice, by a file that is removed again.

    Raises ``RegistryError`` where it cannot be reached or written to.
    """
    path = f"exclusive-{secrets.token_hex(8)}.probe"
    try:
        files.create(path, b"1")
        # Other bytes: `ObjectFiles.create` takes the same ones for its own first attempt.
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
        # Only a link has two names; its EPERM is of a file system without links, such as vfat or some network shares.
        linkless = exc.filename2 is not None and exc.errno in (errno.EPERM, errno.ENOTSUP)
        remedy = (
            "use a file system that has hard links" if linkless else "check the path, its rights and the free space"
        )
        raise RegistryError(f"{path}: {exc.strerror or exc}; {remedy}") from exc


EXCLUSIVE: Final = frozenset({"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
_MEMORY: Final = threading.Lock()
"""fsspec's memory looks whether a file is there and then writes it: two steps, for the threads of one process."""


class ObjectFiles:
    """The adapter for what fsspec reaches: object stores with conditional writes, and ``memory://``.

    A create is one conditional request: ``If-None-Match: *`` on S3, ``ifGenerationMatch=0`` on Google Cloud Storage,
    ``overwrite=False`` on Azure. It needs ``s3fs`` >= 2024.12 with botocore > 1.35.20, ``gcsfs`` or ``adlfs``. A store
    that ignores the condition (some that only resemble S3) would let the last writer win: ``weir doctor`` finds that
    out. Protocols that are not known to have such a request are refused. Keys and the like come from the environment
    and files that each store's package reads.
    """

    def __init__(self, url: str) -> None:
        protocol = url.partition("://")[0]
        if protocol not in EXCLUSIVE:
            raise RegistryError(
                f"{url}: no exclusive writes are known for {protocol}://; use a directory or one of {sorted(EXCLUSIVE)}"
            )
        self.url = url.rstrip("/")
        self._fs, self._root = _open(self.url)

    def read(self, path: str) -> bytes:
        """The bytes of an object; raises ``FileNotFoundError``."""
        with _store_explained(self._at(path)):
            data: bytes = self._fs.cat_file(self._at(path))
            return bytes(data)

    def create(self, path: str, data: bytes) -> None:
        """One conditional write.

        A client that lost the answer to its first attempt is told by its second that the object exists, so what is
        there is compared: our own bytes mean that we were the first.
        """
        where = self._at(path)
        with _store_explained(where):
            try:
                if self._fs.protocol == "memory":
                    with _MEMORY:
                        self._fs.pipe_file(where, data, mode="create")
                else:
                    self._fs.pipe_file(where, data, mode="create")
            except FileNotFoundError as exc:
                raise RegistryError(f"{self.url}: {exc}; create the bucket or container first") from exc
            except OSError as exc:
                self._fs.invalidate_cache(where)  # a listing from before knows nothing of the other writer
                if not isinstance(exc, FileExistsError) and not self._fs.exists(where):
                    raise
                # In memory no answer is ever lost, so equal bytes there are another writer's.
                if self._fs.protocol == "memory" or self._fs.cat_file(where) != data:
                    raise FileExistsError(where) from exc

    def names(self, path: str) -> list[str]:
        """Sorted names of what lies directly under ``path``."""
        where = self._at(path)
        with _store_explained(where):
            self._fs.invalidate_cache(where)
            try:
                # Fsspec remembers listings, and other processes write here.
                found = self._fs.ls(where, detail=False)
            except FileNotFoundError:
                return []
        return sorted({name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != where})

    def remove(self, path: str) -> None:
        """Remove an object, or all of a directory, if it is there."""
        with _store_explained(self._at(path)):
            if self._fs.exists(self._at(path)):
                self._fs.rm(self._at(path), recursive=True)

    def sweep(self, path: str, before: float) -> None:
        """See ``Files.sweep``: there is nothing, as an object is there once its one request has come to its end."""

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


def _open(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as exc:
        raise RegistryError(f"{url}: needs fsspec; run: pip install 'weir[models]'") from exc
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as exc:
        raise RegistryError(f"{url}: {exc}; install its package (s3fs, gcsfs, adlfs) and check the address") from exc
    return fs, str(root).rstrip("/")


@contextmanager
def _store_explained(path: str) -> Iterator[None]:
    """Turn what a store refuses into ``RegistryError``; whether an object is there stays an answer."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, RegistryError):
        raise
    except Exception as exc:  # each store's package has errors of its own
        raise RegistryError(f"{path}: {type(exc).__name__}: {exc}; check address, credentials and rights") from exc
