"""Writes what the batches of a lane made into the store: in their order, each once its outputs are acknowledged.

Steps that are acknowledged together are one write. It knows steps and the store, not how a step is computed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.redis.partitions.partition_store import Lane, Writes
from weir.streams.redis.store_errors import LaneMoved

if TYPE_CHECKING:
    from weir.streams.worker.context import Context

MAX_ROWS: Final = 4_000
"""Rows of one write, but for the last step's: the store does nothing else meanwhile, some 6 us a row."""
SHARE: Final = 0.05
"""Of the time, for all lanes of a worker together."""
MOST_S: Final = 0.2
DECIDED_S: Final = 0.003
"""Instead of that, where somebody waits for decisions."""
_NEWEST: Final = 0.2
"""Weight of the newest measurement."""


class Linger:
    """As long as keeps the work of all lanes at a small share of the time, whatever it costs here and now.

    Parameters
    ----------
    most_s : no longer than that.

    Small batches cost nearly as much as large ones: calls and round trips, not rows. A worker of a few lanes is quick;
    one of many, or on a machine that is busy, where everything takes longer, does less of what nobody waits for.

    Examples
    --------
    >>> linger = Linger()
    >>> for _ in range(100):
    ...     linger.took(0.001)
    >>> round(linger.pause_s(lanes=2), 3), linger.pause_s(lanes=64)
    (0.04, 0.2)
    """

    def __init__(self, most_s: float = MOST_S) -> None:
        self._took_s, self._most_s = 0.0, most_s

    def took(self, seconds: float) -> None:
        """Tell what the work of one lane took once."""
        # Smoothed, as one slow round trip says little of the next.
        self._took_s += _NEWEST * (seconds - self._took_s)

    def pause_s(self, lanes: int) -> float:
        """Seconds to gather for, where so many lanes do the same."""
        return min(lanes * self._took_s / SHARE, self._most_s)


@dataclass(slots=True)
class PendingWrite:
    """What one batch made, on its way into the store."""

    batch: FetchedBatch
    expected: int | None
    """Next offset that the store must have before this step; ``None`` for a lane of which it has nothing."""
    acknowledged: asyncio.Future[Any]
    """Ends when every output is in all in-sync replicas."""
    writes: Writes
    mark: bytes
    journal: list[bytes]
    """What the lane remembers of this batch besides rows: ids for dedupe, what moved timers."""
    drop: int
    """Journal entries at the front that nobody needs any more."""
    after: Callable[[], Awaitable[None]] | None = None
    """Called once acknowledged, in order; ``None`` once that is done."""


class StepWriter:
    """The steps of one lane on their way into the store.

    Parameters
    ----------
    lane, ctx : whose, and what all lanes of a worker share.
    rewind : told that the store is not where the lane left it.
    """

    def __init__(self, lane: Lane, ctx: Context, rewind: Callable[[LaneMoved], Awaitable[None]]) -> None:
        self._lane, self._ctx, self._rewind = lane, ctx, rewind
        self.steps: deque[PendingWrite] = deque()
        """Not written yet, the oldest first."""
        self._wake, self.idle = asyncio.Event(), asyncio.Event()
        """``idle`` is set while nothing waits to be written."""
        self._linger = Linger()

    def add(self, step: PendingWrite) -> None:
        """Take the next step."""
        self.steps.append(step)
        self.idle.clear()
        self._wake.set()

    def forget(self) -> int:
        """Give up what is not written; how many steps that were."""
        unwritten = len(self.steps)
        for step in self.steps:
            # Nobody will ask for them any more, and an error that nobody takes would be in the log as one that was
            # lost.
            step.acknowledged.cancel()
        self.steps.clear()
        return unwritten

    async def drain(self, limit_s: float, running: asyncio.Task[None]) -> None:
        """Wait, for so long at most and while `run` is ``running``, until everything is written."""
        idle = asyncio.ensure_future(self.idle.wait())
        # The task too: where it has failed, nothing would ever be idle.
        await asyncio.wait({idle, running}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            while not self.steps:
                self.idle.set()
                self._wake.clear()
                await self._wake.wait()
            await self._gather(self._linger.pause_s(self._ctx.lanes))  # outputs are out; only completion waits
            steps = await self._acknowledged()
            try:
                await self.flush(steps)
            except LaneMoved as moved:
                await self._rewind(moved)

    async def _gather(self, pause_s: float) -> None:
        """Wait for more to write. Where decisions are waited for, what is acknowledged goes on to them meanwhile."""
        if not self._ctx.settings.worker.decisions:
            await asyncio.sleep(pause_s)
            return
        clock = asyncio.get_running_loop().time
        until = clock() + pause_s
        while (left_s := until - clock()) > 0:
            step = next((step for step in self.steps if step.after is not None), None)
            if step is None:
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._wake.wait()
                continue
            await asyncio.wait([step.acknowledged], timeout=left_s)
            # Not here: `_acknowledged` meets the same, and its error is the lane's.
            if not _succeeded(step.acknowledged):
                await asyncio.sleep(until - clock())
                return
            await _hand_on(step)

    async def _acknowledged(self) -> list[PendingWrite]:
        """The steps in front whose outputs are acknowledged; waits for the first."""
        steps: list[PendingWrite] = []
        rows = 0
        while self.steps and (not steps or (self.steps[0].acknowledged.done() and rows < MAX_ROWS)):
            step = self.steps[0]
            await step.acknowledged
            if not self.steps or self.steps[0] is not step:  # rewound meanwhile
                return []
            self.steps.popleft()
            await _hand_on(step)
            steps.append(step)
            rows += step.writes.rows
        return steps

    async def flush(self, steps: list[PendingWrite]) -> None:
        """Write some steps as one, and complete their batches."""
        if not steps:
            return
        last, m = steps[-1], self._ctx.metrics
        record = self._ctx.store.record(self._lane, last.batch.next_offset, last.mark)
        journal = [entry for step in steps for entry in step.journal]
        started = m.now()
        await self._ctx.store.flush(
            self._lane, [s.writes for s in steps], record, steps[0].expected, journal, sum(s.drop for s in steps)
        )
        self._linger.took(m.now() - started)
        m.flushed(self._lane[0], started, len(steps))
        for step in steps:
            # A tick is of no batch that the consumer has handed out.
            if step.batch.tick is None:
                self._ctx.consumer.complete(step.batch)
                self._ctx.completed(step.batch)


async def _hand_on(step: PendingWrite) -> None:
    # Before it is called: a step is handed on once, also where that is cut short.
    after, step.after = step.after, None
    if after is not None:
        await after()


def _succeeded(acknowledged: asyncio.Future[Any]) -> bool:
    return acknowledged.done() and not acknowledged.cancelled() and acknowledged.exception() is None
