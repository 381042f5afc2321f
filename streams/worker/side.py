"""The side lane: one partition of ``entity-updates``.

It owns the rows of entities that are not their stream's key, and of all label aggregates. A record that comes twice,
because a score or label lane was repeated after a crash, is known by its id and changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from online.batch import UpdateBatch
from online.dedupe import Deduper, pack, unpack
from online.scoring import ScoringStage
from online.updates import DecodedUpdates, decode_updates
from streams.stores.redis import Lane, LaneRecord
from streams.transport import FetchedBatch
from streams.worker.context import Context
from streams.worker.journal import Generations
from streams.worker.lane import RowLane, Step
from streams.worker.letters import Letters, refused_of

REMEMBERED = 400_000
"""Ids of updates; repeats come within the few batches that a crash or a rewind repeats."""


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
        self._letters = Letters(ctx)
        self._nothing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._nothing.set_result(None)

    def restore(self, record: LaneRecord | None, journal: list[bytes]) -> None:
        """Rebuild the memory of ids."""
        del record
        self._ids = Deduper(REMEMBERED, np.inf, journal=True)
        self._ids.rebuild([unpack(entry) for entry in journal])
        self._held = Generations(unpack(entry).generation for entry in journal)

    async def compute(self, batch: FetchedBatch) -> Step:
        """Apply one batch of updates."""
        clock = self.ctx.metrics.stages("side")
        decoded = decode_updates([r.value for r in batch.records], self._widths)
        clock.lap("decode")
        fresh = [(t.task, t.table, self._fresh(t.task, t.table, t.batch)) for t in decoded.tables]
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
        taken = self._ids.take_journal()
        for kept in taken:  # by its own: a step may end one generation and begin the next
            self._held.add(kept.generation)
        entries = [pack(kept) for kept in taken]
        return Step(batch, self.next_offset, letters, writes, b"", entries, self._held.drop(self._ids.generation - 1))

    def _fresh(self, task: str, table: str, updates: UpdateBatch) -> UpdateBatch:
        """Without those that were applied before."""
        keep = self._ids.keep([f"{task}/{table}/{i}" for i in updates.update_id], updates.ts)
        return updates if keep.all() else updates.take(np.flatnonzero(keep))

    async def _send_letters(self, batch: FetchedBatch, decoded: DecodedUpdates) -> asyncio.Future[Any]:
        refused = refused_of(batch, [(r.index, r.reason) for r in decoded.rejects])
        pending = await self._letters.send(batch.topic, batch.partition, len(batch.records), refused)
        return pending[0] if pending else self._nothing


def side_layouts(stage: ScoringStage) -> list[str]:
    """Layouts of a task whose rows belong to side lanes."""
    namespace = f"{stage.task.name}."
    return [table.name.removeprefix(namespace) for table in stage.engine.tables if table.side]
