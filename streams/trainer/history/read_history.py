"""Reads the history and labels of a task: from logs (embedded, Kafka), from archives, or from both together.

What lies in both counts once. It knows tables and time ranges; how a log is read is in ``log_sources``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from weir.online.codec.limits import DEFAULT_LIMITS, InputLimits
from weir.online.stages.quarantine import find_quarantines
from weir.online.task.spec import TaskSpec
from weir.streams.trainer.history.history_builder import HistoryBuilder, LoggedHistory
from weir.streams.trainer.history.log_sources import LogSource, monotonic
from weir.streams.trainer.history.logged_tables import KINDS, Kind, RecordReader
from weir.streams.trainer.history.parquet_archive import read_archive

EVENT_SLACK_S: Final = 3_600.0
"""How long before the predictions their events are looked for: an event is written before it is scored."""


async def read_history(
    task: TaskSpec,
    *,
    source: LogSource | None = None,
    archive: Path | None = None,
    since: float | None = None,
    limits: InputLimits = DEFAULT_LIMITS,
) -> LoggedHistory:
    """Everything of ``task`` that was logged since ``since``, epoch seconds of the logs' clocks.

    Parameters
    ----------
    source : a log to read.
    archive : the directory ``weir archive`` writes; with both, each may lack what the other has.
    limits : see `RecordReader`.

    Raises
    ------
    UsageError
        Nothing usable is there.
    BrokerError
        Kafka cannot be reached.
    """
    builder = HistoryBuilder()
    left_out: Counter[str] = Counter()
    if archive is not None:
        for kind in KINDS:
            builder.add(kind, read_archive(archive, task.name, kind, _start(kind, since)))
    if source is not None:
        reader = RecordReader(task, limits)
        for kind in KINDS:
            await _read_kind(builder, reader, source, kind, _start(kind, since))
        left_out.update({f"unreadable {kind}": count for kind, count in reader.left_out.items()})
    logged = builder.build()
    logged.left_out.update(left_out)
    return logged


def _start(kind: Kind, since: float | None) -> float | None:
    return since - EVENT_SLACK_S if since is not None and kind == "events" else since


async def _read_kind(
    builder: HistoryBuilder, reader: RecordReader, source: LogSource, kind: Kind, since: float | None
) -> None:
    topic = reader.topic(kind)
    spans = await source.spans(topic, since, None)
    if kind == "examples":
        await _take_back(builder, reader, source, topic, spans)
    for partition, (start, stop) in spans.items():
        async for piece, written_at in monotonic(source.read(topic, partition, start, stop)):
            builder.add(kind, reader.tables(kind, piece.records, written_at))


async def _take_back(
    builder: HistoryBuilder, reader: RecordReader, source: LogSource, topic: str, spans: Mapping[int, tuple[int, int]]
) -> None:
    """Leave out the examples that quarantines name, wherever else they are kept."""
    for partition, (start, stop) in spans.items():
        ranges: set[tuple[int, int]] = set()
        async for piece in source.read(topic, partition, start, stop):
            found = find_quarantines([record.value for record in piece.records], piece.offsets)
            ranges.update(
                each for quarantine in found if quarantine.task == reader.task.name for each in quarantine.ranges
            )
        for first, end in sorted(ranges):
            async for piece, written_at in monotonic(source.read(topic, partition, first, end)):
                builder.take_back(reader.tables("examples", piece.records, written_at))
