"""Brings the timers of silence to the partitions of their entities, before lanes are emptied and filled again.

A score lane that is there knows more of its timers than the events that Kafka still has: what fired although no event
came, whom it saw long ago. So what its timers hold is read, as of where its partition is filled up to, and kept until
the rebuild has come to its end: one that was cut short goes on from that. In a partition that is lost, timers first see
the events of the partition that it was; where all are lost they are filled as rows are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, cast

from weir.online.labels.moves.moved_timers import divided
from weir.online.labels.silence import SilencePolicy
from weir.streams.errors import StateError
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.redis.partitions.partition_record import decode_record, read_lane
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.redis.stored_rebuild import StoredRebuild
from weir.streams.redis.stored_rows import lane_prefix
from weir.streams.worker.partitions import LaneHost
from weir.streams.worker.scoring.event_partition import ScoreLane

log = logging.getLogger(__name__)

Timers = Mapping[str, bytes]
"""Snapshots by task."""
_NONE: Final[Timers] = {}


class TimerMove:
    """One move, from the lanes of ``before`` partitions to those of ``after``.

    Parameters
    ----------
    host : makes lanes; its partitioner is known, and nothing is sent or consumed.
    kept : by the rebuild.
    bounds : of a lane's partition, the offsets that are taken.
    batches : its records between two offsets.
    """

    def __init__(
        self,
        host: LaneHost,
        kept: StoredRebuild,
        bounds: Callable[[Lane], Awaitable[tuple[int, int]]],
        batches: Callable[[Lane, int, int], AsyncIterator[FetchedBatch]],
        before: int,
        after: int,
    ) -> None:
        self._host, self._kept, self._bounds, self._batches = host, kept, bounds, batches
        self._before, self._after = before, after

    async def timers_of(self, stream: str) -> list[Timers]:
        """By partition of now, what the timers of tasks on a stream are to hold there; nothing where events say it."""
        found: list[dict[str, bytes]] = [{} for _ in range(self._after)]
        tasks = [task for task in self._host.ctx.tasks if task.stream == stream]
        policies = {task.name: task.labels.silence for task in tasks if task.labels.silence is not None}
        if policies:
            self._host.declare(self._before)  # what is astray is as it was
            held = await self._held([(stream, p) for p in range(min(self._before, self._after))])
            self._host.declare(self._after)
            if self._host.ctx.settings.topics.misplaced == "keep":  # nothing has an owner then
                return [*held, *[_NONE] * (self._after - len(held))]
            for task, policy in policies.items():
                for of, snapshot in zip(found, await self._divided(task, policy, held), strict=False):
                    of[task] = snapshot
        return [*found]

    async def _divided(self, task: str, policy: SilencePolicy, held: list[Timers]) -> list[bytes]:
        snapshots = [timers[task] for timers in held if task in timers]
        if not snapshots:
            return []
        try:
            owners_of = self._host.ctx.placement.partitions_of
            return await asyncio.to_thread(divided, policy, snapshots, owners_of, self._after)
        except StateError as error:  # another kind of timers: the task was changed since
            log.warning("task %s: its timers are filled from events: %s", task, error)
            return []

    async def _held(self, lanes: list[Lane]) -> list[Timers]:
        """What the timers of each lane hold, kept from now on; nothing of tasks of which no lane knows anything."""
        kept = [await self._kept.timers(lane) for lane in lanes]
        held = [of or await self._stored(lane) for of, lane in zip(kept, lanes, strict=True)]
        known = {task for timers in held for task in timers}
        for place, lane in enumerate(lanes):
            if known and not held[place]:
                held[place] = {task: of for task, of in (await self._seen(lane)).items() if task in known}
            if known and kept[place] is None:
                await self._kept.note_timers(lane, held[place])
        return held

    async def _stored(self, key: Lane) -> Timers:
        """Of a lane that is there, as of where its partition is filled up to."""
        ctx, lane = self._host.ctx, cast("ScoreLane", self._host.row_lane(key))
        try:
            await ctx.topics.check(key)
            value, journal = await read_lane(ctx.link, lane_prefix(ctx.link.prefix, key))
            if value is None:
                return _NONE
            record = decode_record(value)
            if record.journal != len(journal):
                raise StateError(f"its journal has {len(journal)} entries, its record says {record.journal}")
            await asyncio.to_thread(lane.restore, record, journal)
        except StateError as error:
            log.warning(
                "timers of %s are filled from its events, as what is stored cannot be used: %s", lane.name, error
            )
            return _NONE
        return await self._see(lane, record.next_offset)

    async def _seen(self, key: Lane) -> Timers:
        """Of a lane that is lost, by all of its events that there are."""
        lane = cast("ScoreLane", self._host.row_lane(key))
        lane.restore(None, [])
        return await self._see(lane, 0)

    async def _see(self, lane: ScoreLane, start: int) -> Timers:
        first, end = await self._bounds(lane.lane)
        async for batch in self._batches(lane.lane, max(start, first), end):
            lane.pass_by(batch)
        return lane.timers()
