"""A log with Kafka's shape in one process: topics, partitions, offsets, record batches.

Appends are totally ordered by a sequence number, and a reader gets record batches in that order, so a consumer that
reads the same log again sees the same batches in the same order: replays are exact. With a directory, batches are
written to segment files and the log resumes from them. It does not know what records mean.
"""

from __future__ import annotations

import bisect
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from zlib import crc32

from weir.streams.embedded.log_segments import FILE, SegmentReader, SegmentStore, StoredRecords
from weir.streams.errors import LogError, UsageError
from weir.streams.records import Record


@dataclass(frozen=True, slots=True)
class LoggedBatch:
    """A `RecordBatch` of records appended together, and its place among all batches of the log."""

    seq: int
    """Position of this batch among all batches of the log."""
    topic: str
    partition: int
    base_offset: int
    records: Sequence[Record]

    @property
    def next_offset(self) -> int:
        """Offset of the first record behind this batch."""
        return self.base_offset + len(self.records)

    def offset_of(self, index: int) -> int:
        """Offset of ``records[index]``."""
        return self.base_offset + index


class EmbeddedLog:
    """Topics in memory, and on disk when a directory is given.

    Parameters
    ----------
    partitions : partitions of each topic; a topic that is not named has one.
    directory : where segments live; ``None`` keeps everything in memory.
    max_batch : records a batch holds at most; a longer append becomes several batches.

    Examples
    --------
    >>> log = EmbeddedLog({"events": 2})
    >>> _ = log.append("events", [Record(b"c", b"1", 0.0), Record(b"d", b"2", 0.0)])
    >>> [(b.partition, b.base_offset, [r.value for r in b.records]) for b in log.read(["events"], 0)]
    [(0, 0, [b'2']), (1, 0, [b'1'])]
    """

    def __init__(
        self, partitions: Mapping[str, int] | None = None, directory: Path | None = None, max_batch: int = 2048
    ) -> None:
        self._partitions = dict(partitions or {})
        self.max_batch = max_batch
        self._batches: list[LoggedBatch] = []
        self._next_offset: dict[tuple[str, int], int] = defaultdict(int)
        self._next_seq = 0
        self._segments = SegmentStore(directory) if directory is not None else None
        self._in_memory: deque[tuple[LoggedBatch, int]] = deque()
        """Batches whose records are in memory although the directory has them, with their place there."""
        if self._segments is not None:
            self._recover(self._segments)

    def _recover(self, segments: SegmentStore) -> None:
        try:
            for at, _, (seq, topic, partition, offset, records) in segments.recover():
                stored = StoredRecords(segments, at, len(records))
                self._admit(LoggedBatch(seq, topic, partition, offset, stored))
        except LogError:
            segments.close()
            raise

    def append(self, topic: str, records: Sequence[Record]) -> list[LoggedBatch]:
        """Append records in order, each to its key's partition; returns the batches they became."""
        made = []
        for partition, lane in enumerate(self._lanes(topic, records)):
            for start in range(0, len(lane), self.max_batch):
                part = tuple(lane[start : start + self.max_batch])
                offset = self._next_offset[topic, partition]
                batch = LoggedBatch(self._next_seq, topic, partition, offset, part)
                if self._segments is not None:
                    self._in_memory.append((batch, self._segments.write(batch.seq, topic, partition, offset, part)))
                self._admit(batch)
                made.append(batch)
        return made

    def _lanes(self, topic: str, records: Sequence[Record]) -> list[Sequence[Record]]:
        """The records of each partition, in order."""
        partitions = self._partitions.get(topic, 1)
        if partitions == 1:
            return [records]
        lanes: list[list[Record]] = [[] for _ in range(partitions)]
        for record in records:
            lanes[crc32(record.key) % partitions].append(record)
        return list(lanes)

    def _admit(self, batch: LoggedBatch) -> None:
        self._batches.append(batch)
        self._next_offset[batch.topic, batch.partition] = batch.next_offset
        self._next_seq = batch.seq + 1

    def read(self, topics: Sequence[str], from_seq: int) -> Iterator[LoggedBatch]:
        """Batches of ``topics`` with ``seq >= from_seq``, in the order in which they were appended."""
        wanted = set(topics)
        at = bisect.bisect_left(self._batches, from_seq, key=lambda b: b.seq)
        while at < len(self._batches):
            if self._batches[at].topic in wanted:
                yield self._batches[at]
            at += 1

    def forget(self, before_seq: int) -> None:
        """Drop batches before ``before_seq`` from memory: bounds a long run.

        With a directory they stay readable, from there; without one they are gone.
        """
        if self._segments is None:
            del self._batches[: bisect.bisect_left(self._batches, before_seq, key=lambda b: b.seq)]
            return
        while self._in_memory and self._in_memory[0][0].seq < before_seq:
            batch, position = self._in_memory.popleft()
            at = bisect.bisect_left(self._batches, batch.seq, key=lambda b: b.seq)
            self._batches[at] = replace(batch, records=StoredRecords(self._segments, position, len(batch.records)))

    @property
    def next_seq(self) -> int:
        """Sequence number of the next append."""
        return self._next_seq

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Next offset of each partition of a topic."""
        return {p: self._next_offset[topic, p] for p in range(self._partitions.get(topic, 1))}

    def ends(self) -> dict[tuple[str, int], int]:
        """Next offset of each topic and partition that has records."""
        return dict(self._next_offset)

    def truncate(self, seq: int) -> int:
        """Drop every batch with ``seq`` or a later number, as if never appended; returns how many records went."""
        at = bisect.bisect_left(self._batches, seq, key=lambda b: b.seq)
        dropped = self._batches[at:]
        del self._batches[at:]
        for batch in reversed(dropped):
            self._next_offset[batch.topic, batch.partition] = batch.base_offset
        if self._segments is not None:
            while self._in_memory and self._in_memory[-1][0].seq >= seq:
                self._in_memory.pop()
            self._segments.truncate(seq)
        self._next_seq = min(self._next_seq, seq)
        return sum(len(b.records) for b in dropped)

    def sync(self) -> None:
        """Make everything appended so far survive a power cut."""
        if self._segments is not None:
            self._segments.sync()

    def close(self) -> None:
        """Sync and close the files."""
        if self._segments is not None:
            self._segments.close()

    def __enter__(self) -> EmbeddedLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def read_directory(directory: Path) -> Iterator[LoggedBatch]:
    """Every whole batch of a log that another process may own and be writing, up to its present end, in its order.

    Raises
    ------
    UsageError
        There is no log.
    LogError
        A batch is damaged: what stands behind it would be lost in silence.
    """
    path = directory / FILE
    if not path.is_file():
        raise UsageError(f"{path}: no such log; give the directory that the embedded host writes")
    reader = SegmentReader(path)
    for at, _, (seq, topic, partition, offset, records) in reader.frames():
        yield LoggedBatch(seq, topic, partition, offset, StoredRecords(reader, at, len(records)))
