"""Scores what arrives together: batches of several partitions of one stream, computed as one.

A batch of twenty records costs nearly what one of a hundred does: numpy and Python calls, not rows. So the batches that
wait, one of each lane, go through decoder, features, models and encoder together. What a lane keeps stays its own:
intake, timers, journal, rows and position.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from weir.online.batch import FloatMatrix, IntVector
from weir.online.codec.decode import DecodedEvents
from weir.online.features.store import FeatureStore
from weir.online.stages.scoring import ScoringStage
from weir.online.task.spec import STREAM_KEYS
from weir.streams.config import topics
from weir.streams.errors import in_words
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.produce.record_batches import Columns
from weir.streams.ops.metrics import Laps
from weir.streams.records import Record
from weir.streams.redis.partitions.merged_store import JointRows
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.worker.context import Context
from weir.streams.worker.inference.remote_models import rows_of
from weir.streams.worker.lanes.lane_outputs import prediction_columns, update_records
from weir.streams.worker.lanes.step_writer import PendingWrite
from weir.streams.worker.pauses import OF_THE_PROCESS
from weir.streams.worker.scoring.lane_batch import LaneBatch, MergedBatch, join, owners_of
from weir.streams.worker.scoring.misplaced import Astray

if TYPE_CHECKING:
    from weir.streams.worker.inference.remote_models import RemoteClient
    from weir.streams.worker.scoring.event_partition import ScoreLane

log = logging.getLogger(__name__)

MOST_RECORDS: Final = 2048
"""Computed together, but for the last batch: nothing else runs in the process meanwhile."""

Taken = Sequence[tuple["ScoreLane", FetchedBatch]]
Acknowledgements = list[asyncio.Future[Any]]


class Scoring:
    """The score lanes of one stream in one worker.

    Parameters
    ----------
    ctx : what lanes share.
    stages : makes the stages of the stream's tasks, over a store.
    """

    def __init__(self, ctx: Context, stages: Callable[[FeatureStore], list[ScoringStage]]) -> None:
        self.ctx = ctx
        self._rows = JointRows(ctx.store)
        self._stages = stages(self._rows)
        self._key = STREAM_KEYS[self._stages[0].task.stream]
        """The column whose values the stream is partitioned by."""
        self._side = {table.name for stage in self._stages for table in stage.engine.tables if table.side}
        self._waiting: dict[ScoreLane, deque[FetchedBatch]] = {}
        self._arrived = 0
        """Batches, since the start."""
        self._news = asyncio.Event()
        self._busy: set[ScoreLane] = set()
        self._alone: dict[ScoreLane, int] = {}
        """Lanes of which one met an error when they were computed together: up to this offset each is by itself."""
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to take batches."""
        if not self._tasks:
            self._spawn(self._dispatch)

    async def stop(self) -> None:
        """Forget what waits and what is under way; the lanes have to be closed."""
        # A new set: where it is empty `start` begins anew, and those that end here take themselves out of the old one.
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._waiting.clear()
        self._busy.clear()
        self._alone.clear()

    def drop(self, lane: ScoreLane) -> None:
        """Forget what waits of a lane that closes, while the others go on."""
        self._waiting.pop(lane, None)
        self._alone.pop(lane, None)

    def put(self, lane: ScoreLane, batch: FetchedBatch) -> None:
        """Take a batch of a lane; the consumer bounds how many wait."""
        self._waiting.setdefault(lane, deque()).append(batch)
        self._arrived += 1
        self._news.set()

    def has(self, lane: ScoreLane) -> bool:
        """Whether a batch of the lane waits or is at work."""
        return lane in self._busy or bool(self._waiting.get(lane))

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.ensure_future(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dispatch(self) -> None:
        """Compute whatever waits; while one computation waits for Redis or for brokers, another lane's goes on."""
        while True:
            # Before looking, so that news between the look and the wait is not lost.
            self._news.clear()
            await self._gather()
            if lanes := self._ready():
                self._busy.update(lanes)
                self._spawn(partial(self._run, lanes))
            else:
                await self._news.wait()

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whatever it is, going on would skip a batch
            await self.ctx.crash(error)

    async def _gather(self) -> None:
        """Let what was fetched together arrive: Faust's stream hands over one batch a turn of the loop."""
        arrived = -1
        while arrived != self._arrived:
            arrived = self._arrived
            await asyncio.sleep(0)

    def _ready(self) -> list[ScoreLane]:
        """Lanes that have a batch and are not at work, up to `MOST_RECORDS`; one that has to be alone is."""
        ready: list[ScoreLane] = []
        records = 0
        for lane, batches in self._waiting.items():
            if batches and lane not in self._busy:
                if lane in self._alone:
                    # Not beside others: it is computed when none stand before it.
                    if ready:
                        continue
                    return [lane]
                ready.append(lane)
                records += len(batches[0].records)
                if records >= MOST_RECORDS:
                    break
        return ready

    async def _run(self, lanes: Sequence[ScoreLane]) -> None:
        """Compute the oldest batch of each lane; a lane that the store has elsewhere goes back."""
        held: list[ScoreLane] = []
        moved: list[tuple[ScoreLane, LaneMoved]] = []
        failed: Exception | None = None
        try:
            # All locks before any batch is taken: a lane that closes or goes back holds its own until it has.
            for lane in lanes:
                await lane.lock.acquire()
                held.append(lane)
            oldest = [(lane, batches.popleft()) for lane in lanes if (batches := self._waiting.get(lane))]
            # Between the fetch and now a lane may have been rewound.
            taken = [(lane, batch) for lane, batch in oldest if batch.tick is not None or self.ctx.consumer.take(batch)]
            for (lane, batch), made in zip(taken, await self.compute(taken), strict=True):
                if isinstance(made, LaneMoved):
                    moved.append((lane, made))
                else:
                    lane.made(made)
                    self._passed(lane, batch)
        # Not one lane's, so none is to be computed alone for it: the worker ends.
        except OF_THE_PROCESS:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told below
            failed = error
        finally:
            # Before anything goes back, which takes the lock itself.
            for lane in held:
                lane.lock.release()
        if failed is not None:
            await self._failed(taken, failed)
        for lane, elsewhere in moved:
            await self._attempt(lane, partial(lane.rewind, elsewhere))
        # Only now: a lane that goes back must not be at work again meanwhile.
        self._busy.difference_update(lanes)
        self._news.set()

    def _passed(self, lane: ScoreLane, batch: FetchedBatch) -> None:
        if self._alone and batch.next_offset >= self._alone.get(lane, batch.next_offset + 1):
            del self._alone[lane]

    async def _failed(self, taken: Taken, error: Exception) -> None:
        """One partition's error is its own; of several each goes back and is computed alone, which tells whose it is.

        All go back: each may have seen its batch, and not what should have come of it.
        """
        if len(taken) == 1:
            self.ctx.fail(taken[0][0].lane, error)
            return
        names = ", ".join(lane.name for lane, _ in taken)
        log.warning("%s: %s; each is computed again by itself", names, in_words(error))
        for lane, batch in taken:
            # Before it goes back: its batch comes again at once, and is to find this.
            self._alone[lane] = batch.next_offset
            await self._attempt(lane, lane.go_back)

    async def _attempt(self, lane: ScoreLane, work: Callable[[], Awaitable[object]]) -> None:
        """Do something of one lane's; what is wrong with that is its own."""
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - its partition, or the process, does not go on
            self.ctx.fail(lane.lane, error)

    # -- a computation -------------------------------------------------------------------------------------------

    async def compute(self, taken: Taken) -> list[PendingWrite | LaneMoved]:
        """Score one batch of each of some lanes, outputs on their way; where a lane has moved, the error that says so.

        The lanes do nothing else meanwhile.
        """
        clock = self.ctx.metrics.stages("score")
        parts = self._admit(taken, clock)
        made: dict[ScoreLane, PendingWrite | LaneMoved] = {}
        # One row cannot be loaded and saved for two lanes at once: such batches go one after the other.
        together = [parts] if owners_of(parts, self._side) is not None else [[part] for part in parts]
        for some in together:
            left = await self._fetch(some, made)
            clock.lap("prefetch")
            if left:
                await self._score(left, made, clock)
        return [made[lane] for lane, _ in taken]

    def pass_by(self, lane: ScoreLane, batch: FetchedBatch) -> None:
        """Let a lane's intake and timers see a batch of which nothing is made."""
        self._admit([(lane, batch)], self.ctx.metrics.stages("score"))

    def _admit(self, taken: Taken, clock: Laps) -> list[LaneBatch]:
        """Decode everything; each lane's intake and timers see what is its own."""
        if not taken:
            return []
        # Any of the lanes decodes alike: their tasks are the same, and so are the columns.
        decoded = taken[0][0].decode([record.value for _, batch in taken for record in batch.records])
        clock.lap("decode")
        cuts = list(accumulate((len(batch.records) for _, batch in taken), initial=0))
        own = [decoded.part(a, b) for a, b in pairwise(cuts)] if len(taken) > 1 else [decoded]
        astray = self._astray(taken, decoded)
        parts = [
            lane.admit(batch, some, astray.get(batch.partition, ()))
            for (lane, batch), some in zip(taken, own, strict=True)
        ]
        clock.lap("intake")
        return parts

    def _astray(self, taken: Taken, decoded: DecodedEvents) -> dict[int, list[Astray]]:
        """By partition, the records of its batch that another one owns; over all batches at once, as that is cheap."""
        sizes = [len(batch.records) for _, batch in taken]
        ids = cast("list[str]", decoded.batch.entities[self._key])  # the wire format requires it
        at = np.repeat([batch.partition for _, batch in taken], sizes)[decoded.index]
        rows, owners = self.ctx.placement.owners(ids, at)
        found: dict[int, list[Astray]] = {}
        if len(rows):
            starts = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
            for row, owner in zip(rows.tolist(), owners.tolist(), strict=True):
                index = int(decoded.index[row])
                found.setdefault(int(at[row]), []).append(Astray(index - int(starts[index]), ids[row], owner))
        return found

    async def _fetch(self, parts: list[LaneBatch], made: dict[ScoreLane, PendingWrite | LaneMoved]) -> list[LaneBatch]:
        """Bring the rows into memory; the parts whose lanes have not moved."""
        # Anew where a lane has moved: rows of other lanes are asked for through the first, which may have been that
        # one.
        while parts:
            failed = await self._prefetch(parts)
            if not failed:
                break
            made |= failed
            parts = [part for part in parts if part.lane not in failed]
        return parts

    async def _prefetch(self, parts: Sequence[LaneBatch]) -> dict[ScoreLane, LaneMoved]:
        store, wants = self.ctx.store, [part.wanted for part in parts]
        if self._side and len(parts) > 1:  # rows of other lanes are read through the first
            side = {table: [key for want in wants for key in want.get(table, ())] for table in self._side}
            wants = [{table: keys for table, keys in want.items() if table not in side} for want in wants]
            wants[0] |= {table: keys for table, keys in side.items() if keys}
        asks = [(part.lane.lane, want) for part, want in zip(parts, wants, strict=True)]
        # Tasks cost more than a call that has nothing to ask for, which is most of them.
        if sum(store.lacks(*ask) for ask in asks) > 1:
            found = await asyncio.gather(*(self._bring(*ask) for ask in asks))
        else:
            found = [await self._bring(*ask) for ask in asks]
        return {part.lane: error for part, error in zip(parts, found, strict=True) if error is not None}

    async def _bring(self, lane: Lane, wanted: dict[str, list[str]]) -> LaneMoved | None:
        try:
            await self.ctx.store.prefetch(lane, wanted)
        except LaneMoved as moved:
            return moved
        return None

    async def _score(
        self, parts: Sequence[LaneBatch], made: dict[ScoreLane, PendingWrite | LaneMoved], clock: Laps
    ) -> None:
        self._rows.use([part.lane.lane for part in parts], owners_of(parts, self._side) or {})
        joints = join(self._stages, parts)
        asked: list[Acknowledgements] = [[] for _ in parts]
        for joint in joints:
            joint.features()
            if self.ctx.remote is None or not joint.remote:
                joint.finish(joint.ask())
        if self.ctx.remote is not None:
            await self._ask_remotely(parts, [joint for joint in joints if joint.remote], self.ctx.remote, asked)
        writes = [self.ctx.store.end_step(part.lane.lane, part.batch.next_offset - 1) for part in parts]
        clock.lap("features_score")
        columns, rows, others = self._hand_out(parts, joints)
        clock.lap("encode")
        records, name = self.ctx.records, self.ctx.name
        places = [(part.lane.lane[1], own) for part, own in zip(parts, rows, strict=True)]
        # To the partition of the same number, not by key: an entity may be where its producer's hash, not Kafka's, has
        # put it.
        sent = await records.send_parts(name(topics.PREDICTIONS), columns, places)
        shared = [await records.send(name(topics.ENTITY_UPDATES), others)] if others else []
        for part, predictions, own, written in zip(parts, sent, asked, writes, strict=True):
            # A lane that closes cancels what it waits for, which the others still want.
            own += map(asyncio.shield, shared) if len(parts) > 1 else shared
            made[part.lane] = await part.lane.step(part, written, predictions, own)
        clock.lap("send")

    async def _ask_remotely(
        self,
        parts: Sequence[LaneBatch],
        joints: Sequence[MergedBatch],
        remote: RemoteClient,
        asked: Sequence[Acknowledgements],
    ) -> None:
        """Let inference workers say what their full models make of each part, and finish.

        Adds the acknowledgements of the requests to ``asked``: one that is lost would be missing in a state.
        """
        wanted: list[list[tuple[int, Any]]] = [[] for _ in parts]
        answers: list[dict[int, FloatMatrix]] = [{} for _ in joints]
        for k, joint in enumerate(joints):
            rows = rows_of(joint.stage.task, joint.featured)
            for i, start, stop in joint.scored_rows():
                wanted[i].append((k, rows.part(start, stop)))

        async def ask(i: int) -> None:
            found, sent = await remote.ask(parts[i].lane.lane[1], [rows for _, rows in wanted[i]], self.ctx.now())
            asked[i].append(sent)
            for (k, _), answer in zip(wanted[i], found, strict=True):
                answers[k][i] = answer

        # Side by side: each may wait for a whole deadline.
        await asyncio.gather(*(ask(i) for i, some in enumerate(wanted) if some))
        for joint, found in zip(joints, answers, strict=True):
            joint.finish(np.concatenate([found[i] for i in sorted(found)]) if found else None)

    def _hand_out(
        self, parts: Sequence[LaneBatch], joints: Sequence[MergedBatch]
    ) -> tuple[Columns, list[IntVector], list[Record]]:
        """Give each part its scores.

        Returns all predictions, which of them are of each part, and updates of rows that belong to no part.
        """
        now, made, others = self.ctx.now(), list[Columns](), list[Record]()
        # An empty one first, so that a part without predictions can be joined, too.
        rows: list[list[IntVector]] = [[np.empty(0, np.int64)] for _ in parts]
        for joint in joints:
            name, scored = joint.stage.task.name, joint.out.scored
            if scored is not None:
                first = sum(map(len, made))
                made.append(prediction_columns(joint.stage, scored, now))
                for i, start, stop in joint.scored_rows():
                    parts[i].scored[name] = scored if len(parts) == 1 else scored.slice(start, stop)
                    rows[i].append(np.arange(first + start, first + stop))
            others += update_records(self.ctx, name, joint.out.updates, now)
        return Columns.concat(made), [np.concatenate(own) for own in rows], others
