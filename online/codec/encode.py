"""From columns and models to records. Predictions are the hot path: compiled code fills in their form.

Floats are written in their shortest form that reads back as the same float64. Topics and keys are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import starmap
from typing import Any

import msgspec
import numpy as np

from weir.online.batch import (
    ExampleBatch,
    FloatMatrix,
    FloatVector,
    LabelBatch,
    PredictionBatch,
    RankedBatch,
    ScoredBatch,
    side_by_side,
)
from weir.online.codec.forms.form import EncodedRecords
from weir.online.codec.forms.form_kernel import Ints
from weir.online.codec.hot_structs import features_struct, record_struct
from weir.online.codec.shapes import KNOWN, ScoredShape, degraded_rows, prediction_form
from weir.online.codec.wire import FEATURE_MAX, TS_MAX, TS_MIN, VERSION, Example, Label, Prediction, WireModel
from weir.online.jit import njit, plain

_ENCODER = msgspec.json.Encoder()


def encode_predictions(
    batch: PredictionBatch, feature_names: Sequence[str], task: str, scored_at: float, degraded: bool = False
) -> list[bytes]:
    """Encode scores of ``task`` as ``Prediction`` records, in order.

    Parameters
    ----------
    batch : n scores with their ``(n, F)`` features; all finite, scores in [0, 1].
    feature_names : F names, the keys of ``features``.
    scored_at : epoch seconds by the wall clock of the caller.
    degraded : whether something was missing that the score should have had. Where a task has a full model, a row is
        degraded also when that was not known (``full.known`` is 0).

    Raises
    ------
    ValueError : a feature, score or time that JSON or the contract cannot carry.
    TaskError : a feature name that the contract cannot carry.

    Examples
    --------
    >>> one = np.ones(1)
    >>> batch = PredictionBatch(["e1"], ["u1"], 1.7e9 * one, 0.5 * one, np.array([7]), np.array([[2.0, 0.1]]))
    >>> record = encode_predictions(batch, ("count_1d", "mean_1d"), "fraud", 1.7e9)[0]
    >>> record[102:152]
    b',"features":{"count_1d":2.0,"mean_1d":0.1},"scored'
    """
    n = len(batch)
    return encode_scored(
        ScoredBatch(batch, np.empty((n, 0)), np.empty((n, 0)), {}), feature_names, task, scored_at, degraded
    )


def encode_scored(
    scored: ScoredBatch, feature_names: Sequence[str], task: str, scored_at: float, degraded: bool = False
) -> list[bytes]:
    """The records of ``write_scored``, one by one."""
    return write_scored(scored, feature_names, task, scored_at, degraded).records()


def write_scored(
    scored: ScoredBatch, feature_names: Sequence[str], task: str, scored_at: float, degraded: bool = False
) -> EncodedRecords:
    """Encode scores of ``task`` with what labelling needs, as ``Prediction`` records, in order.

    Parameters and errors are those of ``encode_predictions``; masks and watched columns may be NaN, not infinite. What
    a task has none of (masks, watched columns, secondary entities) is left out of its records.
    """
    batch, n = scored.predictions, len(scored.predictions.event_id)
    _check_shape(batch.features, feature_names, batch.event_id)
    for name, matrix in (("masks", scored.masks), ("watched", scored.watched)):
        _check_rows(name, matrix, batch.event_id)
    if not TS_MIN <= scored_at <= TS_MAX:
        raise ValueError(f"scored_at is {scored_at}; give epoch seconds in {TS_MIN:.0f} to {TS_MAX:.0f}")
    masks, watched, entities = scored.masks.shape[1], scored.watched.shape[1], scored.entities
    form_shape = ScoredShape(tuple(feature_names), masks, watched, tuple(entities))
    form = prediction_form(task, form_shape)
    # In the order of the form's blanks, as counts and texts are (`prediction_form`).
    numbers, counts, width = np.empty((n, form.numbers)), np.empty((n, form.counts), np.int64), len(feature_names)
    numbers[:, 0], numbers[:, 1], numbers[:, 2 : 2 + width], numbers[:, 2 + width] = (
        batch.ts, batch.score, batch.features, scored_at,
    )  # fmt: skip
    numbers[:, 3 + width : 3 + width + masks], numbers[:, 3 + width + masks :] = scored.masks, scored.watched
    counts[:, 0], counts[:, 1] = batch.model_version, degraded
    if not degraded and KNOWN in feature_names:
        counts[:, 1] = degraded_rows(batch.features, feature_names)
    # One look at all that is written; who is at fault is asked only where something is.
    if not _written(numbers, counts, width):
        _check(batch.features, batch.score, feature_names, batch.event_id)
        check_missing("masks", scored.masks, batch.event_id)
        check_missing("watched", scored.watched, batch.event_id)
        raise ValueError("a ts is not finite or a model_version below 0; no record can carry them")
    return form.fill([batch.event_id, batch.entity_id, *entities.values()], numbers, counts)


def encode_ranked(batch: RankedBatch, task: str, scored_at: float) -> list[bytes]:
    """Encode what a task of ``kind = "next"`` told as ``Prediction`` records, in order."""
    items = [dict(zip(*each, strict=True)) for each in zip(batch.items, batch.scores, strict=True)]
    columns = (batch.event_id, batch.entity_id, batch.ts.tolist(), batch.scores, batch.model_version.tolist(), items)
    record = record_struct(Prediction)
    return _lines(
        record(
            VERSION, event, entity, task, ts, scores[0] if scores else 0.0, version, {}, scored_at, False, items=told
        )
        for event, entity, ts, scores, version, told in zip(*columns, strict=True)
    )


def encode_examples(batch: ExampleBatch, feature_names: Sequence[str], task: str) -> list[bytes]:
    """Encode examples of ``task`` as ``Example`` records, in learning order."""
    _check_shape(batch.x, feature_names, batch.event_id)
    if not _written(side_by_side(batch.ts, batch.score, batch.x), plain(batch.n[:, None]), len(feature_names)):
        _check(batch.x, batch.score, feature_names, batch.event_id)
        raise ValueError("a ts is not finite or an n below 0; no record can carry them")
    features, n = features_struct(tuple(feature_names)), len(batch)
    x, y = [features(*row) for row in batch.x.tolist()], batch.y.astype(np.int64).tolist()
    event = ([VERSION] * n, batch.event_id, batch.n.tolist(), [task] * n, batch.ts.tolist())
    learned = (x, batch.score.tolist(), y, batch.weight.tolist(), batch.correction.tolist(), batch.entity_id)
    return _lines(starmap(record_struct(Example), zip(*event, *learned, strict=True)))


def encode_labels(batch: LabelBatch, task: str, source: str | None = None) -> list[bytes]:
    """Encode labels of ``task`` as ``Label`` records, in order; ``source`` says who made them."""
    n, value = len(batch), batch.value.astype(np.int64).tolist()
    about = ([VERSION] * n, batch.label_id, [task] * n, batch.entity_id, batch.event_id, batch.ts.tolist())
    columns = zip(*about, value, [source] * n, batch.weight.tolist(), strict=True)
    return _lines(starmap(record_struct(Label), columns))


def encode_model(record: WireModel) -> bytes:
    """Encode any record of the contract; optional fields without a value are left out, bytes are URL-safe base64."""
    return record.model_dump_json(exclude_none=True).encode()


def _lines(structs: Iterable[Any]) -> list[bytes]:
    """Encode structs, each as a record of its own."""
    # JSON escapes newlines inside strings, so one can only be the end of a record.
    return _ENCODER.encode_lines([*structs]).split(b"\n")[:-1]


def _check_shape(features: FloatMatrix, names: Sequence[str], event_id: Sequence[str]) -> None:
    if features.shape != (len(event_id), len(names)):
        raise ValueError(f"features are {features.shape}; expected ({len(event_id)}, {len(names)}), one column a name")


def _check(features: FloatMatrix, score: FloatVector, names: Sequence[str], event_id: Sequence[str]) -> None:
    """Raise ``ValueError`` where a feature or a score is none that a record can carry."""
    if not (np.abs(features) <= FEATURE_MAX).all():
        row, column = np.argwhere(~(np.abs(features) <= FEATURE_MAX))[0].tolist()
        value = features[row, column]
        raise ValueError(
            f"{names[column]!r} of event {event_id[row]!r} is {value}; replace missing values by 0 and cut others to "
            f"{FEATURE_MAX:g}"
        )
    if not ((score >= 0) & (score <= 1)).all():
        row = int(np.argmin((score >= 0) & (score <= 1)))
        raise ValueError(f"the score of event {event_id[row]!r} is {score[row]}; scores are in 0 to 1")


@njit(cache=True, nogil=True)
def _written(numbers: FloatMatrix, counts: Ints, width: int) -> bool:
    """Whether a record can carry all of ``(n, C)`` and ``(n, I)``, in the order of its form. F is ``width``."""
    for i in range(len(numbers)):
        if counts[i, 0] < 0 or not abs(numbers[i, 0]) < np.inf or not 0.0 <= numbers[i, 1] <= 1.0:
            return False
        for j in range(2, numbers.shape[1]):
            # Behind the features NaN is a value that is missing.
            if not abs(numbers[i, j]) <= FEATURE_MAX and (j < 2 + width or numbers[i, j] == numbers[i, j]):
                return False
    return True


def _check_rows(what: str, matrix: FloatMatrix, event_id: Sequence[str]) -> None:
    if matrix.ndim != 2 or len(matrix) != len(event_id):
        raise ValueError(f"{what} are {matrix.shape}; expected ({len(event_id)}, any), one row an event")


def check_missing(what: str, matrix: FloatMatrix, event_id: Sequence[str]) -> None:
    """Raise ``ValueError`` where ``matrix`` is not ``(n, any)`` or has a value too large; NaN is a missing one."""
    _check_rows(what, matrix, event_id)
    if matrix.size and (np.abs(matrix) > FEATURE_MAX).any():
        row, column = np.argwhere(np.abs(matrix) > FEATURE_MAX)[0].tolist()
        value = matrix[row, column]
        raise ValueError(
            f"{what}[{column}] of event {event_id[row]!r} is {value}; give numbers up to {FEATURE_MAX:g}, or NaN"
        )
