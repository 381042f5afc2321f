"""What goes out of lanes: records of what they made, by Weir's own name of the topic, and dead letters.

``now`` is when records are published, epoch seconds. Dead letters have a limit, which pauses the partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from weir.online.batch import LabelBatch, PredictionBatch, ScoredBatch, UpdateBatch
from weir.online.codec.decision_blocks import BLOCK_BYTES as DECISION_BYTES
from weir.online.codec.encode import encode_labels, write_scored
from weir.online.codec.row_updates import BLOCK_BYTES, encode_updates
from weir.online.stages.labelling import LabelOutput
from weir.online.stages.scoring import ScoringStage
from weir.streams.config import topics
from weir.streams.errors import TooManyRejects
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.partitioners import partitions_of_text
from weir.streams.kafka.produce.record_batches import Columns
from weir.streams.outputs import dead_letter, decision_blocks, decision_records, letter_room
from weir.streams.records import Record, RefusedRecord
from weir.streams.reject_limit import RejectLimit
from weir.streams.worker.context import Context

_AROUND: Final = 4_096
"""Bytes of a record besides its value, amply: its key and its frame."""


def prediction_columns(stage: ScoringStage, scored: ScoredBatch, now: float) -> Columns:
    """Predictions of a task, one a row."""
    values = write_scored(scored, stage.features, stage.task.name, now)
    return Columns.written(scored.predictions.entity_id, values.joined, values.ends, now)


def update_records(ctx: Context, task: str, updates: Mapping[str, UpdateBatch], now: float) -> list[Record]:
    """Updates of other entities' rows: blocks of the updates that one partition owns, each under one of its keys."""
    made: list[Record] = []
    for layout, batch in updates.items():
        most = min(BLOCK_BYTES, ctx.records.limit(ctx.name(topics.ENTITY_UPDATES)) - _AROUND)
        # By murmur2, whatever producers use: this topic is Weir's own, and its keys are sent by our producer.
        owners = partitions_of_text(batch.entity_id, ctx.partitions)
        for owner in np.unique(owners).tolist():
            own = batch.take(np.flatnonzero(owners == owner))
            key = own.entity_id[0].encode()  # any of them leads to the partition that owns all
            made += [Record(key, block, now) for block in encode_updates(own, task, layout, most)]
    return made


def timer_records(task: str, labels: LabelBatch, now: float) -> list[Record]:
    """Labels that silence, or its end, told."""
    values = encode_labels(labels, task, source="silence")
    return [Record(key.encode(), value, now) for key, value in zip(labels.entity_id, values, strict=True)]


def label_records(
    ctx: Context, task: str, features: tuple[str, ...], out: LabelOutput, now: float
) -> dict[str, list[Record]]:
    """What one step of a label lane made of one task, by topic."""
    made = decision_records(task, features, out, now)
    if updates := update_records(ctx, task, out.updates, now):
        made[topics.ENTITY_UPDATES] = updates
    return made


def decided_records(
    ctx: Context, task: str, features: tuple[str, ...], out: LabelOutput, p: PredictionBatch, now: float
) -> list[Record]:
    """What one step of a label lane decided on the predictions that counted, as blocks that the topic takes."""
    most = min(DECISION_BYTES, ctx.records.limit(ctx.name(topics.DECISIONS)) - _AROUND)
    return decision_blocks(task, features, p, out, now, most)


def refused_of(batch: FetchedBatch, rows: Iterable[tuple[int, str]]) -> list[RefusedRecord]:
    """Everything of a batch that is refused, in order; ``rows``: ``(index of a record, reason)``."""
    return in_order(
        batch.refused, [RefusedRecord(batch.offset_of(i), why, batch.records[i]) for i, why in sorted(rows)]
    )


def in_order(fetched: Sequence[RefusedRecord], decoded: Sequence[RefusedRecord]) -> list[RefusedRecord]:
    """What was refused as it was fetched and as it was decoded, by offset."""
    return sorted([*fetched, *decoded], key=lambda refused: refused.offset) if fetched else list(decoded)


class DeadLetters:
    """Sends what one lane refuses; raises ``TooManyRejects`` when it is most of the input, but for the first batch."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._limit = RejectLimit(ctx.settings.worker.reject)
        self._passed = False
        """Whether a batch has passed: without one a partition that is tried again would never get on."""

    async def send(
        self, topic: str, partition: int, records: int, refused: list[RefusedRecord]
    ) -> list[asyncio.Future[Any]]:
        """Send what was refused of so many ``records``; its acknowledgement, if there is anything.

        ``topic`` is what it is called on the brokers.
        """
        # A rebuild takes what workers took: they have sent the letters, and have got over what was mostly bad.
        if self._ctx.silent is not None:
            return []
        try:
            self._limit.update(records, sum(r.offsets for r in refused), refused[-1].reason if refused else "")
        except TooManyRejects:
            if self._passed:
                raise
        self._passed = True
        if not refused:
            return []
        now, ctx = self._ctx.now(), self._ctx
        name = ctx.name(topics.DEAD_LETTERS)
        room = letter_room(ctx.records.limit(name))
        # Cut to what the topic takes: a letter that is refused itself would stop the partition for good.
        letters = [dead_letter(topic, partition, r, now, room) for r in refused]
        ctx.metrics.refused(topic, [(r.reason, r.offsets) for r in refused])
        return [await ctx.records.send(name, letters)]
