"""Labelled examples as promotion looks at them: the logits of both models, their versions, label and weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from weir.models.types import BoolVector, FloatVector, IntVector
from weir.online.batch import Batch, ExampleBatch
from weir.online.errors import UNREADABLE, TaskError

_COLUMNS: Final = ("full.logit", "full.version", "full.shadow_logit", "full.shadow_version")


@dataclass(frozen=True, slots=True)
class LiveRows(Batch):
    """n examples of one task in log order."""

    event_id: list[str]
    entity: list[str]
    """Whose events they are; the event itself where that is not known."""
    ts: FloatVector
    y: BoolVector
    weight: FloatVector
    logit: FloatVector
    version: IntVector
    """Of the model that served; 0 for none."""
    shadow_logit: FloatVector
    shadow_version: IntVector

    @classmethod
    def of(cls, batch: ExampleBatch, features: Sequence[str]) -> LiveRows:
        """Examples of a pipeline, whose columns are ``features``.

        Raises ``TaskError`` where the task logs no full model.
        """
        absent = [name for name in _COLUMNS if name not in features]
        if absent:
            raise TaskError(f"the examples have no column {', '.join(absent)}; the task needs [full]")
        logit, version, shadow_logit, shadow_version = (batch.x[:, list(features).index(name)] for name in _COLUMNS)
        return cls(
            batch.event_id, _owners(batch.entity_id, batch.event_id), batch.ts, batch.y, batch.weight,
            logit, version.astype(np.int64), shadow_logit, shadow_version.astype(np.int64),
        )  # fmt: skip


class _Features(msgspec.Struct):
    """The columns that matter; a record has many more, which are passed over."""

    logit: float = msgspec.field(name="full.logit")
    version: float = msgspec.field(name="full.version")
    shadow_logit: float = msgspec.field(name="full.shadow_logit")
    shadow_version: float = msgspec.field(name="full.shadow_version")


class _Head(msgspec.Struct):
    task: str


class _Example(msgspec.Struct):
    event_id: str
    ts: float
    value: int
    features: _Features
    weight: float = 1.0
    entity_id: str | None = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_EXAMPLE: Final = msgspec.json.Decoder(_Example)


def decode_live(raw: Sequence[bytes], task: str) -> LiveRows:
    """The examples of ``task`` among records of ``examples``; what cannot be read, or logs no full model, is left out.

    Whatever other features the records hold does not matter: a task may have been changed in between.
    """
    found = [example for record in raw if (example := _read(record, task)) is not None]
    return LiveRows(
        [e.event_id for e in found],
        _owners([e.entity_id for e in found], [e.event_id for e in found]),
        np.array([e.ts for e in found], np.float64),
        np.array([e.value == 1 for e in found], np.bool_),
        np.array([e.weight for e in found], np.float64),
        np.array([e.features.logit for e in found], np.float64),
        np.array([e.features.version for e in found], np.int64),
        np.array([e.features.shadow_logit for e in found], np.float64),
        np.array([e.features.shadow_version for e in found], np.int64),
    )


def _owners(entity_id: Sequence[str | None], event_id: Sequence[str]) -> list[str]:
    # Records of before entities were in them: each event then stands for itself.
    return [entity if entity is not None else event for entity, event in zip(entity_id, event_id, strict=True)]


def _read(record: bytes, task: str) -> _Example | None:
    try:
        # The head alone first: of the records of other tasks nothing else is read.
        return _EXAMPLE.decode(record) if _HEAD.decode(record).task == task else None
    except UNREADABLE:
        return None
