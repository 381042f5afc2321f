"""A lane whose rows are in the store: one partition, processed batch by batch, whose position is written with its rows.

The order that makes a crash harmless: compute; outputs acknowledged by the brokers; then one atomic write of the rows
and of the offset behind the batch. A crash before the write repeats the batch from the rows it started from, and its
outputs are repeats of records with the same ids; a crash after it repeats nothing. Batches compute while those before
them wait for acknowledgements (decision 17): what a batch wrote is kept apart until its turn.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from weir.streams.errors import StateError
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.redis.partitions.partition_store import Lane, LaneRecord
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.worker.lanes.journal import RememberedIds
from weir.streams.worker.lanes.lane_outputs import DeadLetters
from weir.streams.worker.lanes.step_writer import PendingWrite, StepWriter

if TYPE_CHECKING:
    from weir.streams.worker.context import Context


log = logging.getLogger(__name__)

MOST_REFUSALS: Final = 5
"""The same refusal, this often in a row, is more than the few that one loss causes: the partition pauses."""
REMEMBERED: Final = 262_144
"""Ids that a `SerialLane` remembers; repeats come within the few batches that a crash or a rewind repeats."""


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
        self.writer = StepWriter(lane, ctx, self.rewind)
        self.lock = asyncio.Lock()
        """Held by who computes, or rewinds."""
        self.next_offset: int | None = None
        """Behind the last batch that was computed; ``None`` before the first of a new lane."""
        self.unmade = True
        """Whether memory is not what is stored: not loaded, or it has seen a batch whose step was not made."""
        self._tasks: list[asyncio.Task[None]] = []
        self._refused: tuple[tuple[int | None, int | None], int] = ((None, None), 0)
        """The last refusal, as what was expected and found, and how often it came in a row."""

    # -- what a subclass does ------------------------------------------------------------------------------------

    @abstractmethod
    def restore(self, record: LaneRecord | None, journal: list[bytes]) -> None:
        """Set the lane's own memory to what was stored; a new lane for ``None``."""

    @abstractmethod
    def put(self, batch: FetchedBatch) -> None:
        """Take a batch."""

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
        # Bounded: as bytes and decoded at once a journal takes memory several times, and all lanes open together.
        async with self.ctx.opening:
            record = await self.ctx.store.open(self.lane)
            journal = await self.ctx.store.load_journal(self.lane) if record is not None else []
            self.next_offset = record.next_offset if record is not None else None
            # In a thread: a large memory of ids takes a while, and the other lanes go on.
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
        self._refused = ((None, None), 0)
        self.writer.idle.set()
        return True

    def start(self) -> None:
        """Begin to write what batches make."""
        self._begin(self.writer.run)

    def _begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have something run while the lane is open; what writes comes first."""
        self._tasks.append(asyncio.ensure_future(self._guard(work)))

    async def close(self) -> None:
        """Let go of the partition and of what is in memory."""
        await self.let_go()
        # Not in `let_go`: a lane that may come back keeps its rows.
        self.ctx.store.close(self.lane)

    async def let_go(self) -> bool:
        """Let go of the partition: what was not written is another worker's to repeat.

        Whether what is in memory is what is stored, no more and no less: then the lane may be taken up again.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        # Behind the tasks: the writer must not be in the middle of a write.
        unwritten = self.writer.forget()
        # The last, too: a write that was cut short may be in the store, and this memory does not know.
        return not (self.unmade or unwritten) and self.ctx.store.written(self.lane) == self.next_offset

    async def finish(self, limit_s: float) -> None:
        """Close it; what was computed is written first, if that takes no longer than ``limit_s``."""
        async with self.lock:  # what is computed together with other lanes is computed to its end
            if self._tasks:
                await self.writer.drain(limit_s, self._tasks[0])
            await self.close()

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whatever it is, going on would skip a batch
            self.ctx.fail(self.lane, error)

    async def run_alone(self, batch: FetchedBatch) -> None:
        """Process one batch to the end, where the lane is open and not started."""
        await self.writer.flush([await self.compute(batch)])
        self.next_offset, self.unmade = batch.next_offset, False

    def mark(self) -> bytes:
        """What the lane keeps in its record."""
        return b""

    async def move(self, offset: int, journal: Sequence[bytes] = (), drop: int = 0) -> None:
        """Go on at ``offset``, where the lane is open and not started; see `LaneStore.flush`."""
        store = self.ctx.store
        writes = store.end_step(self.lane, offset - 1)
        record = store.record(self.lane, offset, self.mark())
        await store.flush(self.lane, [writes], record, self.next_offset, journal, drop)
        self.next_offset = offset

    def made(self, step: PendingWrite) -> None:
        """A batch was computed."""
        self.writer.add(step)
        self.unmade = False
        self.next_offset = step.batch.next_offset

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
        # Closed meanwhile it is no loss: `go_back` then found nothing to return to.
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
            # Not `forget`, which cancels them: the writer may wait for one, and would end by that without a word.
            self.writer.steps.clear()
            start = await self.open()
            # Under the lock, so that no batch of before is computed from the rows as they are now.
            self.ctx.consumer.rewind(self.ctx.topic_partition(self.lane), start)
            return start


class SerialLane(RowLane):
    """A lane that computes by itself, one batch after the other, and remembers which ids it has taken in."""

    def __init__(self, lane: Lane, ctx: Context) -> None:
        super().__init__(lane, ctx)
        self._inbox: asyncio.Queue[FetchedBatch] = asyncio.Queue()
        self._letters = DeadLetters(ctx)

    def restore(self, record: LaneRecord | None, journal: list[bytes]) -> None:
        """Rebuild the memory of ids."""
        key, next_offset = (record.mark, record.next_offset) if record is not None else (b"", 0)
        self.ids = RememberedIds(REMEMBERED, REMEMBERED, key or self.ctx.new_key(), journal=True)
        self.ids.restore(journal, next_offset)

    def mark(self) -> bytes:
        """The key by which ids are hashed, which is stored with the rows."""
        return self.ids.key

    @property
    def id_bytes(self) -> int:
        """See `RowLane`."""
        return self.ids.nbytes

    def put(self, batch: FetchedBatch) -> None:
        """Take a batch; the consumer bounds how many wait."""
        self._inbox.put_nowait(batch)

    def start(self) -> None:
        """Begin to take batches."""
        super().start()
        self._begin(self._run)

    async def take_up(self) -> bool:
        """See `RowLane`."""
        self._inbox = asyncio.Queue()
        return await super().take_up()

    async def _run(self) -> None:
        while True:
            batch = await self._inbox.get()
            try:
                async with self.lock:
                    # Between the fetch and now the lane may have been rewound.
                    if self.ctx.consumer.take(batch):
                        # Before computing, which changes memory as it goes: an error leaves it like that.
                        self.unmade = True
                        self.made(await self.compute(batch))
            except LaneMoved as moved:
                await self.rewind(moved)
