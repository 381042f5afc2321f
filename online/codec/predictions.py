"""Reads ``predictions`` back as they were scored: what labelling, its recovery and explanations of a score need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, cast

import numpy as np
from msgspec import Meta

from weir.online.batch import FloatMatrix, IntVector, PredictionBatch, ScoredBatch
from weir.online.codec.accept import in_range, seconds
from weir.online.codec.by_task import DecodedLog, TaskDecoder, interleave
from weir.online.codec.example_log import feature_matrix, other_features
from weir.online.codec.forms.form import InputBuffer, ParsedColumns
from weir.online.codec.hot_structs import bounded, entities_struct, features_struct
from weir.online.codec.judge import computed
from weir.online.codec.shapes import ScoredShape, prediction_form
from weir.online.codec.wire import Count, Feature, Prediction

__all__ = ["ScoredShape", "TaskScored", "decode_scored"]

_VALUE: Any = bounded(Feature) | None


@dataclass(frozen=True, slots=True)
class TaskScored:
    """The predictions of one task, in log order."""

    scored: ScoredBatch
    index: IntVector
    """``(n,) int64``, the position in the input of each."""


def decode_scored(raw: Sequence[bytes | None], shapes: Mapping[str, ScoredShape]) -> DecodedLog[TaskScored]:
    """Decode ``predictions`` records; floats come back bit for bit as ``encode_scored`` was given them.

    A record that does not have exactly the features and masks of its task is a reject: it was scored by another version
    of the task. So is one whose model is not an online one. Where only the watched columns are others, because the task
    was tuned since, they are missing.

    Parameters
    ----------
    shapes : the known tasks.
    """
    joined = InputBuffer([record or b"" for record in raw])
    tasks = {task: _filled(_valid(prediction_form(task, s).read(joined), s, joined), s) for task, s in shapes.items()}
    # Texts that are not ASCII, records of versions before, and what is no prediction at all.
    rest = joined.rest()
    if not len(rest):
        return DecodedLog(tasks, [], {})
    decoder = _decoder(tuple(shapes.items()))
    found = decoder.decode([raw[i] for i in rest.tolist()], lambda task, r: _misfit(r, shapes[task]), rest)
    for task, own in found.tasks.items():
        formed, other = tasks[task], _filled(_columns(own.structs, own.index, shapes[task]), shapes[task])
        tasks[task] = TaskScored(*interleave(formed.scored, formed.index, other.scored, other.index))
    return DecodedLog(tasks, found.rejects, found.unknown)


def _valid(own: ParsedColumns, shape: ScoredShape, joined: InputBuffer) -> ParsedColumns:
    """Leave out what has times, scores or values that no record may carry, which a form does not say."""
    ts, score, scored_at = own.numbers[:, 0], own.numbers[:, 1], own.numbers[:, 2 + len(shape.features)]
    good = in_range(ts) & in_range(scored_at) & (score >= 0) & (score <= 1) & computed(own.numbers)
    return own.without(joined, ~good)


def _filled(own: ParsedColumns, shape: ScoredShape) -> TaskScored:
    event_id, entity_id, *others = own.texts
    edges = np.cumsum([2, len(shape.features), 1, shape.masks])
    # Views would have gaps between their rows, which compiled code takes for another type, and would keep all columns.
    numbers, features, _, masks, watched = (part.copy() for part in np.split(own.numbers, edges, axis=1))
    predictions = PredictionBatch(
        event_id=cast("list[str]", event_id),
        entity_id=cast("list[str]", entity_id),
        ts=numbers[:, 0].copy(),
        score=numbers[:, 1].copy(),
        model_version=own.counts[:, 0].copy(),
        features=features,
    )
    entities = dict(zip(shape.entities, others, strict=True))
    return TaskScored(ScoredBatch(predictions, masks, watched, entities), own.index)


@lru_cache(maxsize=16)
def _decoder(shapes: tuple[tuple[str, ScoredShape], ...]) -> TaskDecoder:
    fields: dict[str, dict[str, tuple[Any, ...]]] = {}
    for task, shape in shapes:
        fields[task] = {
            "features": (features_struct(shape.features),),
            "model_version": (bounded(Count),),
            "entities": (entities_struct(shape.entities) | None, None),
            "masks": _values(shape.masks),
            "watched": (tuple[_VALUE, ...] | None, None),
        }
    return TaskDecoder(Prediction, fields)


def _values(width: int) -> tuple[Any, ...]:
    """The type of ``width`` values, which may be absent where there are none."""
    values: Any = Annotated[tuple[_VALUE, ...], Meta(min_length=width, max_length=width)]
    return (values,) if width else (values | None, None)


def _misfit(record: Any, shape: ScoredShape) -> str | None:
    if (reason := other_features(record.features, shape.features)) is not None:
        return reason
    if not isinstance(record.model_version, int):
        return f"model_version: {record.model_version!r} is not of an online model, which labels are joined for"
    if (held := len(record.masks or ())) != shape.masks:
        return f"masks: {held} of them, the task has {shape.masks}; it was changed since"
    if unknown := sorted((record.entities or {}).keys() - set(shape.entities)):
        return f"entities: {unknown[:3]} are not the task's ({', '.join(shape.entities)}); it was changed since"
    return None


def _columns(structs: list[Any], index: IntVector, shape: ScoredShape) -> ParsedColumns:
    """Records that are not in the form, as if they had been read by it."""
    named = [[s.entities and getattr(s.entities, f"f{k}") for s in structs] for k in range(len(shape.entities))]
    head = [seconds([s.ts for s in structs]), np.array([s.score for s in structs], np.float64)]
    body = [feature_matrix(structs, len(shape.features)), seconds([s.scored_at for s in structs])]
    tail = [_matrix(structs, "masks", shape.masks), _matrix(structs, "watched", shape.watched)]
    counts = np.array([(s.model_version, s.degraded) for s in structs], np.int64).reshape(-1, 2)
    texts = [[s.event_id for s in structs], [s.entity_id for s in structs], *named]
    return ParsedColumns(index, texts, np.column_stack([*head, *body, *tail]), counts)


def _matrix(structs: list[Any], name: str, width: int) -> FloatMatrix:
    """Values of every struct, ``(n, width)``; None becomes NaN, and so does a row of another width."""
    none = (None,) * width
    rows = (row if row is not None and len(row) == width else none for row in map(attrgetter(name), structs))
    values = chain.from_iterable(rows) if width else ()
    return np.array(list(values), np.float64).reshape(len(structs), width)
