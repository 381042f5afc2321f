"""The files of an embedded log, as their one owner: one thread appends, any thread reads or syncs.

Readers take no lock: the tuple of segments is replaced, never changed, and an index only grows. A failed fsync is the
end: the pages that were not written may be gone, and a second fsync would say that all is well.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from weir.models.durable import sync_names
from weir.streams.embedded.log_frames import LoggedBatch, pack_frame
from weir.streams.embedded.log_segments import FIRST, FrameIndex, Lanes, Segment, chain, segment_paths
from weir.streams.errors import LogError, LogFull

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_KEPT: Final = 8
"""Indexes of full files in memory: those that were asked for last."""


_RECENT: Final = 32
"""Batches in memory although the disk has them: who has just appended some hands them to many."""


class SegmentStore:
    """See the module.

    Parameters
    ----------
    directory : made where there is none.
    segment_bytes : size from which the next batch begins a new file.

    Raises
    ------
    LogError
        A file is damaged, or another one has the log open to write; nothing was changed.
    """

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self._segment_bytes = directory, segment_bytes
        # A cache of its own for each store, as the process may have several.
        self._load = lru_cache(_KEPT)(Segment.load)
        self._syncing = threading.RLock()
        """Held by whoever syncs, and while files are closed or cut."""
        self._files: dict[Path, int] = {}
        """Descriptors of the files that may hold what is not synced; the last is written to."""
        self._synced = -1
        """Up to which batch; -1 where that is not known."""
        self._recent: deque[LoggedBatch] = deque(maxlen=_RECENT)
        self._failed = ""
        self.segments: tuple[Segment, ...] = ()
        self.lanes: Lanes = {}
        self.next_seq = 0
        # Before anything is looked at: `_recover` cuts off what is half written.
        self._lock: int | None = _locked(directory)
        try:
            self._recover()
        except BaseException:
            os.close(self._lock)
            raise

    def _recover(self) -> None:
        paths = segment_paths(self.directory) or [self.directory / FIRST]
        paths[0].touch()
        segments = chain(paths)
        # From the end, so that a crash in between leaves files that follow one another.
        for path in reversed(paths[len(segments) :]):
            path.unlink()
        # The last file is written to again, and its index would not grow with it.
        for left in {*self.directory.glob("records*.idx")} - {s.index_path for s in segments[:-1]}:
            left.unlink()
        self._files = {segment.path: _open(segment.path) for segment in segments if segment.index is not None}
        self._settle(segments)

    def _settle(self, segments: Sequence[Segment]) -> None:
        """Go on behind the last frame of these; what is there is cut off."""
        last = segments[-1]
        assert last.index is not None
        os.ftruncate(self._files[last.path], last.index.end)
        self.lanes = dict(last.lanes)
        last.index.advance(self.lanes)
        self.next_seq, self._synced = last.first_seq + len(last.index), -1
        self.segments = tuple(segments)

    # -- the appending thread --------------------------------------------------------------------------------------

    def add(self, batches: Sequence[LoggedBatch]) -> None:
        """Append batches, all or none.

        Raises
        ------
        LogFull
            There is no room; the log is as it was.
        LogError
            It cannot be written any more.
        """
        if self._failed:
            raise LogError(self._failed)
        # Before anything is written: what cannot be encoded leaves the log as it was.
        packed = [pack_frame(batch) for batch in batches]
        index = self._room()
        self._write(self._files[self.segments[-1].path], b"".join(packed), index.end)
        for batch, frame in zip(batches, packed, strict=True):
            newest = max(record.ts for record in batch.records)
            lane = batch.topic, batch.partition
            index.add(*lane, batch.base_offset, len(batch.records), newest, len(frame))
            self.lanes[lane] = batch.next_offset, max(newest, self.lanes.get(lane, (0, -np.inf))[1])
            self._recent.append(batch)
            self.next_seq = batch.seq + 1

    def _room(self) -> FrameIndex:
        """The index of the file to write to: a new one, where the last is full.

        Neither of them is synced here, as that takes long: `sync` does it, and a start minds what was not.
        """
        last = self.segments[-1]
        assert last.index is not None
        if last.index.end < self._segment_bytes:
            return last.index
        segment, head = Segment.after(last.path, last.index.end, self.next_seq, self.lanes)
        assert segment.index is not None
        try:
            file = _open(segment.path)
        except OSError as error:
            raise self._refusal(error) from error
        try:
            self._write(file, head, 0)
        except LogError:
            os.close(file)
            segment.path.unlink()
            raise
        self._files[segment.path] = file  # only now: a sync takes the files before the last for full
        self.segments = (*self.segments, segment)
        return segment.index

    def _write(self, file: int, data: bytes, end: int) -> None:
        """Append to a file of ``end`` bytes, all or nothing."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError as error:
            self._cut_back(file, end)
            raise self._refusal(error) from error

    def _cut_back(self, file: int, end: int) -> None:
        """Nothing half-written stays: a later frame behind it would look like damage."""
        try:
            os.ftruncate(file, end)
        except OSError as worse:
            self._failed = f"{self.directory}: half a batch is at the end of the log ({worse}); restart to cut it off"
            raise LogError(self._failed) from worse

    def _refusal(self, error: OSError) -> LogError:
        if error.errno not in _NO_ROOM:
            return LogError(f"{self.directory}: the log cannot be written: {error}")
        free = shutil.disk_usage(self.directory).free
        return LogFull(
            f"{self.directory}: no room for the log ({error.strerror}; {free:,} B are free on its disk): make room, "
            "raise the quota, or keep less"
        )

    def truncate(self, seq: int) -> int:
        """Drop every batch from ``seq`` on; returns how many records went. Raises ``LogError`` before what is kept."""
        if seq >= self.next_seq:
            return 0
        if seq < self.segments[0].first_seq:
            raise LogError(f"{self.directory}: cannot be cut at batch {seq}; kept are those from {self.first_seq} on")
        with self._syncing:
            at = max(i for i, s in enumerate(self.segments) if s.first_seq <= seq)
            dropped = 0
            # From the end, as in `_recover`.
            for later in reversed(self.segments[at + 1 :]):
                dropped += int(later.load().rows["count"].sum())
                if later.path in self._files:
                    os.close(self._files.pop(later.path))
                later.remove()
            last = self.segments[at]
            index, row = last.load(), seq - last.first_seq
            dropped += int(index.rows["count"][row:].sum())
            # Before the file is cut: an index beside it says that it is full and synced.
            last.index_path.unlink(missing_ok=True)
            if last.path not in self._files:
                self._files[last.path] = _open(last.path)
            index.cut(row)
            last.index = index
            self._load.cache_clear()
            self._recent.clear()
            self._settle(self.segments[: at + 1])
        return dropped

    def retain(self, keep_from: int, older_than: float, max_bytes: float) -> int:
        """See `EmbeddedLog.retain`."""
        freed, held = 0, sum(segment.path.stat().st_size for segment in self.segments)
        # The head of the next file holds the offsets: it is on the disk when a sync has seen a batch behind it.
        keep_from = min(keep_from, self._synced - 1)
        while len(self.segments) > 1 and self.segments[0].stored and self.segments[1].first_seq <= keep_from:
            oldest = self.segments[0]
            if held - freed <= max_bytes and float(self._index(oldest).rows["newest"].max()) >= older_than:
                break
            freed += oldest.path.stat().st_size
            self.segments = self.segments[1:]  # first: whoever looks from now on is told what is kept
            oldest.remove()
        return freed

    # -- any thread ------------------------------------------------------------------------------------------------

    def sync(self) -> int:
        """See `EmbeddedLog.sync`."""
        with self._syncing:
            if self._failed:
                raise LogError(self._failed)
            # The number before the files: a batch that is appended between is synced and not counted.
            seq, files = self.next_seq, list(self._files)
            # Callers sync after each group; most find it done.
            if seq == self._synced:
                return seq
            segments = {segment.path: segment for segment in self.segments}
            *full, last = files
            try:
                for path in full:
                    self._seal(segments[path])
                os.fsync(self._files[last])
                if full or self._synced < 0:  # a name is new: the directory is written back by itself
                    sync_names(self.directory)
            except OSError as error:
                # The kernel may have dropped the pages that it could not write and call them clean: no second try.
                self._failed = (
                    f"{self.directory}: the log could not be synced ({error}): what was appended since may be lost, so "
                    "nothing more is taken; look after the disk, then restart"
                )
                raise LogError(self._failed) from error
            self._synced = seq
            return seq

    def _seal(self, segment: Segment) -> None:
        """Sync a full file, then say so by the index beside it."""
        os.fsync(self._files[segment.path])
        assert segment.index is not None
        try:
            segment.index.write(segment.index_path)
        except OSError as error:
            if error.errno in _NO_ROOM:  # the batches are safe; the next sync tries again
                return
            raise
        segment.index = None
        os.close(self._files.pop(segment.path))

    def close(self) -> None:
        """Sync and close; once."""
        with self._syncing:
            try:
                if self._files and not self._failed:
                    self.sync()
            finally:  # a disk that fails does not keep the directory from whoever opens it next
                for file in self._files.values():
                    os.close(file)
                self._files.clear()
                if self._lock is not None:
                    os.close(self._lock)
                    self._lock = None
                self._failed = self._failed or f"{self.directory}: the log is closed"

    @property
    def first_seq(self) -> int:
        """Of the first batch that is kept."""
        return self.segments[0].first_seq

    def first_offset(self, topic: str, partition: int) -> int:
        """Of the first record that is kept of a partition; where the next one will be where none is."""
        return self.segments[0].lanes.get((topic, partition), (0, 0.0))[0]

    def _index(self, segment: Segment) -> FrameIndex:
        index = segment.index
        return self._load(segment) if index is None else index

    def read(self, topics: Collection[str], seq: int) -> tuple[list[LoggedBatch], int]:
        """Batches of these topics from ``seq`` to the end of a file as it is now, and the batch behind that end."""
        segments = self.segments
        segment = max((s for s in segments if s.first_seq <= seq), key=lambda s: s.first_seq, default=segments[0])
        index = self._index(segment)
        end = len(index)  # before the rows: more may be added while we look
        rows = index.of_topics(topics)
        rows = rows[(rows >= seq - segment.first_seq) & (rows < end)]
        recent = {batch.seq: batch for batch in list(self._recent)}
        return [recent.get(b.seq, b) for b in segment.batches(index, rows)], segment.first_seq + end

    def lane(self, topic: str, partition: int, offset: int, newest: float) -> Iterator[LoggedBatch]:
        """Batches of a partition that reach behind ``offset``, from the first with a time of ``newest`` or later on."""
        segments, lane = self.segments, (topic, partition)
        for segment, after in zip(segments, (*segments[1:], None), strict=True):
            if after is not None:
                end, time = after.lanes.get(lane, (0, -np.inf))
                if end <= offset or time < newest:
                    continue
            index = self._index(segment)
            yield from segment.batches(index, index.place(topic, partition, offset, newest))


def _locked(directory: Path) -> int:
    """A descriptor that holds the directory: a second owner would cut off the batch that the first is writing."""
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise LogError(
            f"{directory}: the log is open already, here or in another process; end that one first"
        ) from error
    return held


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
