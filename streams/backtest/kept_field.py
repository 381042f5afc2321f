"""A field of the events that is kept with each outcome, so that metrics can be told by its values.

It may be one that no feature asks for. It knows events and how [source] feeds them, not scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weir.online.batch import EventBatch
from weir.online.codec.columns import ColumnRequest
from weir.online.task.spec import TaskSpec


def with_field(task: TaskSpec, columns: ColumnRequest, field: str) -> tuple[TaskSpec, ColumnRequest]:
    """The task and its columns with ``field`` among them, as text where no feature takes it for a number.

    A name that [source] does not feed is taken for that of a column of the files.
    """
    known = field == "type" or field in (*columns.entities, *columns.numbers, *columns.texts)
    source = task.source
    if source is not None and field not in {*source.columns, *source.constants}:
        fed = source.model_copy(update={"columns": {**source.columns, field: field}})
        task = task.model_copy(update={"source": fed})
    return task, columns if known else replace(columns, texts=(*columns.texts, field))


def values_of(task: TaskSpec, batch: EventBatch, field: str) -> Mapping[tuple[str, str], str | None]:
    """The value of ``field`` in each event, by entity and event id; ``None`` where it is missing."""
    values: Sequence[str | None]
    if field == "type":
        values = batch.type
    elif field in batch.numbers:
        values = [f"{value:.15g}" if value == value else None for value in batch.numbers[field].tolist()]
    else:
        values = (batch.texts if field in batch.texts else batch.entities)[field]
    # By entity and event, as predictions are told: rows of timers and of other types stand between those of the batch.
    owners = ["*"] * len(batch) if task.key == "*" else batch.entities[task.key]
    return dict(zip(((owner or "", event) for owner, event in zip(owners, batch.event_id, strict=True)), values,
                    strict=True))  # fmt: skip
