"""Turns what lanes made into records, by Weir's own name of the topic; ``now`` is when they are published, epoch s."""

from __future__ import annotations

from collections.abc import Mapping

from weir.online.batch import LabelBatch, ScoredBatch, UpdateBatch
from weir.online.codec.encode import encode_labels, write_scored
from weir.online.codec.row_updates import encode_updates
from weir.online.stages.labelling import LabelOutput
from weir.online.stages.scoring import ScoringStage
from weir.streams.config import topics
from weir.streams.kafka.produce.record_columns import Columns
from weir.streams.outputs import decision_records
from weir.streams.records import Record


def prediction_columns(stage: ScoringStage, scored: ScoredBatch, now: float) -> Columns:
    """Predictions of a task, one a row."""
    values = write_scored(scored, stage.features, stage.task.name, now)
    return Columns.written(scored.predictions.entity_id, values.joined, values.ends, now)


def update_records(task: str, updates: Mapping[str, UpdateBatch], now: float) -> list[tuple[str, list[Record]]]:
    """Updates of other entities' rows, by layout."""
    made: list[tuple[str, list[Record]]] = []
    for layout, batch in updates.items():
        values = encode_updates(batch, task, layout)
        records = [Record(key.encode(), value, now) for key, value in zip(batch.entity_id, values, strict=True)]
        made.append((topics.ENTITY_UPDATES, records))
    return made


def timer_records(task: str, labels: LabelBatch, now: float) -> list[Record]:
    """Labels that silence, or its end, told."""
    values = encode_labels(labels, task, source="silence")
    return [Record(key.encode(), value, now) for key, value in zip(labels.entity_id, values, strict=True)]


def label_records(task: str, features: tuple[str, ...], out: LabelOutput, now: float) -> dict[str, list[Record]]:
    """What one step of a label lane made of one task."""
    made = decision_records(task, features, out, now)
    for topic, records in update_records(task, out.updates, now):
        made.setdefault(topic, []).extend(records)
    return made
