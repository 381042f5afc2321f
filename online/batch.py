"""Columns of records in flight between stages. They know names and arrays, not where records come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FloatVector = NDArray[np.float64]
FloatMatrix = NDArray[np.float64]
IntVector = NDArray[np.int64]
BoolVector = NDArray[np.bool_]


class _Batch:
    """Columns of equal length; ``__slots__`` of a slotted dataclass names them, the first has one entry a row."""

    __slots__: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(getattr(self, self.__slots__[0]))

    def take(self, rows: IntVector) -> Self:
        """The given rows, in the given order."""
        at = rows.tolist()
        return self._map(lambda column: [column[i] for i in at] if isinstance(column, list) else column[rows])

    def slice(self, start: int, stop: int) -> Self:
        """Rows ``start`` to ``stop``; arrays are views."""
        return self._map(lambda column: column[start:stop])

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one after the other; there is at least one, and all have the same columns."""

        def join(columns: list[Any]) -> Any:
            first = columns[0]
            if isinstance(first, dict):
                return {name: join([column[name] for column in columns]) for name in first}
            return list(chain.from_iterable(columns)) if isinstance(first, list) else np.concatenate(columns)

        return cls(*(join([getattr(part, name) for part in parts]) for name in cls.__slots__))

    def _map(self, of: Callable[[Any], Any]) -> Self:
        parts = (getattr(self, name) for name in self.__slots__)
        return type(self)(*({k: of(v) for k, v in p.items()} if isinstance(p, dict) else of(p) for p in parts))


@dataclass(frozen=True, slots=True)
class EventBatch(_Batch):
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


@dataclass(frozen=True, slots=True)
class LabelBatch(_Batch):
    """Labels in the order in which they became known."""

    label_id: list[str]
    entity_id: list[str]
    event_id: list[str | None]
    ts: FloatVector
    """The time the label speaks of, epoch seconds."""
    value: BoolVector
    weight: FloatVector


@dataclass(frozen=True, slots=True)
class PredictionBatch(_Batch):
    """Scores of one task with the features they were made from."""

    event_id: list[str]
    entity_id: list[str]
    ts: FloatVector
    score: FloatVector
    model_version: IntVector
    """How many examples the model had learned."""
    features: FloatMatrix
    """``(n, F)``, exactly what the model saw."""


@dataclass(frozen=True, slots=True)
class ExampleBatch(_Batch):
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
    n: IntVector = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """How many examples of the same event came before, counting those not sampled: ``(event_id, n)`` names an example.
    All 0 when not given."""
    entity_id: list[str | None] = field(default_factory=list)
    """Whose event it is; ``None`` where that is not known, as in records of before it was noted."""

    def __post_init__(self) -> None:
        if len(self.n) == 0 < len(self.event_id):
            object.__setattr__(self, "n", np.zeros(len(self.event_id), dtype=np.int64))
        if not self.entity_id and self.event_id:
            object.__setattr__(self, "entity_id", [None] * len(self.event_id))


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """What scoring knows of n events of one task, and labelling needs: what a ``predictions`` record carries."""

    predictions: PredictionBatch
    masks: FloatMatrix
    """``(n, E)``: which label aggregates each event would feed, and the values that label runs take from it, for when
    its label comes."""
    watched: FloatMatrix
    """``(n, W)``: the columns the task watches for drift, NaN where missing."""
    entities: dict[str, list[str | None]]
    """Identifiers of the secondary entities, by wire column."""
    offsets: IntVector | None = None
    """``(n,)``: where each is in its partition of ``predictions``, to be read back; ``None`` where it cannot be."""

    def __len__(self) -> int:
        return len(self.predictions)

    def take(self, rows: IntVector) -> ScoredBatch:
        """The given rows, in the given order."""
        at = rows.tolist()
        entities = {name: [column[i] for i in at] for name, column in self.entities.items()}
        offsets = None if self.offsets is None else self.offsets[rows]
        return ScoredBatch(self.predictions.take(rows), self.masks[rows], self.watched[rows], entities, offsets)

    def slice(self, start: int, stop: int) -> ScoredBatch:
        """Rows ``start`` to ``stop``; arrays are views."""
        entities = {name: column[start:stop] for name, column in self.entities.items()}
        masks, watched = self.masks[start:stop], self.watched[start:stop]
        offsets = None if self.offsets is None else self.offsets[start:stop]
        return ScoredBatch(self.predictions.slice(start, stop), masks, watched, entities, offsets)

    @classmethod
    def concat(cls, parts: Sequence[ScoredBatch]) -> ScoredBatch:
        """The rows of all parts of one task, one after the other; there is at least one."""
        names, offsets = parts[0].entities, [part.offsets for part in parts if part.offsets is not None]
        return cls(
            PredictionBatch.concat([part.predictions for part in parts]),
            np.concatenate([part.masks for part in parts]),
            np.concatenate([part.watched for part in parts]),
            {name: list(chain.from_iterable(part.entities[name] for part in parts)) for name in names},
            np.concatenate(offsets) if len(offsets) == len(parts) else None,
        )


@dataclass(frozen=True, slots=True)
class UpdateBatch(_Batch):
    """Updates of rows that another partition owns: records of ``entity-updates``, all of one table."""

    update_id: list[str]
    """The event's id; of a label's update, which event's label it is and how many came before."""
    entity_id: list[str]
    ts: FloatVector
    """Event time; of a label's update, when the label became known."""
    values: FloatMatrix
    """``(n, V)``: the values of the table's passes in order, NaN where missing; of a label table first y and unit."""
