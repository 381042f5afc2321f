"""Decoded events as the columns that a task asked for. Knows the wire models' field names and kinds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from types import NoneType
from typing import Any

import numpy as np

from weir.online.batch import EventBatch, FloatVector
from weir.online.codec.wire import ID_CHARS, DeviceEvent, UserEvent, WireModel
from weir.online.errors import TaskError
from weir.online.mistakes import did_you_mean, near

DEVICE_EVENT_TYPE = "device"
"""What ``EventBatch.type`` holds for device events, which have no type of their own."""

_NUMBER_FIELDS = frozenset({"ts", "amount"})
_MAP_FIELDS = frozenset({"metrics", "properties"})
_NO_TEXTS = _NUMBER_FIELDS | _MAP_FIELDS | {"v"}
_TEXT_FIELDS = frozenset(
    name for model in (UserEvent, DeviceEvent) for name in model.model_fields if name not in _NO_TEXTS
)
_NUMBERS, _TEXTS = frozenset({float, bool, NoneType}), frozenset({str, NoneType})
_EMPTY: dict[str, Any] = {}


@cache
def _fields(model: type[WireModel]) -> frozenset[str]:
    """Names of the wire's fields; pydantic takes as long to find them as a row takes to be read."""
    return frozenset(model.model_fields)


@dataclass(frozen=True, slots=True)
class ColumnRequest:
    """Names of the columns a task reads.

    A name is a wire field first, else a key of ``properties``; for device events a wire field, else a key of
    ``metrics``, else of ``properties``. An entity or text column takes strings, a number column numbers and bools;
    a value of the other kind is missing.
    """

    entities: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def check(self, model: type[WireModel]) -> None:
        """Raise ``TaskError`` where a name is a wire field of another kind."""
        fields = _fields(model)
        for name in (*self.entities, *self.texts):
            if name in _NO_TEXTS and name in fields:
                raise TaskError(f"{name!r} is no text: no entity has it as its key, and it compares with numbers")
        for name in self.numbers:
            if name in fields and name not in _NUMBER_FIELDS:
                raise TaskError(f"{name!r} is text, no number: write hash({name}), or {name} == '...'")


def no_column(key: str, pattern: str, known: Sequence[str], texts: Collection[str] = ()) -> TaskError:
    """The error of a pattern of inputs that no numeric column matches; ``texts`` are further columns of text.

    >>> print(no_column("inputs", "amuont", ["amount", "hour"]))
    inputs: 'amuont' matches no numeric column; did you mean 'amount'? There are: amount, hour
    """
    if pattern in _TEXT_FIELDS or pattern in texts:
        return TaskError(
            f"{key}: {pattern!r} is text, and inputs are numbers; write [values] {pattern}_number = "
            f'"hash({pattern})" (or "{pattern} == \'web\'") and name that'
        )
    raw = "" if near(pattern, known) else ". A raw column that nothing else uses must be in numbers"
    return TaskError(f"{key}: {pattern!r} matches no numeric column; {did_you_mean(pattern, known)}{raw}")


def event_columns(model: type[WireModel], events: list[Any], ts: FloatVector, request: ColumnRequest) -> EventBatch:
    """Build the requested columns of decoded ``events`` whose times, in epoch seconds, are ``ts (n,) float64``."""
    request.check(model)
    read = _Reader(model, events, ts)
    return EventBatch(
        event_id=bare([event.event_id for event in events]),
        ts=ts,
        type=[DEVICE_EVENT_TYPE] * len(events) if model is DeviceEvent else [event.type for event in events],
        entities={name: _ids(read(name), name in _fields(model)) for name in request.entities},
        numbers={name: ts if name == "ts" else _numbers(read(name)) for name in request.numbers},
        texts={name: _texts(read(name)) for name in request.texts},
    )


def bare(ids: list[str]) -> list[str]:
    """Ids without blanks around them, wherever they come from; one of blanks alone stays as it is."""
    return [text.strip() or text for text in ids]


class _Reader:
    """Finds a named value in every event."""

    def __init__(self, model: type[WireModel], events: list[Any], ts: FloatVector) -> None:
        self._fields, self._events, self._ts = _fields(model), events, ts

    def __call__(self, name: str) -> list[Any]:
        if name in self._fields:
            return list(map(attrgetter(name), self._events))
        if "metrics" not in self._fields:
            return [None if event.properties is None else event.properties.get(name) for event in self._events]
        return [
            event.metrics[name] if name in event.metrics else (event.properties or _EMPTY).get(name)
            for event in self._events
        ]


def _numbers(values: list[Any]) -> FloatVector:
    if not _NUMBERS.issuperset(map(type, values)):
        # No int: the contract's numbers are decoded as floats.
        values = [value if isinstance(value, float | bool) else None for value in values]
    return np.array(values, np.float64)  # None becomes NaN


def _ids(values: list[Any], checked: bool) -> list[str | None]:
    """Identifiers; a property that is empty or longer than an id may be names no entity."""
    texts = [v and (v.strip() or v) for v in _texts(values)]
    return texts if checked else [v if v is not None and 0 < len(v) <= ID_CHARS else None for v in texts]


def _texts(values: list[Any]) -> list[str | None]:
    if not _TEXTS.issuperset(map(type, values)):
        return [value if isinstance(value, str) else None for value in values]
    return values
