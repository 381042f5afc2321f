"""Reads the directory of an embedded log without owning it; another process may be writing it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weir.streams.embedded.embedded_log import LoggedBatch
from weir.streams.embedded.log_segments import FILE, SegmentReader, StoredRecords
from weir.streams.errors import UsageError


def read_directory(directory: Path) -> Iterator[LoggedBatch]:
    """Every whole batch up to the present end, in the log's order.

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
