"""A lane whose rows are in the store: one partition, processed batch by batch, whose position is written with its rows.

The order that makes a crash harmless: compute; outputs acknowledged by the brokers; then one atomic write of the rows
and of the offset behind the batch. A crash before the write repeats the batch from the rows it started from, and its
outputs are repeats of records with the same ids; a crash after it repeats nothing. Batches compute while those before
them wait for acknowledgements (decision 17): what a batch wrote is kept apart until its turn.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from weir.streams.errors import StateError
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.redis.partitions.partition_store import Lane, LaneRecord, Writes
from weir.streams.redis.store_errors import LaneMoved

if TYPE_CHECKING:
    from weir.streams.worker.context import Context


SHARE: Final = 0.05
"""Of the time, for all lanes of a worker together."""
MOST_S: Final = 0.2
_NEWEST: Final = 0.2
"""Weight of the newest measurement."""


class Linger:
    """As long as keeps the work of all lanes at a small share of the time, whatever it costs here and now.

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

    def __init__(self) -> None:
        self._took_s = 0.0

    def took(self, seconds: float) -> None:
        """Tell what the work of one lane took once."""
        self._took_s += _NEWEST * (seconds - self._took_s)

    def pause_s(self, lanes: int) -> float:
        """Seconds to gather for, where so many lanes do the same."""
        return min(lanes * self._took_s / SHARE, MOST_S)


log = logging.getLogger(__name__)

MOST_REFUSALS: Final = 5
"""The same refusal, this often in a row, is more than the few that one loss causes: the partition pauses."""
MAX_ROWS: Final = 4_000
"""Rows of one write, but for the last step's: the store does nothing else meanwhile, some 6 us a row."""


@dataclass(frozen=True, slots=True)
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
    """Called once acknowledged, in order."""


