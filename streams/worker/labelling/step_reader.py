"""Brings a label lane its steps: decodes batches, and reads ranges of Kafka, for recovery and what nobody brings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

import numpy as np

from weir.online.batch import IntVector, ScoredBatch
from weir.online.codec.decode import DecodedLabels
from weir.online.codec.predictions import ScoredShape, decode_scored
from weir.online.labels.logged_predictions import RowsToRead
from weir.online.labels.places import records_at
from weir.online.stages.admission import decode_labels_in_time
from weir.streams.config import topics
from weir.streams.errors import BrokerError
from weir.streams.kafka.consume.fetched_batch import FetchedBatch, Slice
from weir.streams.kafka.consume.point_reader import PointReader
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.records import Record, RefusedRecord
from weir.streams.redis.partitions.label_journal import TICK, OffsetRange
from weir.streams.worker.context import Context
from weir.streams.worker.labelling.publisher import PendingStep
from weir.streams.worker.lanes.lane_outputs import in_order
from weir.streams.worker.scoring.misplaced import Astray

log = logging.getLogger(__name__)

PATIENCE_S: Final = 60.0
_PAUSE_S: Final = 1.0
T = TypeVar("T")


class LaneReader:
    """Decodes predictions and labels of one partition.

    Parameters
    ----------
    partition, ctx : the lane's.
    shapes : by task: what its predictions carry.
    points : of the topic of predictions; all lanes ask the same.
    """

    def __init__(self, partition: int, ctx: Context, shapes: Mapping[str, ScoredShape], points: PointReader) -> None:
        self._partition, self._ctx, self.shapes, self._points = partition, ctx, shapes, points
        self.features = {task: shape.features for task, shape in shapes.items()}
        """Names of each task's features."""
        self._told = False

    def decode(self, batch: FetchedBatch) -> PendingStep:
        """The step that a batch from the consumer is."""
        own = self._ctx.settings.topics.own(batch.topic) or batch.topic
        offsets = batch.offsets or range(batch.base_offset, batch.base_offset + len(batch.records))
        piece = Slice(offsets, batch.records, batch.refused, batch.appended)
        work = self.decode_step(OffsetRange(own, batch.base_offset, batch.next_offset), piece)
        work.batch = batch
        if work.unknown:
            count = sum(work.unknown.values())
            self._ctx.metrics.inc("weir_unknown_task_total", count, topic=own)
            if not self._told:
                words = "%s: records of tasks that do not run here are passed over, such as %r; this worker runs %s"
                log.warning(words, batch.topic, next(iter(work.unknown)), ", ".join(self.shapes))
                self._told = True
        return work

    def decode_step(self, step: OffsetRange, piece: Slice) -> PendingStep:
        """A step of these records."""
        raw, work = [record.value for record in piece.records], PendingStep(step, records=piece.total())
        if step.topic == topics.LABELS:
            # By the broker's clock where it stamped the records, else by ours.
            arrived = np.array([record.ts for record in piece.records]) if piece.appended else self._ctx.now()
            settings = self._ctx.settings
            labels = decode_labels_in_time(raw, arrived, settings.worker.intake, settings.limits)
            labels = self._own(work, piece, labels)
            by_task, rejects = labels.by_task(), labels.rejects
            work.labels = {task: of for task, of in by_task.items() if task in self.shapes}
            work.unknown = {task: len(of) for task, of in by_task.items() if task not in self.shapes}
        else:
            found, offsets = decode_scored(raw, self.shapes), np.asarray(piece.offsets, np.int64)
            own = {task: of for task, of in found.tasks.items() if len(of.scored)}
            work.scored = {task: replace(of.scored, offsets=offsets[of.index]) for task, of in own.items()}
            rejects, work.unknown = found.rejects, found.unknown
        decoded = [RefusedRecord(piece.offsets[r.index], r.reason, piece.records[r.index]) for r in rejects]
        work.refused = in_order(piece.refused, decoded)
        return work

    def _own(self, work: PendingStep, piece: Slice, labels: DecodedLabels) -> DecodedLabels:
        """Without those that another partition owns, which the step passes on; others' tasks are left to others."""
        if self._ctx.silent is not None:  # a rebuild joins them where their predictions were, then moves them
            return labels
        ids, tasks = labels.batch.entity_id, labels.tasks
        rows, owners = self._ctx.placement.owners(ids, self._partition)
        for row, owner in zip(rows.tolist(), owners.tolist(), strict=True):
            if tasks[row] in self.shapes:
                work.astray.append(Astray(int(labels.index[row]), ids[row], owner))
        if not work.astray:
            return labels
        work.source = piece
        return labels.take(np.flatnonzero(~np.isin(labels.index, [a.place for a in work.astray])))

    async def again(self, steps: Sequence[OffsetRange]) -> AsyncIterator[PendingStep]:
        """Steps that were taken before, as they were."""
        done, patience = 0, self._patience()
        while done < len(steps):
            try:
                async with AsyncExitStack() as stack:
                    cursors: dict[str, _Cursor] = {}
                    for step in steps[done:]:
                        if step.topic == TICK:
                            yield PendingStep(step)
                            done += 1
                            continue
                        if step.topic not in cursors:
                            reader = await stack.enter_async_context(self._reader(step.topic))
                            cursors[step.topic] = _Cursor(reader, self._partition)
                        work = self.decode_step(step, await cursors[step.topic].take(step))
                        patience.answered()
                        yield work
                        done += 1
            except BrokerError as error:
                await patience.wait(error)

    async def rest(self, start: int, stop: int) -> AsyncIterator[PendingStep]:
        """Predictions ``[start, stop)``, in steps as they come."""
        at, patience = start, self._patience()
        while at < stop:
            try:
                async with self._reader(topics.PREDICTIONS) as reader:
                    async for piece in reader.read(self._partition, at, stop):
                        end = piece.stop
                        patience.answered()
                        yield self.decode_step(OffsetRange(topics.PREDICTIONS, at, end), piece)
                        at = end
                break
            except BrokerError as error:
                await patience.wait(error)
        if at < stop:  # offsets that hold no record belong to the range all the same
            yield PendingStep(OffsetRange(topics.PREDICTIONS, at, stop))

    async def logged(self, task: str, wanted: RowsToRead) -> tuple[IntVector, ScoredBatch]:
        """Rows of a task as they were logged, ascending: those of ``wanted`` that Kafka still holds."""
        partitions, offsets = records_at(wanted.offsets, self._partition)
        found: dict[int, Record] = {}
        # Mostly the lane's own alone; of others, what came from there with its entity.
        for partition in np.unique(partitions).tolist():
            rows = np.flatnonzero(partitions == partition)
            wished = dict(zip(rows.tolist(), offsets[rows].tolist(), strict=True))
            held = await self._patience().ask(partial(self._points.read, partition, [*wished.values()]))
            found |= {row: held[at] for row, at in wished.items() if at in held}
        at = sorted(found)
        decoded = decode_scored([found[i].value for i in at], {task: self.shapes[task]}).tasks[task]
        # Two steps from a place to its row: of those wanted some are gone, and of those found some do not decode.
        return wanted.rows[np.array(at, np.int64)[decoded.index]], decoded.scored

    async def bounds(self) -> tuple[int, int]:
        """The first offset of predictions that is kept, and the one behind their last."""
        return await self._patience().ask(lambda: self._points.bounds(self._partition))

    async def first_label(self) -> int:
        """The first offset of labels that is kept."""

        async def ask() -> int:
            async with self._reader(topics.LABELS) as reader:
                return (await reader.bounds(self._partition))[0]

        return await self._patience().ask(ask)

    def _patience(self) -> Patience:
        return Patience(self._ctx.settings.worker.delivery_timeout_s)

    def _reader(self, topic: str) -> RangeReader:
        settings = self._ctx.settings
        options = settings.kafka.client_options("recovery")
        return RangeReader(options, self._ctx.name(topic), limits=settings.limits_of(topic))


