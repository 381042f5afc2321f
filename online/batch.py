"""Columns of records in flight between stages. They know names and arrays, not where records come from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatVector = NDArray[np.float64]
FloatMatrix = NDArray[np.float64]
IntVector = NDArray[np.int64]
BoolVector = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Valid events in arrival order, as the columns a task asked for; every column has ``len(event_id)`` entries."""

    event_id: list[str]
    ts: FloatVector
    """Event time, epoch seconds."""
    type: list[str]
    entities: dict[str, list[str | None]] = field(default_factory=dict)
    """Identifier columns such as ``user_id``; ``None`` where the event does not name one."""
    numbers: dict[str, FloatVector] = field(default_factory=dict)
    """``amount``, numeric properties or device metrics; NaN where missing."""
    texts: dict[str, list[str | None]] = field(default_factory=dict)
    """``channel``, ``country``, ``status`` and text properties."""

    def __len__(self) -> int:
        return len(self.event_id)

    def take(self, rows: IntVector) -> EventBatch:
        """The given rows, in the given order."""
        at = rows.tolist()
        return EventBatch(
            event_id=[self.event_id[i] for i in at],
            ts=self.ts[rows],
            type=[self.type[i] for i in at],
            entities={name: [column[i] for i in at] for name, column in self.entities.items()},
            numbers={name: column[rows] for name, column in self.numbers.items()},
            texts={name: [column[i] for i in at] for name, column in self.texts.items()},
        )

    def slice(self, start: int, stop: int) -> EventBatch:
        """Rows ``start`` to ``stop``; arrays are views."""
        return EventBatch(
            event_id=self.event_id[start:stop],
            ts=self.ts[start:stop],
            type=self.type[start:stop],
            entities={name: column[start:stop] for name, column in self.entities.items()},
            numbers={name: column[start:stop] for name, column in self.numbers.items()},
            texts={name: column[start:stop] for name, column in self.texts.items()},
        )


@dataclass(frozen=True, slots=True)
class LabelBatch:
    """Labels in the order in which they became known."""

    label_id: list[str]
    entity_id: list[str]
    event_id: list[str | None]
    ts: FloatVector
    """The time the label speaks of, epoch seconds."""
    value: BoolVector
    weight: FloatVector

    def __len__(self) -> int:
        return len(self.label_id)


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """Scores of one task with the features they were made from."""

    event_id: list[str]
    entity_id: list[str]
    ts: FloatVector
    score: FloatVector
    model_version: IntVector
    """How many examples the model had learned."""
    features: FloatMatrix
    """``(n, F)``, exactly what the model saw."""

    def __len__(self) -> int:
        return len(self.event_id)


@dataclass(frozen=True, slots=True)
class ExampleBatch:
    """What a model learns from: logged features joined with a label, in learning order."""

    event_id: list[str]
    ts: FloatVector
    """Event time of the prediction."""
    x: FloatMatrix
    score: FloatVector
    """The score given at the time, for prequential metrics."""
    y: BoolVector
    weight: FloatVector
    """Label weight times 1 / sampling rate."""
    correction: BoolVector
    """True where this replaces an example emitted earlier for the same event with the other value."""

    def __len__(self) -> int:
        return len(self.event_id)
