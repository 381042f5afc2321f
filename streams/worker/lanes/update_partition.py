"""The side lane: one partition of ``entity-updates``.

It owns the rows of entities that are not their stream's key, and of all label aggregates. A record that comes twice,
because a score or label lane was repeated after a crash, is known by its id and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from weir.online.batch import IntVector, UpdateBatch
from weir.online.codec.row_updates import DecodedUpdates, decode_updates, encode_updates
from weir.online.codec.wire import ID_CHARS, REASON_CHARS
from weir.online.stages.scoring import ScoringStage
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.partitioners import partitions_of_text
from weir.streams.records import Record
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.worker.context import Context
from weir.streams.worker.lanes.lane import SerialLane
from weir.streams.worker.lanes.lane_outputs import refused_of
from weir.streams.worker.lanes.step_writer import PendingWrite


class SideLane(SerialLane):
    """One partition of ``entity-updates``.

    Parameters
    ----------
    lane, ctx : see `RowLane`.
    stages : by task; their engines know the tables.
    """

    def __init__(self, lane: Lane, ctx: Context, stages: dict[str, ScoringStage]) -> None:
        super().__init__(lane, ctx)
        self._stages = stages
        self._widths = {
            (task, layout): stage.engine.width(layout)
            for task, stage in stages.items()
            for layout in side_layouts(stage)
        }
        self._nothing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._nothing.set_result(None)

    async def compute(self, batch: FetchedBatch) -> PendingWrite:
        """Apply one batch of updates."""
        clock = self.ctx.metrics.stages("side")
        decoded = decode_updates([r.value for r in batch.records], self._widths)
        clock.lap("decode")
        at = batch.base_offset
        fresh = [(t.task, t.table, self._fresh(t.task, t.table, self._own(t.batch), at)) for t in decoded.tables]
        wanted: dict[str, list[str]] = {}
        for task, table, updates in fresh:
            # Only of what is fresh: the rows of repeats need not be read.
            wanted |= self._stages[task].engine.update_keys(table, updates)
        clock.lap("intake")
        await self.ctx.store.prefetch(self.lane, wanted)
        clock.lap("prefetch")
        self.ctx.store.use(self.lane)
        for task, table, updates in fresh:
            self._stages[task].engine.apply(table, updates)
            self.ctx.metrics.inc("weir_updates_total", len(updates), table=f"{task}.{table}")
        writes = self.ctx.store.end_step(self.lane, batch.next_offset - 1)
        clock.lap("apply")
        letters = await self._send_letters(batch, decoded)
        entries, drop = self.ids.entry(batch.next_offset)
        return PendingWrite(batch, self.next_offset, letters, writes, self.ids.key, entries, drop)

    def _own(self, updates: UpdateBatch) -> UpdateBatch:
        """Without those that another partition owns, which it takes by itself; they are met in a rebuild alone."""
        if self.ctx.silent is None:
            return updates
        return updates.where(_owners(updates, self.ctx.partitions) == self.lane[1])

    def strays(self, records: Sequence[Record]) -> Iterator[tuple[int, Record]]:
        """What other partitions own of some records of this one: the owner, and a record of as much."""
        decoded = decode_updates([record.value for record in records], self._widths)
        for of in decoded.tables:
            owners = _owners(of.batch, self.ctx.partitions)
            away = np.flatnonzero(owners != self.lane[1])
            # By record, and by owner among those of one: each such run is a record of its own.
            away = away[np.lexsort((owners[away], of.index[away]))]
            runs = np.flatnonzero(np.diff(of.index[away]) | np.diff(owners[away])) + 1
            for rows in np.split(away, runs) if len(away) else ():
                for block in encode_updates(of.batch.take(rows), of.task, of.table):
                    yield int(owners[rows[0]]), Record(b"", block, records[of.index[rows[0]]].ts)

    def _fresh(self, task: str, table: str, updates: UpdateBatch, offset: int) -> UpdateBatch:
        """Without those that were applied before."""
        # By table, as one event updates several rows under the same id.
        keep = self.ids.keep(updates.update_id, offset, [f"{task}/{table}"] * len(updates))
        return updates.where(keep)

    async def _send_letters(self, batch: FetchedBatch, decoded: DecodedUpdates) -> asyncio.Future[Any]:
        refused = refused_of(batch, [(r.index, r.reason) for r in decoded.rejects])
        pending = await self._letters.send(batch.topic, batch.partition, batch.count, refused)
        return pending[0] if pending else self._nothing


def _owners(updates: UpdateBatch, partitions: int) -> IntVector:
    # Weir alone writes the topic, by one partitioner, whichever producers of events have.
    return partitions_of_text(updates.entity_id, partitions)


def side_layouts(stage: ScoringStage) -> list[str]:
    """Layouts of a task whose rows belong to side lanes."""
    namespace = f"{stage.task.name}."
    return [table.name.removeprefix(namespace) for table in stage.engine.tables if table.side]


_AROUND: Final = 4_096
"""Bytes of a record's other fields and of its frame: ids of the largest size, times, names of fields."""
_NUMBER: Final = 26
"""Bytes of the longest number, with a comma."""
_CHARACTER: Final = 4
"""Bytes of the longest character."""
_REASONS, _EVENTS, _EVENT_CHARS = 64, 1_000, 100
"""Of one alert, at most; a timer's event id is that of its entity with a time."""


def largest_records(stage: ScoringStage) -> dict[str, int]:
    """By topic, the bytes of the largest record that a task can make, its frame included."""
    shape, features = stage.shape, sum(len(name.encode()) + 4 + _NUMBER for name in stage.shape.features)
    ids = len(shape.secondary) * (2 * ID_CHARS * _CHARACTER + 8)
    widths = [stage.engine.width(layout) for layout in side_layouts(stage)]
    found = {
        topics.PREDICTIONS: _AROUND + features + ids + _NUMBER * (shape.masks + len(shape.watched)),
        topics.EXAMPLES: _AROUND + features,
    }
    if widths:
        found[topics.ENTITY_UPDATES] = _AROUND + _NUMBER * max(widths)
    if stage.task.alerting:
        reason = (REASON_CHARS + ID_CHARS) * _CHARACTER + 2 * _NUMBER + 64
        found[topics.ALERTS] = _AROUND + _REASONS * reason + _EVENTS * (_EVENT_CHARS * _CHARACTER + 3)
        found[topics.DECISIONS] = _AROUND + _REASONS * reason  # a block of one row
    return found


def check_sizes(stages: Iterable[ScoringStage], limit: Callable[[str], int]) -> None:
    """Raise ``UsageError`` where a record of a task may not fit; ``limit`` gives the bytes that a topic takes."""
    for stage in stages:
        for own, size in largest_records(stage).items():
            if size > (allowed := limit(own)):
                raise UsageError(
                    f"task {stage.task.name}: a record of {own} may have {size} bytes, and the topic takes {allowed}: "
                    f"raise its max.message.bytes and [worker] max_record_bytes to {size}, or give the task fewer "
                    "features"
                )
