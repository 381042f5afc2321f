"""What the records of one task look like: the form of ``predictions``.

A record that is not exactly its form is still a record; it is only not one that Weir writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from weir.online.batch import BoolVector, FloatMatrix
from weir.online.codec.forms.form import COUNT, FLAG, MAYBE_NUMBER, NUMBER, JsonTemplate, maybe_text, text
from weir.online.codec.hot_structs import features_struct
from weir.online.codec.wire import ID_CHARS, MADE_ID_CHARS, VERSION
from weir.online.frozen import dataclass
from weir.online.full_columns import SEEN

KNOWN = SEEN[-1]
"""The column that is 0 where the full model did not answer."""


@dataclass(frozen=True, slots=True)
class ScoredShape:
    """What the predictions of a task carry."""

    features: tuple[str, ...]
    masks: int = 0
    """E, how many label aggregates the task has."""
    watched: int = 0
    """W, how many columns it watches."""
    entities: tuple[str, ...] = ()
    """Wire columns of its secondary entities."""


def degraded_rows(x: FloatMatrix, features: Sequence[str]) -> BoolVector:
    """Which rows of ``x (n, F)`` were scored without the full model that their task has, ``(n,)``."""
    return x[:, features.index(KNOWN)] == 0.0 if KNOWN in features else np.zeros(len(x), np.bool_)


@lru_cache(maxsize=64)
def prediction_form(task: str, shape: ScoredShape) -> JsonTemplate:
    """A ``Prediction``; what the task has none of is left out. ``TaskError`` where a feature's name cannot be a key."""
    features_struct(shape.features)  # judges the names
    record = {
        "v": VERSION,
        "event_id": text(MADE_ID_CHARS),
        "entity_id": text(ID_CHARS),
        "task": task,
        "ts": NUMBER,
        "score": NUMBER,
        "model_version": COUNT,
        "features": dict.fromkeys(shape.features, NUMBER),
        "scored_at": NUMBER,
        "degraded": FLAG,
        "entities": dict.fromkeys(shape.entities, maybe_text(ID_CHARS)),
        "masks": [MAYBE_NUMBER] * shape.masks,
        "watched": [MAYBE_NUMBER] * shape.watched,
    }
    return JsonTemplate({name: part for name, part in record.items() if part or name == "features"})
