"""Moves one partition by hand, through its own lane, while it is closed: to another offset, or to another time.

What is skipped becomes one dead letter that names the offsets, acknowledged before the lane moves: nothing is passed
over without a trace. It does not know who asked, nor when the lane goes on.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.outputs import dead_letter
from weir.streams.records import Record, RefusedRecord
from weir.streams.worker.context import Context
from weir.streams.worker.labelling.label_partition import LabelLane
from weir.streams.worker.lane import RowLane
from weir.streams.worker.scoring.event_partition import ScoreLane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PartitionLane = RowLane | LabelLane
"""What runs one partition, whatever its records are."""
SKIPPED: Final = "skipped"
"""The first word of the reason."""


@asynccontextmanager
async def _opened(lane: PartitionLane) -> AsyncIterator[int | None]:
    """A lane that is open and not started; where it is."""
    await lane.open()
    try:
        yield lane.starts.get(lane.lane)
    finally:
        await lane.close()


async def seek(lane: PartitionLane, offset: int, by: str) -> str:
    """Have a lane go on at ``offset``; of a label lane that is the next label, its predictions stay where they are."""
    async with _opened(lane) as at:
        before = at if at is not None else _stood(lane.ctx, lane.lane)
        await _letter(lane.ctx, lane.lane, before, offset, by)
        await lane.move(offset)
    return _moved(before, offset)


async def set_watermark(lane: PartitionLane, ts: float) -> str:
    """Have a score lane take ``ts``, epoch seconds, for the newest event time; raises ``UsageError`` for a new one."""
    assert isinstance(lane, ScoreLane), f"{lane.name} keeps no event time"
    async with _opened(lane) as at:
        if at is None:
            raise UsageError(f"{lane.name}: nothing of it was processed yet, so there is no event time to correct")
        before = lane.intake.watermark
        await lane.set_watermark(ts)
    return f"its event time was {before:.3f} and is {ts:.3f}"


def _stood(ctx: Context, lane: tuple[str, int]) -> int | None:
    pause = ctx.pauses.paused.get(lane)
    return pause.offset if pause is not None else None


def _moved(before: int | None, offset: int) -> str:
    if before is None:
        return f"goes on at {offset}; where it was is not known"
    if offset > before:
        return f"{offset - before} offsets skipped, {before} to {offset - 1}, told in one dead letter"
    return f"back from {before} to {offset}"


async def _letter(ctx: Context, lane: tuple[str, int], before: int | None, offset: int, by: str) -> None:
    if before is None or offset <= before:
        return
    why = f"{SKIPPED}: by hand, offsets {before} to {offset - 1} ({offset - before}), by {by}"
    skipped = RefusedRecord(before, why, Record(b"", b"", 0.0), offset - 1)
    letter = dead_letter(ctx.name(lane[0]), lane[1], skipped, ctx.now(), 0)
    await (await ctx.records.send(ctx.name(topics.DEAD_LETTERS), [letter]))