class RowLane(ABC):
    """Runs one partition; subclasses say what a batch makes.

    Parameters
    ----------
    lane : topic (Weir's name for it) and partition.
    ctx : what all lanes of a worker share.
    """

    def __init__(self, lane: Lane, ctx: Context) -> None:
        self.lane, self.ctx = lane, ctx
        self.name = f"{lane[0]}-{lane[1]}"
        self._inbox: asyncio.Queue[FetchedBatch] = asyncio.Queue()
        self._steps: deque[PendingWrite] = deque()
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self.lock = asyncio.Lock()
        """Held by who computes, or rewinds."""
        self.next_offset: int | None = None
        """Behind the last batch that was computed; ``None`` before the first of a new lane."""
        self.unmade = True
        """Whether memory is not what is stored: not loaded, or it has seen a batch whose step was not made."""
        self._tasks: list[asyncio.Task[None]] = []
        self._linger = Linger()
        self._refused: tuple[tuple[int | None, int | None], int] = ((None, None), 0)
        """The last refusal, as what was expected and found, and how often it came in a row."""

    # -- what a subclass does ------------------------------------------------------------------------------------

    @abstractmethod
    def restore(self, record: LaneRecord | None, journal: list[bytes]) -> None:
        """Set the lane's own memory to what was stored; a new lane for ``None``."""

    @property
    @abstractmethod
    def id_bytes(self) -> int:
        """What the ids that it remembers take in memory."""

    @abstractmethod
    async def compute(self, batch: FetchedBatch) -> PendingWrite:
        """Everything a batch makes, its outputs on their way; ends with the store's step of this lane."""

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(self) -> int | None:
        """Load what is stored; the offset to go on from, ``None`` where nothing was ever stored."""
        self.unmade = True
        async with self.ctx.opening:
            record = await self.ctx.store.open(self.lane)
            journal = await self.ctx.store.load_journal(self.lane) if record is not None else []
            self.next_offset = record.next_offset if record is not None else None
            await asyncio.to_thread(self.restore, record, journal)
        self.unmade = False
        return self.next_offset

    @property
    def starts(self) -> dict[Lane, int]:
        """The next offset of the partition, where there is one."""
        return {self.lane: self.next_offset} if self.next_offset is not None else {}

    @property
    def where(self) -> tuple[int | None, float | None] | None:
        """Its next offset and its event time, where it has one; ``None`` where it takes nothing."""
        return (self.next_offset, None) if self.started else None

    @property
    def started(self) -> bool:
        """Whether it takes batches."""
        return bool(self._tasks)

    async def take_up(self) -> bool:
        """Go on with a lane that was `let_go`, where nobody has written it since; else it has to be opened anew."""
        if not await self.ctx.store.untouched(self.lane):
            return False
        self._inbox, self._refused = asyncio.Queue(), ((None, None), 0)
        self._idle.set()
        return True

    def start(self) -> None:
        """Begin to take batches."""
        for work in self._works():
            task = asyncio.ensure_future(self._guard(work))
            self._tasks.append(task)

    def _works(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What runs while the lane is open; what writes comes last."""
        return [self._run, self._flush_steps]

    async def close(self) -> None:
        """Let go of the partition and of what is in memory."""
        await self.let_go()
        self.ctx.store.close(self.lane)

    async def let_go(self) -> bool:
        """Let go of the partition: what was not written is another worker's to repeat.

        Whether what is in memory is what is stored, no more and no less: then the lane may be taken up again.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        unwritten = len(self._steps)
        for step in self._steps:
            step.acknowledged.cancel()
        self._steps.clear()
        return not (self.unmade or unwritten) and self.ctx.store.written(self.lane) == self.next_offset

    async def finish(self, limit_s: float) -> None:
        """Close it; what was computed is written first, if that takes no longer than ``limit_s``."""
        async with self.lock:  # what is computed together with other lanes is computed to its end
            await self._drain(limit_s)
            await self.close()

    async def _drain(self, limit_s: float) -> None:
        """Wait, for so long at most, until what was computed is written."""
        if self._tasks:
            idle = asyncio.ensure_future(self._idle.wait())
            await asyncio.wait({idle, self._tasks[-1]}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()

    def put(self, batch: FetchedBatch) -> None:
        """Take a batch; the consumer bounds how many wait."""
        self._inbox.put_nowait(batch)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, going on would skip a batch
            self.ctx.fail(self.lane, error)

    async def run_alone(self, batch: FetchedBatch) -> None:
        """Process one batch to the end, where the lane is open and not started."""
        await self._flush([await self.compute(batch)])
        self.next_offset, self.unmade = batch.next_offset, False

    def mark(self) -> bytes:
        """What the lane keeps in its record."""
        return b""

    async def move(self, offset: int, newest: float = math.inf) -> None:
        """Go on at ``offset``, where the lane is open and not started; rows that seem newer than ``newest`` are not."""
        store = self.ctx.store
        writes = store.end_step(self.lane, offset - 1)
        clocks = {table: min(ts, newest) for table, ts in writes.clocks.items()}
        record = store.record(self.lane, offset, self.mark())
        await store.flush(self.lane, [replace(writes, clocks=clocks)], record, self.next_offset)
        self.next_offset = offset

    # -- compute -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            batch = await self._inbox.get()
            try:
                async with self.lock:
                    # Between the fetch and now the lane may have been rewound.
                    if self.ctx.consumer.take(batch):
                        self.unmade = True
                        self.made(await self.compute(batch))
            except LaneMoved as moved:
                await self.rewind(moved)

    def made(self, step: PendingWrite) -> None:
        """A batch was computed."""
        self._steps.append(step)
        self.unmade = False
        self._idle.clear()
        self.next_offset = step.batch.next_offset
        self._wake.set()

    # -- store ---------------------------------------------------------------------------------------------------

    async def _flush_steps(self) -> None:
        while True:
            while not self._steps:
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(self._linger.pause_s(self.ctx.lanes))  # outputs are out; only completion waits
            steps = await self._acknowledged()
            try:
                await self._flush(steps)
            except LaneMoved as moved:
                await self.rewind(moved)

    async def _acknowledged(self) -> list[PendingWrite]:
        """The steps in front whose outputs are acknowledged; waits for the first."""
        steps: list[PendingWrite] = []
        rows = 0
        while self._steps and (not steps or (self._steps[0].acknowledged.done() and rows < MAX_ROWS)):
            step = self._steps[0]
            await step.acknowledged
            if not self._steps or self._steps[0] is not step:  # rewound meanwhile
                return []
            self._steps.popleft()
            if step.after is not None:
                await step.after()
            steps.append(step)
            rows += step.writes.rows
        return steps

    async def _flush(self, steps: list[PendingWrite]) -> None:
        if not steps:
            return
        last, m = steps[-1], self.ctx.metrics
        record = self.ctx.store.record(self.lane, last.batch.next_offset, last.mark)
        journal = [entry for step in steps for entry in step.journal]
        started = m.now()
        await self.ctx.store.flush(
            self.lane, [s.writes for s in steps], record, steps[0].expected, journal, sum(s.drop for s in steps)
        )
        self._linger.took(m.now() - started)
        m.flushed(self.lane[0], started, len(steps))
        for step in steps:
            if step.batch.tick is None:
                self.ctx.consumer.complete(step.batch)
                self.ctx.completed(step.batch)

    def _note_refusal(self, moved: LaneMoved) -> None:
        """Raises ``StateError`` where going back does not help: what is computed then would be from the wrong rows."""
        pair, times = (moved.expected, moved.actual), self._refused[1]
        self._refused = (pair, times + 1 if pair == self._refused[0] else 1)
        if self._refused[1] > MOST_REFUSALS:
            raise StateError(
                f"{self.name}: the store refused {self._refused[1]} times what the lane expects ({moved}), although it "
                "went back each time: see whether another worker, outside of this group, writes with the same prefix"
            ) from moved

    async def rewind(self, moved: LaneMoved) -> None:
        """The store is not where this lane left it: a crash of Redis lost its last second, or another worker wrote."""
        log.warning("%s: %s; the lane goes on from there", self.name, moved)
        self._note_refusal(moved)
        start = await self.go_back()
        if start is None and self._tasks:
            raise StateError(
                f"{self.name}: the store lost everything about this partition; stop the workers and run "
                "'weir features rebuild'"
            ) from moved
        self.ctx.metrics.rewound(self.lane[0])

    async def go_back(self) -> int | None:
        """Return to where the store is, and repeat from there; that offset, ``None`` where it has nothing."""
        async with self.lock:
            if not self._tasks:  # closed meanwhile
                return None
            self._steps.clear()
            start = await self.open()
            self.ctx.consumer.rewind(self.ctx.topic_partition(self.lane), start)
            return start
