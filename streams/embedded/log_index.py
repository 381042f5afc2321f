"""What a file of an embedded log holds, a row a frame, so that a batch is found without reading those before it.

The rows of a file that is full are kept beside it; those of the file that is being written are in memory.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.models.durable import write_durably
from weir.online.batch import IntVector, longer
from weir.streams.embedded.log_frames import pack, read_payload

_MAGIC: Final = b"WLI1"
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
        write_durably(path, lambda file: file.write(pack(_MAGIC, msgspec.msgpack.encode(stored))))

    @classmethod
    def read(cls, path: Path, size: int) -> FrameIndex | None:
        """What was stored; ``None`` where that is nothing whole, or of a file of another size than ``size``."""
        if not path.exists():
            return None
        with path.open("rb") as file:
            payload = read_payload(file, 0, path.stat().st_size, _MAGIC)
        stored = msgspec.msgpack.decode(payload, type=_StoredIndex) if payload is not None else None
        # Of another size it is of the file before it was cut, or restored from elsewhere.
        if stored is None or stored.size != size:
            return None
        made = cls(size)
        # A copy that can be written: a log that is cut goes on in this file.
        made._rows = np.frombuffer(bytearray(stored.rows), _ROW)
        made._count, made._topics = len(made._rows), stored.topics
        return made
