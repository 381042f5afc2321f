"""Where the documents of tasks are kept: numbered files, each made once, of which the newest counts.

Making number n + 1 is a compare-and-swap against number n: of two trainers that read the same document, one can write
the next. It stands on ``weir.models.registry.files``: a file is made whole, and only if there is none of its name. So
it works in a directory and in an object store, beside the versions: ``<url>/<task>/trainer/0000000012.json``.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

from weir.models.registry.files import Files

FOLDER: Final = "trainer"
_KEEP: Final = 50


class Journal(Protocol):
    """Numbered documents of each task."""

    def newest(self, task: str) -> tuple[int, bytes] | None:
        """The newest document with its number; ``None`` without any."""

    def append(self, task: str, number: int, document: bytes) -> bool:
        """Make document ``number``, the one behind the newest; ``False`` when somebody else did."""


class MemoryJournal:
    """For one process: tests, and a host that keeps no state."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, bytes]] = {}
        self._lock = threading.Lock()

    def newest(self, task: str) -> tuple[int, bytes] | None:
        """See ``Journal``."""
        return self._held.get(task)

    def append(self, task: str, number: int, document: bytes) -> bool:
        """See ``Journal``."""
        with self._lock:
            if self._held.get(task, (0, b""))[0] != number - 1:
                return False
            self._held[task] = (number, document)
            return True


class FilesJournal:
    """In a registry's storage.

    Parameters
    ----------
    files : see ``weir.models.registry.registry.open_files``.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self.url = files.url

    def newest(self, task: str) -> tuple[int, bytes] | None:
        """See ``Journal``."""
        while numbers := self._numbers(task):
            try:
                return numbers[-1], self._files.read(_path(task, numbers[-1]))
            except FileNotFoundError:  # pruned while we looked: there are newer ones
                continue
        return None

    def append(self, task: str, number: int, document: bytes) -> bool:
        """See ``Journal``."""
        try:
            self._files.create(_path(task, number), document)
        except FileExistsError:
            return False
        numbers = self._numbers(task)
        if numbers and numbers[-1] != number:  # the place was free only because the old are cleared away
            # Others have written behind it already: ours was there first and counts, unless its place had been cleared.
            if numbers[-1] - number >= _KEEP:
                self._files.remove(_path(task, number))
                return False
            return True
        for old in numbers[:-_KEEP]:
            self._files.remove(_path(task, old))
        return True

    def _numbers(self, task: str) -> list[int]:
        names = self._files.names(f"{task}/{FOLDER}")
        return sorted(int(name.removesuffix(".json")) for name in names if name.removesuffix(".json").isdecimal())


def _path(task: str, number: int) -> str:
    return f"{task}/{FOLDER}/{number:010d}.json"
