"""Finds the logged scores of one event or entity, from the newest records of ``predictions`` back, and explains one.

Nothing says where in the log an event is, so partitions are read in chunks from their ends, in turn; an event is in one
partition alone. A crash may have made it be scored again: the first record counts, downstream as here, so the search
goes on behind a find for as long as repeats are apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from weir.online.errors import UNREADABLE
from weir.streams.errors import UsageError
from weir.streams.kafka.kafka_errors import RecordsDeleted
from weir.streams.model_replicas.explanation import Explanation, explain, row_of
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.refold import Progress
from weir.streams.model_replicas.topic_reader import TopicReader
from weir.streams.records import Record

CHUNK_RECORDS: Final = 20_000
_TICK_S: Final = 0.001
"""What Kafka knows of a time."""
REPEATS_S: Final = 3_600.0
"""How far apart the records of one event are searched for, by the time they were written."""


@dataclass(frozen=True, slots=True)
class Search:
    """Which scores to find; ``None`` leaves a thing open, but one of the ids has to be given."""

    task: str
    event_id: str | None = None
    entity_id: str | None = None
    score: float | None = None
    """Exactly this one."""
    partitions: Sequence[int] = ()
    """Only these; all without any."""
    since: float | None = None
    """Only what was written at this time or later, epoch seconds."""
    until: float | None = None
    """Only what was written at this time or earlier."""
    repeats_s: float = REPEATS_S

    def fits(self, p: _Prediction) -> bool:
        """Whether a prediction is one of them."""
        wanted = ((self.event_id, p.event_id), (self.entity_id, p.entity_id), (self.score, p.score))
        return p.task == self.task and all(given in (None, found) for given, found in wanted)


@dataclass(frozen=True, slots=True)
class LoggedScore:
    """One record of ``predictions``."""

    partition: int
    offset: int
    written_at: float
    event_id: str
    entity_id: str
    ts: float
    score: float
    model_version: int | str
    features: dict[str, float]


class _Prediction(msgspec.Struct, gc=False):
    """What is used of a record; floats come back bit for bit."""

    event_id: str
    entity_id: str
    task: str
    ts: float
    score: float
    model_version: int | str
    features: dict[str, float]


_DECODER: Final = msgspec.json.Decoder(_Prediction)


async def find_scores(reader: TopicReader, search: Search, progress: Progress | None = None) -> list[LoggedScore]:
    """Every record of the event's score, by offset: the first is the one that counts.

    Raises
    ------
    UsageError
        A partition that the topic does not have.
    """
    known = reader.partitions()
    if wrong := [p for p in search.partitions if p not in known]:
        raise UsageError(f"{reader.topic} has no partition {wrong[0]}; it has {known[0]} to {known[-1]}")
    lanes = {p: await _bounds(reader, p, search) for p in search.partitions or known}
    total = sum(high - low for low, high in lanes.values())
    read, found = 0, list[LoggedScore]()
    while lanes:
        for partition, (low, high) in list(lanes.items()):
            start = max(low, high - CHUNK_RECORDS)
            oldest, hits = None, list[LoggedScore]()
            try:
                async for offset, record in _records(reader, partition, start, high):
                    oldest = record.ts if oldest is None else oldest
                    hit = _match(search, partition, offset, record)
                    hits += [hit] if hit is not None else []
            except RecordsDeleted:  # retention went on while older chunks were read: this is the oldest there is
                low = start
            # Older hits in front: chunks are read from the end back, and the first record is the one that counts.
            read, found = read + high - start, hits + found
            if found:
                lanes = {partition: lanes[partition]}  # its key is the entity: it is nowhere else
            lanes[partition] = (low, start)
            past = bool(found) and oldest is not None and oldest < found[0].written_at - search.repeats_s
            if start == low or past:
                del lanes[partition]
            if progress is not None:
                progress(read if lanes else total, total)
            if found:
                break
    return found


async def _bounds(reader: TopicReader, partition: int, search: Search) -> tuple[int, int]:
    low, high = await reader.bounds(partition)
    if search.since is not None:
        low = max(low, await reader.offset_at(partition, search.since))
    if search.until is not None:
        # One tick on: records of that very millisecond are to be among them.
        high = min(high, await reader.offset_at(partition, search.until + _TICK_S))
    return min(low, high), high


async def _records(reader: TopicReader, partition: int, start: int, stop: int) -> AsyncIterator[tuple[int, Record]]:
    async for offsets, records, *_ in reader.read(partition, start, stop):
        for pair in zip(offsets, records, strict=True):
            yield pair


def _match(search: Search, partition: int, offset: int, record: Record) -> LoggedScore | None:
    # A substring is found a hundred times faster than JSON is read.
    if msgspec.json.encode(search.event_id or search.entity_id) not in record.value:
        return None
    try:
        p = _DECODER.decode(record.value)
    except UNREADABLE:
        return None
    if not search.fits(p):
        return None
    what = (p.event_id, p.entity_id, p.ts, p.score, p.model_version, p.features)
    return LoggedScore(partition, offset, record.ts, *what)


def version_of(logged: LoggedScore, fold: ExampleFold) -> int:
    """The version that made a score; raises ``UsageError`` when this task file cannot have."""
    if not isinstance(logged.model_version, int):
        raise UsageError(
            f"task {fold.task}: the score was made by model {logged.model_version!r} of the registry, not by a version "
            "of the online model; only the latter are rebuilt from examples"
        )
    row_of(logged.features, fold.features, fold.task)
    return logged.model_version


def explain_logged(logged: LoggedScore, fold: ExampleFold) -> Explanation:
    """Score again with ``fold``, which is at the version that made the score; raises as `version_of`."""
    x, version = row_of(logged.features, fold.features, fold.task), version_of(logged, fold)
    return explain(
        fold.model, fold.features, x, event_id=logged.event_id, entity_id=logged.entity_id, ts=logged.ts,
        score=logged.score, version=version,
    )  # fmt: skip
