"""Keeps what trainings need in Parquet files, for longer than logs hold it.

``DIR/<task>/<kind>/day=2024-05-01/p003-00000000001000-00000000002000.parquet`` holds the task's records among offsets
[1000, 2000) of partition 3, all written on that day (UTC). A file is written whole or not at all, and its name says
what it covers, also where that is nothing: another run writes what is missing, and nothing twice. The file
``DIR/<task>/<kind>/topic`` holds the id of the topic that the offsets are of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weir.models.durable import write_durably
from weir.online.batch import FloatVector
from weir.streams.errors import UsageError
from weir.streams.trainer.history.log_sources import Advance, LogSource, Piece, monotonic
from weir.streams.trainer.history.logged_tables import KINDS, Kind, RecordReader

DAY_S: Final = 86_400.0
FILE_RECORDS: Final = 250_000
"""Records a file covers at most: what is in memory, and what a killed run does again."""
_NAME: Final = re.compile(r"p(\d+)-(\d+)-(\d+)\.parquet")


@dataclass(slots=True)
class ArchiveCounts:
    """What a run wrote."""

    files: int = 0
    rows: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


@dataclass(slots=True)
class _Stretch:
    """Records of one partition and one day on their way into a file."""

    partition: int
    start: int
    stop: int
    day: int
    tables: list[pa.Table] = field(default_factory=list)
    records: int = 0


class Archive:
    """The archive of one task.

    Parameters
    ----------
    directory : of the archives of all tasks.
    reader : reads the task's records.
    """

    def __init__(self, directory: Path, reader: RecordReader) -> None:
        self._root, self._reader = directory / reader.task.name, reader
        self.archived = ArchiveCounts()
        self._open: _Stretch | None = None

    async def write(
        self, source: LogSource, since: float | None, until: float | None, advance: Advance | None = None
    ) -> ArchiveCounts:
        """Write what was logged in ``[since, until)`` and is not archived yet.

        Raises
        ------
        UsageError
            The archive covers offsets that the log does not have: it is of another log.
        """
        for kind in KINDS:
            await self._write_kind(kind, source, since, until, advance)
        return self.archived

    async def _write_kind(
        self, kind: Kind, source: LogSource, since: float | None, until: float | None, advance: Advance | None
    ) -> None:
        topic = self._reader.topic(kind)
        whole, wanted = await source.spans(topic, None, None), await source.spans(topic, since, until)
        covered = self.covered(kind)
        self._check_topic(kind, topic, await source.identity(topic))
        for partition, (_, end) in whole.items():
            if (last := max((stop for _, stop in covered.get(partition, ())), default=0)) > end:
                raise UsageError(
                    f"{self._root}: holds {topic}-{partition} up to offset {last}, the log ends at {end}: it is of "
                    "another log, or the topic was made anew; give another --out"
                )
        gaps = {p: missing(span, covered.get(p, ())) for p, span in wanted.items()}
        total, done = sum(stop - start for spans in gaps.values() for start, stop in spans), 0
        for partition, spans in gaps.items():
            for start, stop in spans:
                at = start
                async for piece, written_at in monotonic(source.read(topic, partition, start, stop)):
                    self._take(kind, partition, at, piece, written_at)
                    at = piece.offsets[-1] + 1
                    if advance is not None:
                        advance(kind, done + at - start, total)
                self._finish(kind, stop)
                done += stop - start

    def _check_topic(self, kind: Kind, topic: str, identity: str) -> None:
        """Refuse a topic of the same name that was made anew; an archive that has no id yet gets this one."""
        held = self._root / kind / "topic"
        # Offsets alone do not tell a topic that was made anew from the old one once it has grown past it.
        known = held.read_text().strip() if held.is_file() else ""
        if known and identity and known != identity:
            raise UsageError(
                f"{self._root}: holds {topic} of topic id {known}, but the brokers now have {identity}: the topic was "
                "made anew; give another --out"
            )
        if identity and not known:
            # Once, and whole: a file that a kill left empty would take any topic for its own.
            write_durably(held, lambda file: file.write(f"{identity}\n".encode()))

    def _take(self, kind: Kind, partition: int, start: int, piece: Piece, written_at: FloatVector) -> None:
        """Add records to the file that is being made, and begin another one where their day or its size wants it."""
        days = np.floor_divide(written_at, DAY_S).astype(np.int64)
        edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
        for low, high in pairwise(edges):
            # From the end of the piece before: offsets that compaction took are covered, too, and not asked for again.
            first = start if low == 0 else piece.offsets[low]
            stretch = self._open
            if stretch is None or stretch.day != days[low] or stretch.records >= FILE_RECORDS:
                if stretch is not None:
                    self._finish(kind, first)
                stretch = self._open = _Stretch(partition, first, first, int(days[low]))
            stretch.tables += self._reader.tables(kind, piece.records[low:high], written_at[low:high])
            stretch.records += high - low
            stretch.stop = piece.offsets[high - 1] + 1

    def _finish(self, kind: Kind, stop: int) -> None:
        """Write the file that is being made; it covers the offsets up to ``stop``."""
        stretch, self._open = self._open, None
        if stretch is None:
            return
        # Tables of a stretch differ where the task's features changed: what one lacks is null.
        table = pa.concat_tables(stretch.tables, promote_options="default") if stretch.tables else pa.table({})
        folder = self._root / kind / f"day={datetime.fromtimestamp(stretch.day * DAY_S, UTC):%Y-%m-%d}"
        path = folder / f"p{stretch.partition:03d}-{stretch.start:014d}-{stop:014d}.parquet"
        write_durably(path, lambda file: pq.write_table(table, file, compression="zstd"))
        self.archived.files += 1
        self.archived.rows[kind] += table.num_rows

    def covered(self, kind: Kind) -> dict[int, list[tuple[int, int]]]:
        """By partition, the offset ranges that files cover."""
        found: dict[int, list[tuple[int, int]]] = {}
        for path in (self._root / kind).glob("day=*/*.parquet"):
            if (named := _NAME.fullmatch(path.name)) is not None:
                found.setdefault(int(named[1]), []).append((int(named[2]), int(named[3])))
        return found


def missing(span: tuple[int, int], covered: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of ``[start, stop)`` no range covers.

    >>> missing((0, 10), [(6, 8), (2, 5), (4, 6)])
    [(0, 2), (8, 10)]
    """
    at, stop = span
    gaps = []
    for low, high in sorted(covered):
        if at < min(low, stop):
            gaps.append((at, min(low, stop)))
        at = max(at, high)
    return [*gaps, (at, stop)] if at < stop else gaps


