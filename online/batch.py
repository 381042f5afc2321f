"""Columns of records in flight between stages. They know names and arrays, not where records come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from itertools import chain
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from weir.online.frozen import dataclass

FloatVector = NDArray[np.float64]
FloatMatrix = NDArray[np.float64]
IntVector = NDArray[np.int64]
BoolVector = NDArray[np.bool_]
BoolMatrix = NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)


def missing_of(x: FloatMatrix) -> BoolMatrix:
    """Which values of rows that a model sees stand for none: -0.0, which every model and reader takes for 0.

    >>> missing_of(np.array([[0.0, -0.0, -1.0, np.nan]])).tolist()
    [[False, True, False, True]]
    """
    return np.asarray(np.isnan(x) | ((x == 0.0) & np.signbit(x)))


def filled(n: int, value: float) -> FloatVector:
    """``(n,)`` of one value; of few rows `np.full` takes four times as long."""
    out = np.empty(n)
    out.fill(value)
    return out


def whole(n: int, value: int) -> IntVector:
    """``(n,)`` of one whole number, likewise."""
    out = np.empty(n, np.int64)
    out.fill(value)
    return out


def all_of(flags: BoolVector) -> bool:
    """Whether all are; of few `np.ndarray.all` takes thirty times as long."""
    return 0 not in flags.tobytes()


def longer(array: NDArray[T], rows: int, fill: float = 0) -> NDArray[T]:
    """The array with ``rows`` rows, no fewer than it has: itself, or a copy whose new ones are full of ``fill``."""
    if rows == len(array):
        return array
    shape = (rows, *array.shape[1:])
    # Zeros that nobody has written take no memory yet.
    out = np.full(shape, fill, array.dtype) if fill else np.zeros(shape, array.dtype)
    out[: len(array)] = array
    return out


def side_by_side(*parts: NDArray[Any]) -> NDArray[Any]:
    """Vectors ``(n,)`` and matrices ``(n, any)`` as one matrix; of few rows `np.column_stack` takes twice as long.

    >>> side_by_side(np.array([1.0, 2.0]), np.zeros((2, 0)), np.array([[3.0], [4.0]])).tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    given = [part[:, None] if part.ndim == 1 else part for part in parts if part.ndim == 1 or part.shape[1]]
    return given[0].copy() if len(given) == 1 else np.concatenate(given or parts, axis=1)


class Batch:
    """Columns of equal length: lists, arrays, other batches, dicts of any of these, or ``None`` for one that is absent.

    ``__slots__`` of a slotted dataclass names them; the first has one entry a row. Those that every step makes say
    their length themselves: to look the column up takes twice as long.
    """

    __slots__: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(getattr(self, self.__slots__[0]))

    def take(self, rows: IntVector) -> Self:
        """The given rows, in the given order."""
        # Python's own ints: a list takes several times as long to be indexed by NumPy's, and texts are lists.
        at = rows.tolist()

        def of(column: Any) -> Any:
            if isinstance(column, list):
                return [column[i] for i in at]
            return column.take(rows) if isinstance(column, Batch) else column[rows]

        return self._map(of)

    def where(self, flags: BoolVector) -> Self:
        """The rows whose flag is set; the same object where all are, as is usual, so that nothing is copied."""
        return self if all_of(flags) else self.take(flags.nonzero()[0])

    def slice(self, start: int, stop: int) -> Self:
        """Rows ``start`` to ``stop``; arrays are views."""
        return self._map(lambda column: column.slice(start, stop) if isinstance(column, Batch) else column[start:stop])

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one after the other; there is at least one, and all have the same columns."""
        return cls(*(_joined([getattr(part, name) for part in parts]) for name in cls.__slots__))

    def _map(self, of: Callable[[Any], Any]) -> Self:
        def mapped(column: Any) -> Any:
            if isinstance(column, dict):
                return {name: of(each) for name, each in column.items()}
            return None if column is None else of(column)

        return type(self)(*(mapped(getattr(self, name)) for name in self.__slots__))


def _joined(columns: list[Any]) -> Any:
    """One column of several parts, one after the other; absent where a part lacks it."""
    first = columns[0]
    # The rows of the other parts alone would be a column of another length, in which no row finds its own.
    if any(column is None for column in columns):
        return None
    if isinstance(first, Batch):
        return type(first).concat(columns)
    if isinstance(first, dict):
        return {name: _joined([column[name] for column in columns]) for name in first}
    return list(chain.from_iterable(columns)) if isinstance(first, list) else np.concatenate(columns)


@dataclass(frozen=True, slots=True)
class EventBatch(Batch):
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


@dataclass(frozen=True, slots=True)
class LabelBatch(Batch):
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
class PredictionBatch(Batch):
    """Scores of one task with the features they were made from."""

    event_id: list[str]
    entity_id: list[str]
    ts: FloatVector
    score: FloatVector
    model_version: IntVector
    """How many examples the model had learned."""
    features: FloatMatrix
    """``(n, F)``, exactly what the model saw; a value that was missing is -0.0 (``missing_of``)."""

    def __len__(self) -> int:
        return len(self.event_id)


@dataclass(frozen=True, slots=True)
class ExampleBatch(Batch):
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
        # A default cannot know how many rows there are, and the class is frozen: hence not a plain assignment.
        if len(self.n) == 0 < len(self.event_id):
            object.__setattr__(self, "n", np.zeros(len(self.event_id), dtype=np.int64))
        if not self.entity_id and self.event_id:
            object.__setattr__(self, "entity_id", [None] * len(self.event_id))

    def __len__(self) -> int:
        return len(self.event_id)


@dataclass(frozen=True, slots=True)
class ScoredBatch(Batch):
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
        return len(self.predictions.event_id)


@dataclass(frozen=True, slots=True)
class UpdateBatch(Batch):
    """Updates of rows that another partition owns: records of ``entity-updates``, all of one table."""

    update_id: list[str]
    """The event's id; of a label's update, which event's label it is and how many came before."""
    entity_id: list[str]
    ts: FloatVector
    """Event time; of a label's update, when the label became known."""
    values: FloatMatrix
    """``(n, V)``: the values of the table's passes in order, NaN where missing; of a label table first y and unit."""


@dataclass(frozen=True, slots=True)
class RankedBatch(Batch):
    """What a task of ``kind = "next"`` tells with each of n events."""

    event_id: list[str]
    entity_id: list[str]
    ts: FloatVector
    items: list[list[str]]
    """What the entity takes next, the most likely first; up to k."""
    scores: list[list[float]]
    """Of each item, the part that it is expected to be of the next basket, in [0, 1]."""
    model_version: IntVector
    """How many baskets the model had learned."""
