"""Records that a rebuild meets in partitions that do not own them, on disk until the lane of their owner is filled.

There are many where a topic was given more partitions, or where producers did not partition by key.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import BinaryIO, Final, Self

from weir.streams.records import Record

_HEAD: Final = struct.Struct("<dI")


class Strays:
    """Strays of one topic; use it as a context.

    >>> with Strays() as strays:
    ...     strays.add(1, 0, Record(b"", b"late", 9.0))
    ...     strays.add(1, 2, Record(b"", b"early", 5.0))
    ...     taken = strays.of(1)
    ...     [record.value for record in taken.until(7.0)], [record.value for record in taken.until(float("inf"))]
    ([b'early'], [b'late'])
    """

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory(prefix="weir-rebuild-")
        self._files: dict[tuple[int, int], BinaryIO] = {}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()
        self._folder.cleanup()

    def add(self, owner: int, source: int, record: Record) -> None:
        """Keep a record of partition ``source``; those of one partition come in their order."""
        if (owner, source) not in self._files:
            self._files[owner, source] = (Path(self._folder.name) / f"{owner}-{source}").open("w+b")
        self._files[owner, source].write(_HEAD.pack(record.ts, len(record.value)) + record.value)

    def of(self, owner: int) -> StrayReader:
        """What belongs to a partition, oldest first."""
        files = [file for (of, _), file in self._files.items() if of == owner]
        return StrayReader(heapq.merge(*map(_read, files), key=lambda record: record.ts))


class StrayReader:
    """Strays of one owner, taken bit by bit."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records
        self._next = next(records, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def until(self, ts: float, most: int = 4096) -> list[Record]:
        """The next ones that were written up to ``ts``, ``most`` of them."""
        taken: list[Record] = []
        while self._next is not None and self._next.ts <= ts and len(taken) < most:
            taken.append(self._next)
            self._next = next(self._records, None)
        return taken


def _read(file: BinaryIO) -> Iterator[Record]:
    file.seek(0)
    while head := file.read(_HEAD.size):
        ts, size = _HEAD.unpack(head)
        yield Record(b"", file.read(size), ts)
