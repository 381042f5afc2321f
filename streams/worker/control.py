"""Obeys ``weir partitions``: looks for orders about the partitions of this worker, and says what became of each.

A partition is moved through its own lane, closed before and opened after: its place in the log and its rows stay of one
moment. It does not know how an order got into the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from weir.streams.errors import ShellError, UsageError
from weir.streams.redis.partition_orders import Answer, Order, Orders, Told
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.redis.stored_rows import place_of
from weir.streams.worker.pauses import Pauses

if TYPE_CHECKING:
    from weir.streams.worker.context import Context
    from weir.streams.worker.lane_table import LaneTable

log = logging.getLogger(__name__)
TICK_S: Final = 1.0
TELL_TICKS: Final = 5


class Control:
    """The orders of one worker."""

    def __init__(self, ctx: Context, host: LaneTable) -> None:
        self._ctx, self._host = ctx, host
        self._orders = Orders(ctx.link)
        self._pauses: Pauses = ctx.pauses
        self._owned: dict[str, Lane] = {}
        ctx.pauses.held = self._orders.held

    async def run(self) -> None:
        """Look for ever."""
        tick = 0
        while True:
            while not self._ctx.assigned:  # the consumer knows nothing yet
                await asyncio.sleep(TICK_S)
            owned = self._owned = {place_of(lane): lane for lane in [*self._host.lanes, *self._pauses.paused]}
            for place, order in (await self._orders.waiting(list(owned))).items():
                await self._obey(place, owned[place], order)
            # More often than `TOLD_S`, behind which it would read as if nobody owned the partition.
            if tick % TELL_TICKS == 0:
                await self._orders.tell(self._told(owned))
            tick += 1
            await asyncio.sleep(TICK_S)

    async def stop(self) -> None:
        """Tell that nothing is ours any more; `run` has to have ended."""
        owned, self._owned = self._owned, {}
        await self._orders.untell(list(owned))

    async def _obey(self, place: str, lane: Lane, order: Order) -> None:
        log.warning("%s: %s", place, order)
        try:
            answer = Answer(True, await self._do(place, lane, order), self._ctx.settings.worker.name())
        except Exception as error:
            if not (Pauses.takes(error) or isinstance(error, UsageError)):  # the order's mistake is not the worker's
                raise
            answer = Answer(False, f"{type(error).__name__}: {error}", self._ctx.settings.worker.name())
        log.warning("%s: %s: %s", place, order, answer.text)
        # Only now: an order of a worker that dies before is obeyed by the next owner.
        await self._orders.done(place, order, answer)
        await self._orders.tell(self._told({place: lane}))

    async def _do(self, place: str, lane: Lane, order: Order) -> str:
        if order.verb == "pause":
            # Before the lane closes: a worker that dies in between leaves it to one that finds it held.
            await self._orders.hold(place, order)
            self._pauses.by_hand(lane, str(order), order.at)
            await self._pauses.settled(lane)
            return "paused, until somebody resumes it"
        if order.verb == "resume":
            await self._orders.release(place)
            return await self._go_on(lane)
        held = lane in self._pauses.paused and self._pauses.paused[lane].kind == "hand"
        # What a person paused stays so; what paused by itself is closed by hand while it is moved.
        if not held:
            self._pauses.by_hand(lane, str(order), order.at)
        await self._pauses.settled(lane)
        try:
            value = order.value or 0.0
            if order.verb == "seek":
                done = await self._host.seek(lane, int(value), order.by)
            else:
                done = await self._host.set_watermark(lane, value)
            if (pause := self._pauses.paused.get(lane)) is not None:  # else the partition went to another worker
                pause.offsets.clear()  # its lane knows where it is
        # Also where the move was refused: the partition must not stand still for an order that failed.
        finally:
            went = "still paused by hand" if held else await self._go_on(lane)
        return f"{done}; {went}"

    async def _go_on(self, lane: Lane) -> str:
        if lane not in self._pauses.paused:
            return "it was not paused"
        self._pauses.resume(lane)
        await self._pauses.settled(lane)
        if lane in self._pauses.paused:
            raise ShellError(f"tried, and paused again: {self._pauses.paused[lane].reason}")
        return "it goes on"

    def _told(self, lanes: Mapping[str, Lane]) -> dict[str, Told]:
        worker, positions, found = self._ctx.settings.worker.name(), self._host.positions(), dict[str, Told]()
        lags = {self._ctx.own(tp): lag for tp, lag in self._ctx.app.batch_consumer.lag().items()}
        for place, lane in lanes.items():
            at, watermark = positions.get(lane, (None, None))
            pause = self._pauses.paused.get(lane)
            if pause is not None:
                found[place] = Told(worker, "paused", f"{pause.kind}: {pause.reason}", pause.since, pause.offset)
            elif lane in positions:
                found[place] = Told(worker, "served", "", None, at, lags.get(lane), watermark)
        return found
