"""The files of an embedded log: which there are, what stands in each, and how they follow one another.

The first is ``records.log``, which is the whole log of versions before there were several. Each further one is named
for its first batch and begins with a head: where every partition stood before it, and which file it follows. So a
start reads heads alone, but for the files without an index: those that were written since the last sync.

An index has a row a frame, so that a batch is found without reading those before it. That of a file that is full is
kept beside it; that of the file that is being written is in memory.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.models.durable import write_durably
from weir.online.batch import IntVector, longer
from weir.streams.embedded.log_frames import HEADER, LoggedBatch, StoredRecords, frames, is_torn, pack, read_payload
from weir.streams.errors import LogError, UsageError

FIRST: Final = "records.log"
_LATER: Final = re.compile(r"records-(\d{20})\.log")
_MAGIC: Final = b"WLH1"
_INDEX: Final = b"WLI1"
_AT_ONCE: Final = 256
_ROW: Final = np.dtype(
    [("topic", "<u4"), ("partition", "<u4"), ("base", "<i8"), ("count", "<u4"), ("at", "<i8"), ("newest", "<f8")]
)
"""Number of the topic, partition, base offset, records, byte in the file, the newest time of a record. 36 B a frame."""

Lanes = dict[tuple[str, int], tuple[int, float]]
"""By topic and partition the next offset, and the newest time of a record so far."""


class _StoredIndex(msgspec.Struct, array_like=True):
    size: int
    """Bytes of the file of frames."""
    topics: list[str]
    rows: bytes


class FrameIndex:
    """Rows in the order of the frames; one thread adds, others may read.

    Parameters
    ----------
    end : byte at which the first frame begins.
    """

    def __init__(self, end: int = 0) -> None:
        self.end = end
        """Byte behind the last frame."""
        self._rows = np.zeros(64, _ROW)
        self._count = 0
        self._topics: list[str] = []
        self._lanes: dict[tuple[str, int], tuple[int, IntVector]] = {}
        """Of partitions that were asked for, the rows among the first so many."""

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> NDArray[np.void]:
        """``(n,)`` of `_ROW`."""
        # The count first: an array that replaced a full one since holds at least as many rows.
        count = self._count
        return self._rows[:count]

    def add(self, topic: str, partition: int, base: int, count: int, newest: float, size: int) -> None:
        """One more frame, of ``size`` bytes."""
        if self._count == len(self._rows):
            # A new array, never a resize: readers hold views of the old one.
            self._rows = longer(self._rows, 2 * self._count)
        if topic not in self._topics:
            self._topics.append(topic)
        # The row first, then the count: a reader that sees the count sees the row.
        self._rows[self._count] = (self._topics.index(topic), partition, base, count, self.end, newest)
        self.end += size
        self._count += 1

    def cut(self, count: int) -> None:
        """Keep the first ``count``."""
        if count < self._count:
            self._count, self.end = count, int(self._rows["at"][count])
            self._lanes.clear()

    def of_topics(self, topics: Collection[str]) -> IntVector:
        """The rows of these topics, ascending."""
        wanted = [number for number, topic in enumerate(self._topics) if topic in topics]
        return np.flatnonzero(np.isin(self.rows["topic"], wanted))

    def of_lane(self, topic: str, partition: int) -> IntVector:
        """The rows of one partition, ascending."""
        held = self.rows  # before the topics: that of each of these rows is there
        seen, rows = self._lanes.get((topic, partition), (0, np.empty(0, np.int64)))
        if seen < len(held):
            new, number = held[seen:], self._topics.index(topic) if topic in self._topics else -1
            found = seen + np.flatnonzero((new["topic"] == number) & (new["partition"] == partition))
            rows = np.concatenate([rows, found])
            self._lanes[topic, partition] = len(held), rows
        return rows

    def place(self, topic: str, partition: int, offset: int, newest: float) -> IntVector:
        """Of these the rows that reach behind ``offset``, from the first with a time of ``newest`` or later on."""
        rows, held = self.of_lane(topic, partition), self.rows
        # Offsets ascend, so they are bisected; times need not, so the first late one is looked for.
        rows = rows[bisect.bisect_right(rows, offset, key=lambda row: held["base"][row] + held["count"][row]) :]
        late = held["newest"][rows] >= newest if newest > -np.inf else np.ones(1, np.bool_)
        return rows[int(late.argmax()) :] if late.any() else rows[:0]

    def topic(self, row: int) -> str:
        """Of one frame."""
        return self._topics[int(self._rows["topic"][row])]

    def advance(self, lanes: Lanes) -> None:
        """Let lanes before the file be those after it."""
        rows = self.rows
        for topic in self._topics:
            for partition in np.unique(rows["partition"][self.of_topics((topic,))]).tolist():
                own = rows[self.of_lane(topic, partition)]
                newest = max(lanes.get((topic, partition), (0, -np.inf))[1], float(own["newest"].max()))
                lanes[topic, partition] = int(own["base"][-1] + own["count"][-1]), newest

    def write(self, path: Path) -> None:
        """Store it durably."""
        stored = _StoredIndex(self.end, self._topics, self.rows.tobytes())
        write_durably(path, lambda file: file.write(pack(_INDEX, msgspec.msgpack.encode(stored))))

    @classmethod
    def read(cls, path: Path, size: int) -> FrameIndex | None:
        """What was stored; ``None`` where that is nothing whole, or of a file of another size than ``size``."""
        if not path.exists():
            return None
        with path.open("rb") as file:
            payload = read_payload(file, 0, path.stat().st_size, _INDEX)
        stored = msgspec.msgpack.decode(payload, type=_StoredIndex) if payload is not None else None
        # Of another size it is of the file before it was cut, or restored from elsewhere.
        if stored is None or stored.size != size:
            return None
        made = cls(size)
        # A copy that can be written: a log that is cut goes on in this file.
        made._rows = np.frombuffer(bytearray(stored.rows), _ROW)
        made._count, made._topics = len(made._rows), stored.topics
        return made


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
