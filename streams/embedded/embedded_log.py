"""A log with Kafka's shape in one process: topics, partitions, offsets, record batches.

Appends are totally ordered by a sequence number, and a reader gets record batches in that order, so a consumer that
reads the same log again sees the same batches in the same order: replays are exact. With a directory, batches are
written to segment files and the log resumes from them. It does not know what records mean.

One thread appends and cuts. Any thread may read, by sequence or by place, and sync; nobody waits for a reader.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from zlib import crc32

from weir.streams.embedded.log_frames import LoggedBatch
from weir.streams.embedded.log_segments import Lanes, read_directory
from weir.streams.embedded.segment_store import SegmentStore
from weir.streams.errors import RecordsDropped
from weir.streams.records import TS, Record

__all__ = ["EmbeddedLog", "LoggedBatch", "read_directory"]

SEGMENT_BYTES: Final = 64 << 20


class MemoryBatches:
    """The batches of a log without a directory, a list: what `SegmentStore` is to one. Nothing survives the process."""

    def __init__(self) -> None:
        self._batches: list[LoggedBatch] = []
        self.lanes: Lanes = {}
        self._dropped: dict[tuple[str, int], int] = {}
        """By partition, the first offset that was not forgotten."""
        self.next_seq = 0

    def add(self, batches: Sequence[LoggedBatch]) -> None:
        """Append batches."""
        for batch in batches:
            lane = batch.topic, batch.partition
            newest = max(map(TS, batch.records))
            self._batches.append(batch)
            self.lanes[lane] = batch.next_offset, max(newest, self.lanes.get(lane, (0, newest))[1])
            self.next_seq = batch.seq + 1

    def truncate(self, seq: int) -> int:
        """Drop every batch from ``seq`` on; returns how many records went."""
        at = self._at(seq)
        dropped = self._batches[at:]
        del self._batches[at:]
        for batch in reversed(dropped):
            self.lanes[batch.topic, batch.partition] = batch.base_offset, float("-inf")
        self.next_seq = min(self.next_seq, seq)
        return sum(len(b.records) for b in dropped)

    def forget(self, before_seq: int) -> None:
        """Drop every batch before ``before_seq``."""
        at = self._at(before_seq)
        for batch in self._batches[:at]:
            self._dropped[batch.topic, batch.partition] = batch.next_offset
        del self._batches[:at]

    @property
    def first_seq(self) -> int:
        """Of the first batch that is kept."""
        return self._batches[0].seq if self._batches else self.next_seq

    def first_offset(self, topic: str, partition: int) -> int:
        """Of the first record that is kept of a partition."""
        return self._dropped.get((topic, partition), 0)

    def read(self, topics: Collection[str], seq: int) -> tuple[list[LoggedBatch], int]:
        """Batches of these topics from ``seq`` to the present end, and the batch behind that."""
        batches = self._batches[self._at(seq) :]
        return [b for b in batches if b.topic in topics], batches[-1].seq + 1 if batches else self.next_seq

    def lane(self, topic: str, partition: int, offset: int, newest: float) -> Iterator[LoggedBatch]:
        """Batches of a partition that reach behind ``offset``, from the first with a time of ``newest`` or later on."""
        for batch in self._batches[:]:
            if (batch.topic, batch.partition) == (topic, partition) and batch.next_offset > offset:
                if max(record.ts for record in batch.records) >= newest:
                    newest = float("-inf")
                if newest == float("-inf"):
                    yield batch

    def _at(self, seq: int) -> int:
        """The place of a batch; they are numbered one by one, and leave at both ends alone."""
        return min(max(seq - self.first_seq, 0), len(self._batches))


class EmbeddedLog:
    """Topics in memory, or on disk when a directory is given.

    Parameters
    ----------
    partitions : partitions of each topic; a topic that is not named has one.
    directory : where segments live; ``None`` keeps everything in memory.
    max_batch : records a batch holds at most; a longer append becomes several batches.
    segment_bytes : size of a file from which the next append begins another one.

    Raises
    ------
    LogError
        A file in the directory is damaged; nothing was changed.

    Examples
    --------
    >>> log = EmbeddedLog({"events": 2})
    >>> _ = log.append("events", [Record(b"c", b"1", 0.0), Record(b"d", b"2", 0.0)])
    >>> [(b.partition, b.base_offset, [r.value for r in b.records]) for b in log.read(["events"], 0)]
    [(0, 0, [b'2']), (1, 0, [b'1'])]
    """

    def __init__(
        self,
        partitions: Mapping[str, int] | None = None,
        directory: Path | None = None,
        max_batch: int = 2048,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._partitions = dict(partitions or {})
        self.max_batch = max_batch
        self._store = MemoryBatches() if directory is None else SegmentStore(directory, segment_bytes)

    # -- the appending thread --------------------------------------------------------------------------------------

    def append(self, topic: str, records: Sequence[Record]) -> list[LoggedBatch]:
        """Append records in order, each to its key's partition; returns the batches they became.

        They are with the operating system then, and on the disk after `sync`.

        Raises
        ------
        LogFull
            The disk has no room; nothing was appended.
        LogError
            The log cannot be written any more; the message says what to do.
        """
        made: list[LoggedBatch] = []
        for partition, lane in enumerate(self._lanes(topic, records)):
            base = self.end_offset(topic, partition)
            for start in range(0, len(lane), self.max_batch):
                part = tuple(lane[start : start + self.max_batch])
                made.append(LoggedBatch(self.next_seq + len(made), topic, partition, base + start, part))
        if made:
            # All partitions in one call, which appends all of a caller's records or none.
            self._store.add(made)
        return made

    def _lanes(self, topic: str, records: Sequence[Record]) -> list[Sequence[Record]]:
        """The records of each partition, in order."""
        partitions = self._partitions.get(topic, 1)
        if partitions == 1:
            return [records]
        lanes: list[list[Record]] = [[] for _ in range(partitions)]
        for record in records:
            # Not `hash`, which differs from process to process.
            lanes[crc32(record.key) % partitions].append(record)
        return list(lanes)

    def truncate(self, seq: int) -> int:
        """Drop every batch with ``seq`` or a later number, as if never appended; returns how many records went.

        Raises ``LogError`` where batches before ``seq`` are no longer kept.
        """
        return self._store.truncate(seq)

    def forget(self, before_seq: int) -> None:
        """Drop batches before ``before_seq`` from memory: bounds a long run. Those in a directory stay."""
        if isinstance(self._store, MemoryBatches):
            self._store.forget(before_seq)

    def retain(self, keep_from: int, older_than: float = -math.inf, max_bytes: float = math.inf) -> int:
        """Delete full files from the front, as far as one is too old or all are too much; returns the bytes freed.

        Offsets and sequence numbers go on as if nothing had happened. Only what `sync` has seen is deleted.

        Parameters
        ----------
        keep_from : this batch and those after it stay, whatever else is asked.
        older_than : epoch seconds; files without a record of then or later go.
        max_bytes : while the log is larger, its first file goes.
        """
        return 0 if isinstance(self._store, MemoryBatches) else self._store.retain(keep_from, older_than, max_bytes)

    # -- any thread ------------------------------------------------------------------------------------------------

    def sync(self) -> int:
        """Make everything appended so far survive a power cut; returns the batch up to which that is so.

        Raises ``LogError`` where the disk fails: nothing is taken any more then, as nobody can say what was lost.
        """
        return self.next_seq if isinstance(self._store, MemoryBatches) else self._store.sync()

    def read(self, topics: Sequence[str], from_seq: int) -> Iterator[LoggedBatch]:
        """Batches of ``topics`` with ``seq >= from_seq``, in the order in which they were appended."""
        wanted, at = frozenset(topics), from_seq
        while at < self.next_seq:
            try:
                found, at = self._store.read(wanted, at)
            except FileNotFoundError:
                if at >= self.first_seq:
                    raise
                continue  # retention took the file while it was looked at: what is kept begins later now
            yield from found

    def read_from(self, topic: str, partition: int, offset: int, max_bytes: int = 1 << 20) -> list[LoggedBatch]:
        """Batches of a partition that reach behind ``offset``, in memory; none at its end.

        The first may begin before ``offset``. It is there however large it is; others as far as all keys and values
        together stay within ``max_bytes``.

        Raises
        ------
        RecordsDropped
            ``offset`` is before what is kept; ``first`` says what is.
        """
        found: list[LoggedBatch] = []
        self._check_kept(topic, partition, offset)
        try:
            # Read here and now: what is handed out must not depend on a file that retention may take.
            for batch in self._store.lane(topic, partition, offset, -math.inf):
                records = tuple(batch.records)
                max_bytes -= sum(len(r.key) + len(r.value) for r in records)
                if found and max_bytes < 0:
                    break
                found.append(replace(batch, records=records))
        except FileNotFoundError:  # retention took the file while it was read
            self._check_kept(topic, partition, offset)
            raise
        return found

    def _check_kept(self, topic: str, partition: int, offset: int) -> None:
        first = self.first_offset(topic, partition)
        if offset < first:
            raise RecordsDropped(f"{topic}-{partition}: offset {offset}", first)

    def offset_at(self, topic: str, partition: int, ts: float) -> int:
        """Offset of the first kept record with a time of ``ts`` (epoch seconds) or later; the end where none has."""
        end = self.end_offset(topic, partition)  # before looking: what is appended meanwhile comes behind it
        try:
            for batch in self._store.lane(topic, partition, -1, ts):
                for i, record in enumerate(batch.records):
                    if record.ts >= ts:
                        return batch.offset_of(i)
        except FileNotFoundError:  # retention took the file while it was read
            return self.offset_at(topic, partition, ts)
        return end

    @property
    def first_seq(self) -> int:
        """Sequence number of the first batch that is kept; of the next append, where none is."""
        return self._store.first_seq

    @property
    def next_seq(self) -> int:
        """Sequence number of the next append."""
        return self._store.next_seq

    def first_offset(self, topic: str, partition: int) -> int:
        """Offset of the first record that is kept of a partition; its end where none is."""
        return self._store.first_offset(topic, partition)

    def end_offset(self, topic: str, partition: int) -> int:
        """Next offset of a partition."""
        return self._store.lanes.get((topic, partition), (0, 0.0))[0]

    def newest(self, topic: str, partition: int) -> float:
        """The latest time of a record of a partition, epoch seconds, kept or not; minus infinity without any."""
        return self._store.lanes.get((topic, partition), (0, -math.inf))[1]

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Next offset of each partition of a topic."""
        return {p: self.end_offset(topic, p) for p in range(self._partitions.get(topic, 1))}

    def ends(self) -> dict[tuple[str, int], int]:
        """Next offset of each topic and partition that has records."""
        return {lane: end for lane, (end, _) in self._store.lanes.items()}

    def close(self) -> None:
        """Sync and close the files."""
        if isinstance(self._store, SegmentStore):
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
