"""From columns and models to records. Predictions are the hot path: one msgspec call encodes a batch.

Floats are written in their shortest form that reads back as the same float64. Topics and keys are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from pydantic import TypeAdapter, ValidationError

from online.batch import ExampleBatch, FloatMatrix, FloatVector, PredictionBatch
from online.errors import TaskError
from online.wire import TS_MAX, TS_MIN, VERSION, Alert, DeadLetter, Example, Features, Prediction, WireModel

_ENCODER = msgspec.json.Encoder()
_CHUNK_ROWS = 128
"""Rows boxed into Python objects at a time: they stay in the processor's cache and in memory already mapped."""
_FEATURES: TypeAdapter[dict[str, float]] = TypeAdapter(Features)


def encode_predictions(
    batch: PredictionBatch,
    feature_names: Sequence[str],
    task: str,
    scored_at: float,
    degraded: bool = False,
) -> list[bytes]:
    """Encode scores of ``task`` as ``Prediction`` records, in order.

    Parameters
    ----------
    batch : n scores with their ``(n, F)`` features; all finite, scores in [0, 1].
    feature_names : F names, the keys of ``features``.
    scored_at : epoch seconds by the wall clock of the caller.

    Raises
    ------
    ValueError : a feature, score or time that JSON or the contract cannot carry.
    TaskError : a feature name that the contract cannot carry.

    Examples
    --------
    >>> one = np.ones(1)
    >>> batch = PredictionBatch(["e1"], ["u1"], 1.7e9 * one, 0.5 * one, np.array([7]), np.array([[2.0, 0.1]]))
    >>> record = encode_predictions(batch, ("count_1d", "mean_1d"), "fraud", 1.7e9)[0]
    >>> Prediction.model_validate_json(record).features
    {'count_1d': 2.0, 'mean_1d': 0.1}
    """
    _check(batch.features, batch.score, feature_names, batch.event_id)
    if not TS_MIN <= scored_at <= TS_MAX:
        raise ValueError(f"scored_at is {scored_at}; give epoch seconds in {TS_MIN:.0f} to {TS_MAX:.0f}")
    features, new = _features_struct(tuple(feature_names)), _record(Prediction)
    out: list[bytes] = []
    for start in range(0, len(batch), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        columns = zip(
            batch.event_id[rows],
            batch.entity_id[rows],
            batch.ts[rows].tolist(),
            batch.score[rows].tolist(),
            batch.model_version[rows].tolist(),
            batch.features[rows].tolist(),
            strict=True,
        )
        out += _lines(
            [
                new(VERSION, event_id, entity_id, task, ts, score, version, features(*row), scored_at, degraded)
                for event_id, entity_id, ts, score, version, row in columns
            ]
        )
    return out


def encode_examples(batch: ExampleBatch, feature_names: Sequence[str], task: str) -> list[bytes]:
    """Encode examples of ``task`` as ``Example`` records, in learning order."""
    _check(batch.x, batch.score, feature_names, batch.event_id)
    features = _features_struct(tuple(feature_names))
    columns = zip(
        batch.event_id,
        batch.ts.tolist(),
        batch.x.tolist(),
        batch.score.tolist(),
        batch.y.astype(np.int64).tolist(),
        batch.weight.tolist(),
        batch.correction.tolist(),
        strict=True,
    )
    new = _record(Example)
    return _lines(
        [
            new(VERSION, event_id, task, ts, features(*row), score, y, weight, correction)
            for event_id, ts, row, score, y, weight, correction in columns
        ]
    )


def encode_alerts(alerts: Iterable[Alert]) -> list[bytes]:
    """Encode alerts one by one."""
    return [encode_model(alert) for alert in alerts]


def encode_dead_letters(letters: Iterable[DeadLetter]) -> list[bytes]:
    """Encode dead letters one by one; ``raw`` becomes URL-safe base64."""
    return [encode_model(letter) for letter in letters]


def encode_model(record: WireModel) -> bytes:
    """Encode any record of the contract; optional fields without a value are left out."""
    return record.model_dump_json(exclude_none=True).encode()


def _lines(structs: list[Any]) -> list[bytes]:
    # JSON escapes newlines inside strings, so one can only be the end of a record.
    return _ENCODER.encode_lines(structs).split(b"\n")[:-1]


@lru_cache(maxsize=16)
def _record(model: type[WireModel]) -> type[Any]:
    """A struct with the model's fields by position and no checks, ``features`` being a struct of its own."""
    return msgspec.defstruct(model.__name__, [(name, Any) for name in model.model_fields], gc=False)


@lru_cache(maxsize=256)
def _features_struct(names: tuple[str, ...]) -> type[Any]:
    """A struct that encodes as ``{name: value}``; twice as fast as a dict."""
    try:
        _FEATURES.validate_python(dict.fromkeys(names, 0.0))
        if len(set(names)) < len(names):
            raise ValueError("a name is given twice")
        fields = [(f"f{i}", float) for i in range(len(names))]
        rename = {f"f{i}": name for i, name in enumerate(names)}
        return msgspec.defstruct("Features", fields, rename=rename, gc=False)
    except (ValidationError, ValueError) as error:
        raise TaskError(f"feature names {names!r} cannot be keys of a record: {error}") from error


def _check(features: FloatMatrix, score: FloatVector, names: Sequence[str], event_id: Sequence[str]) -> None:
    if features.shape != (len(event_id), len(names)):
        raise ValueError(f"features are {features.shape}; expected ({len(event_id)}, {len(names)}), one column a name")
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0].tolist()
        value = features[row, column]
        raise ValueError(f"{names[column]!r} of event {event_id[row]!r} is {value}; replace missing values by 0")
    if not ((score >= 0) & (score <= 1)).all():
        row = int(np.argmin((score >= 0) & (score <= 1)))
        raise ValueError(f"the score of event {event_id[row]!r} is {score[row]}; scores are in 0 to 1")
