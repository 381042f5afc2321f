"""Brings a label lane its steps: decodes batches, and reads ranges of Kafka, for recovery and what nobody brings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from online.decode import decode_labels
from online.scored import ScoredShape, decode_scored
from streams import topics
from streams.log import Record
from streams.stores.steps import Step
from streams.transport import FetchedBatch
from streams.transport.ranges import RangeReader
from streams.worker.context import Context
from streams.worker.work import Work


class LaneReader:
    """Decodes predictions and labels of one partition.

    Parameters
    ----------
    partition, ctx : the lane's.
    shapes : by task: what its predictions carry.
    """

    def __init__(self, partition: int, ctx: Context, shapes: Mapping[str, ScoredShape]) -> None:
        self._partition, self._ctx, self._shapes = partition, ctx, shapes

    def decode(self, batch: FetchedBatch) -> Work:
        """The step that a batch from the consumer is."""
        own = self._ctx.settings.topics.own(batch.topic) or batch.topic
        work = self._decode(Step(own, batch.base_offset, batch.next_offset), batch.records)
        work.batch = batch
        return work

    async def read(self, step: Step, *, whole: bool = False) -> AsyncIterator[Work]:
        """A range of offsets in steps of its own, or as the one step that it was."""
        options = self._ctx.settings.kafka.client_options("recovery")
        async with RangeReader(options, self._ctx.name(step.topic)) as reader:
            at, held = step.start, list[Record]()
            async for piece in reader.read(self._partition, step.start, step.stop):
                if whole:
                    held += piece.records
                    continue
                stop = piece.offsets[-1] + 1
                yield self._decode(Step(step.topic, at, stop), piece.records)
                at = stop
            if whole or at < step.stop:  # what is left are gaps, which belong to the range all the same
                yield self._decode(Step(step.topic, at, step.stop), held)

    async def bounds(self, topic: str) -> tuple[int, int]:
        """First offset of the partition that is kept, and the one behind its last."""
        options = self._ctx.settings.kafka.client_options("recovery")
        async with RangeReader(options, self._ctx.name(topic)) as reader:
            return await reader.bounds(self._partition)

    def _decode(self, step: Step, records: Sequence[Record]) -> Work:
        raw = [record.value for record in records]
        if step.topic == topics.LABELS:
            labels = decode_labels(raw)
            return Work(step, labels=labels.by_task(), refused=[(r.index, r.reason) for r in labels.rejects])
        scored = decode_scored(raw, self._shapes)
        tasks = {task: found.scored for task, found in scored.tasks.items() if len(found.scored)}
        return Work(step, scored=tasks, refused=[(r.index, r.reason) for r in scored.rejects])
