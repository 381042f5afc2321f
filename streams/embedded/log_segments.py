"""The files of an embedded log: which there are, what stands in each, and how they follow one another.

The first is ``records.log``, which is the whole log of versions before there were several. Each further one is named
for its first batch and begins with a head: where every partition stood before it, and which file it follows. So a
start reads heads alone, but for the files without an index: those that were written since the last sync.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np

from weir.online.batch import IntVector
from weir.streams.embedded.log_frames import HEADER, LoggedBatch, StoredRecords, frames, is_torn, pack, read_payload
from weir.streams.embedded.log_index import FrameIndex, Lanes
from weir.streams.errors import LogError, UsageError

FIRST: Final = "records.log"
_LATER: Final = re.compile(r"records-(\d{20})\.log")
_MAGIC: Final = b"WLH1"
_AT_ONCE: Final = 256


class _Head(msgspec.Struct, array_like=True):
    lanes: list[tuple[str, int, int, float]]
    """topic, partition, next offset, newest time so far."""
    previous: str
    """Name of the file before."""
    previous_size: int
    """And its bytes."""


@dataclass(slots=True, eq=False)
class Segment:
    """One file."""

    path: Path
    first_seq: int
    lanes: Lanes
    """Before its first batch."""
    start: int = 0
    """Byte of its first frame."""
    previous: tuple[str, int] | None = None
    """Name and bytes of the file before it."""
    index: FrameIndex | None = None
    """While it is not stored beside the file."""

    @property
    def index_path(self) -> Path:
        """Where its index is stored when it is full."""
        return self.path.with_suffix(".idx")

    @property
    def stored(self) -> bool:
        """Whether there is an index: it was full and synced."""
        return self.index_path.exists()

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """The file there, its frames not looked at; ``None`` when its head was not written to the end."""
        if path.name == FIRST:
            return cls(path, 0, {})
        size = path.stat().st_size
        with path.open("rb") as file:
            payload = read_payload(file, 0, size, _MAGIC)
            torn = payload is None and is_torn(file, 0, size, _MAGIC)
        if torn:
            return None
        if payload is None:
            raise LogError(f"{path}: its head is damaged; restore the file, or remove it and those after it")
        head = msgspec.msgpack.decode(payload, type=_Head)
        lanes = {(topic, partition): (end, newest) for topic, partition, end, newest in head.lanes}
        previous = (head.previous, head.previous_size)
        return cls(path, _first_seq(path), lanes, HEADER.size + len(payload), previous)

    @classmethod
    def after(cls, previous: Path, size: int, seq: int, lanes: Lanes) -> tuple[Self, bytes]:
        """The one that follows a file of ``size`` bytes, from batch ``seq`` on; and its head, to be written."""
        held = [(*lane, *ends) for lane, ends in lanes.items()]
        head = pack(_MAGIC, msgspec.msgpack.encode(_Head(held, previous.name, size)))
        path = previous.with_name(f"records-{seq:020d}.log")
        return cls(path, seq, dict(lanes), len(head), (previous.name, size), FrameIndex(len(head))), head

    def follows(self, previous: Segment) -> bool:
        """Whether that is the file before it, as long as it was, with all that it held."""
        # Asked where it was scanned: a file of the right size may hold a block of zeros that was never written.
        whole = previous.index is None or self.first_seq == previous.first_seq + len(previous.index)
        return whole and self.previous == (previous.path.name, previous.path.stat().st_size)

    def scan(self) -> FrameIndex:
        """What stands in it, a torn frame at its end left out; raises ``LogError`` at other damage."""
        index = FrameIndex(self.start)
        for span in frames(self.path, self.start):
            seq, topic, partition, base, records = span.frame
            # A frame of another file, whole in itself: a restored copy, or one that was put together by hand.
            if seq != self.first_seq + len(index):
                raise LogError(f"{self.path}: batch {seq} at byte {span.at}, not {self.first_seq + len(index)}")
            index.add(topic, partition, base, len(records), max(r[2] for r in records), span.end - span.at)
        return index

    def load(self) -> FrameIndex:
        """What stands in it, from the index beside it; by a scan where that is lost."""
        index = self.index
        if index is None:
            index = FrameIndex.read(self.index_path, self.path.stat().st_size)
        return self.scan() if index is None else index

    def batches(self, index: FrameIndex, rows: IntVector) -> Iterator[LoggedBatch]:
        """The batches at these rows of its index; their records are read when someone asks for them."""
        for first in range(0, len(rows), _AT_ONCE):  # most readers want a few alone
            some = rows[first : first + _AT_ONCE]
            held = index.rows[some]
            columns = (held[name].tolist() for name in ("partition", "base", "at", "count"))
            for row, partition, base, at, count in zip(some.tolist(), *columns, strict=True):
                records = StoredRecords(self.path, at, count)
                yield LoggedBatch(self.first_seq + row, index.topic(row), partition, base, records)

    def remove(self) -> None:
        """Delete it."""
        self.path.unlink(missing_ok=True)  # first: an index alone is nothing, a file without one is scanned at a start
        self.index_path.unlink(missing_ok=True)


def _first_seq(path: Path) -> int:
    found = _LATER.fullmatch(path.name)
    return int(found[1]) if found else 0


def segment_paths(directory: Path) -> list[Path]:
    """The files of a log in a directory, in their order."""
    return sorted((p for p in directory.glob("*.log") if p.name == FIRST or _LATER.fullmatch(p.name)), key=_first_seq)


def chain(paths: Sequence[Path]) -> list[Segment]:
    """The segments of a log; those that have no index beside them, and the last, are scanned.

    What was not synced may be there in part after a power cut, later files more than earlier ones: the files behind
    the first that lost its end are left out. A file gets its index only when it and all before it are synced, so one
    with an index is never left out.

    Raises
    ------
    LogError
        A file is damaged, or missing.
    """
    made: list[Segment] = []
    for at, path in enumerate(paths):
        segment, before = Segment.open(path), made[-1] if made else None
        if segment is None or (before is not None and not segment.follows(before)):
            later = any(path.with_suffix(".idx").exists() for path in paths[at:])
            if before is None or later or (segment is not None and before.stored):
                raise LogError(f"{path}: its head, or the file before it, is missing or was changed; restore it")
            break
        if not segment.stored:
            segment.index = segment.scan()
        made.append(segment)
    if made[-1].index is None:
        made[-1].index = made[-1].scan()
    return made


def read_directory(directory: Path) -> Iterator[LoggedBatch]:
    """Every whole batch of a log that another process may own and be writing, up to its present end, in its order.

    Raises
    ------
    UsageError
        There is no log.
    LogError
        A batch is damaged: what stands behind it would be lost in silence.
    """
    paths = segment_paths(directory)
    if not paths:
        raise UsageError(f"{directory / FIRST}: no such log; give the directory that the embedded host writes")
    for segment in chain(paths):
        index = segment.load()
        yield from segment.batches(index, np.arange(len(index)))