def read_archive(directory: Path, task: str, kind: Kind, since: float | None = None) -> list[pa.Table]:
    """Tables of a kind that were written since ``since``, as they were before they were archived.

    Raises
    ------
    UsageError
        There is no archive of the task, or a file of it cannot be read.
    """
    root = directory / task
    if not root.is_dir():
        raise UsageError(f"{root}: no archive of task {task}; make one with weir archive --out {directory}")
    found = []
    for path in _files(root / kind, since):
        try:
            table = pq.ParquetFile(path).read()  # read_table would add a column of the day's folder
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path}: cannot be read ({error}); delete it and run weir archive again") from error
        if table.num_rows:
            found.append(_since(table, since))
    return [table for table in found if table.num_rows]


def _files(folder: Path, since: float | None) -> Iterator[Path]:
    """Files of the days in question, by day, partition and offset."""
    for path in sorted(folder.glob("day=*/*.parquet")):
        day = datetime.strptime(path.parent.name, "day=%Y-%m-%d").replace(tzinfo=UTC).timestamp()
        if since is None or day + DAY_S > since:
            yield path


def _since(table: pa.Table, since: float | None) -> pa.Table:
    written_at = table["written_at"]
    late = since is None or pc.min(written_at).as_py() >= since
    return table if late else table.filter(pc.greater_equal(written_at, since))
