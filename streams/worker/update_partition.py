"""The side lane: one partition of ``entity-updates``.

It owns the rows of entities that are not their stream's key, and of all label aggregates. A record that comes twice,
because a score or label lane was repeated after a crash, is known by its id and changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from weir.online.batch import UpdateBatch
from weir.online.codec.row_updates import DecodedUpdates, decode_updates
from weir.online.stages.scoring import ScoringStage
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.redis.partitions.partition_store import Lane, LaneRecord
from weir.streams.worker.context import Context
from weir.streams.worker.lane import PendingWrite, RowLane
from weir.streams.worker.letters import DeadLetters, refused_of
from weir.streams.worker.scoring.remembered_ids import RememberedIds

REMEMBERED = 262_144
"""Updates; repeats come within the few batches that a crash or a rewind repeats."""


class SideLane(RowLane):
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
        self._letters = DeadLetters(ctx)
        self._nothing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._nothing.set_result(None)

    def restore(self, record: LaneRecord | None, journal: list[bytes]) -> None:
        """Rebuild the memory of ids."""
        key, next_offset = (record.mark, record.next_offset) if record is not None else (b"", 0)
        self.ids = RememberedIds(REMEMBERED, REMEMBERED, key or self.ctx.new_key(), journal=True)
        self.ids.restore(journal, next_offset)

    def mark(self) -> bytes:
        """The key of its ids."""
        return self.ids.key

    @property
    def id_bytes(self) -> int:
        """See `RowLane`."""
        return self.ids.nbytes

    async def compute(self, batch: FetchedBatch) -> PendingWrite:
        """Apply one batch of updates."""
        clock = self.ctx.metrics.stages("side")
        decoded = decode_updates([r.value for r in batch.records], self._widths)
        clock.lap("decode")
        at = batch.base_offset
        fresh = [(t.task, t.table, self._fresh(t.task, t.table, t.batch, at)) for t in decoded.tables]
        wanted: dict[str, list[str]] = {}
        for task, table, updates in fresh:
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

    def _fresh(self, task: str, table: str, updates: UpdateBatch, offset: int) -> UpdateBatch:
        """Without those that were applied before."""
        keep = self.ids.keep(updates.update_id, offset, [f"{task}/{table}"] * len(updates))
        return updates if keep.all() else updates.take(np.flatnonzero(keep))

    async def _send_letters(self, batch: FetchedBatch, decoded: DecodedUpdates) -> asyncio.Future[Any]:
        refused = refused_of(batch, [(r.index, r.reason) for r in decoded.rejects])
        pending = await self._letters.send(batch.topic, batch.partition, batch.count, refused)
        return pending[0] if pending else self._nothing


def side_layouts(stage: ScoringStage) -> list[str]:
    """Layouts of a task whose rows belong to side lanes."""
    namespace = f"{stage.task.name}."
    return [table.name.removeprefix(namespace) for table in stage.engine.tables if table.side]
