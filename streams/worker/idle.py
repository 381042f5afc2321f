"""Lets time pass in partitions that stand still: what waits for silence there would else wait for ever.

A partition's time moves with its own events. Where none come, although it was read to its end, its time is that of the
stream's other partitions in this worker. Where all stand still it is the clock's, less what an event may be late, but
only where the stream had reached the clock: a history that is being loaded has not. The lane journals each such step,
so it is taken again as it was. It moves no watermark: no event is late by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from faust.types import TP

from weir.streams.redis.partitions.partition_store import Lane

if TYPE_CHECKING:
    from weir.streams.worker.context import Context
    from weir.streams.worker.labelling.label_partition import LabelLane
    from weir.streams.worker.scoring.event_partition import ScoreLane

    TimedLane = ScoreLane | LabelLane
    """A lane in which something may be due."""


class IdleTime:
    """Looks after the lanes of a worker.

    Parameters
    ----------
    ctx : what they share.
    groups : lanes by their keys; those of a group belong to one stream.
    partitions_of : what a lane reads.
    """

    def __init__(
        self,
        ctx: Context,
        groups: Callable[[], Iterable[Mapping[Lane, TimedLane]]],
        partitions_of: Callable[[Lane], Iterable[TP]],
    ) -> None:
        self._ctx, self._groups, self._partitions_of = ctx, groups, partitions_of
        self._after = ctx.settings.worker.idle_after

    async def run(self) -> None:
        """Look for ever, where that is wanted."""
        while self._after:
            # Half of it, so that no partition stands still for more than one and a half.
            await asyncio.sleep(self._after / 2)
            self.look(asyncio.get_running_loop().time())

    def look(self, at: float) -> None:
        """Let time pass wherever a lane has had nothing to do for long, ``at`` the loop's clock."""
        for lanes in self._groups():
            for key, lane in lanes.items():
                if at - lane.active_at < self._after:
                    continue
                try:
                    self._pass(key, lane, lanes.values())
                except Exception as error:  # noqa: BLE001 - it is this lane's
                    self._ctx.fail(key, error)

    def _pass(self, key: Lane, lane: TimedLane, lanes: Iterable[TimedLane]) -> None:
        time = self._time(lane, lanes)
        # Time may pass only behind the last record: one that waits in the log may be of before.
        if lane.due(time) and all(map(self._ctx.consumer.at_end, self._partitions_of(key))):
            lane.pass_time(time)

    def _time(self, lane: TimedLane, lanes: Iterable[TimedLane]) -> float:
        now, lateness = self._ctx.now(), self._ctx.settings.worker.intake.allowed_lateness
        others = max((other.watermark for other in lanes if other is not lane), default=float("-inf"))
        live = any(other.live for other in lanes)
        # No further than the clock: another partition's watermark may be of a record ahead of it.
        return max(min(others, now), now - lateness if live else float("-inf"))