class Patience:
    """Waits while brokers are away, for so long from one answer to the next.

    Parameters
    ----------
    limit_s : after it the error is raised.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._began: float | None = None

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question, asked until there is one; raises ``BrokerError`` as `wait` does."""
        while True:
            try:
                return await question()
            except BrokerError as error:
                await self.wait(error)

    async def wait(self, error: BrokerError) -> None:
        """Wait a little; raises ``error`` when that has been long enough."""
        now = asyncio.get_running_loop().time()
        if self._began is None:
            self._began = now
            log.warning("%s; waiting for them up to %g s", error, self._limit_s)
        if now - self._began > self._limit_s:
            raise error
        await asyncio.sleep(_PAUSE_S)

    def answered(self) -> None:
        """They are there: what comes next is waited for anew. A recovery may take longer than the patience."""
        self._began = None


class _Cursor:
    """Reads ranges of one partition that mostly follow each other, each part of the log once."""

    def __init__(self, reader: RangeReader, partition: int) -> None:
        self._reader, self._partition = reader, partition
        self._next = -1
        """Where the last range ended."""
        self._held = Slice((), ())
        """Read, and behind the last range."""

    async def take(self, step: OffsetRange) -> Slice:
        """The records of a range; raises as `RangeReader.read` does."""
        if step.start != self._next:
            self._held = Slice((), ())
            await self._reader.seek(self._partition, step.start)
        taken: list[Slice] = []
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            # What a fetch brought behind this range is of the next, which mostly begins there.
            mine, self._held = self._held.split(step.stop)
            taken.append(mine)
            if self._held or await self._reader.position() >= step.stop:
                self._next = step.stop
                return Slice.concat(taken)
            self._held = await self._reader.fetch()
            if asyncio.get_running_loop().time() > deadline:
                raise BrokerError(
                    f"{self._reader.topic}-{self._partition}: offsets {step.start} to {step.stop} did not come for "
                    f"{PATIENCE_S:g} s; see whether the brokers are up"
                )
