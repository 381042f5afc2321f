"""The msgspec types of the hot path, generated from the pydantic models of ``wire`` so they cannot drift apart.

A struct has the same fields in the same order with the same bounds, narrowed to what an operator allows
(``weir.online.codec.limits``): a batch is judged while it is decoded, at no cost of its own. What msgspec cannot state
(control characters, the range of an RFC 3339 time) is checked by ``weir.online.codec.scan`` and
``weir.online.codec.accept``.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache, lru_cache, reduce
from operator import or_
from types import GenericAlias, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from weir.online.codec.limits import DEFAULT_LIMITS, InputLimits
from weir.online.codec.wire import (
    FINITE_MAX,
    TS_MAX,
    TS_MIN,
    VERSION,
    Feature,
    Features,
    Id,
    KnownId,
    LimitMark,
    Timestamp,
    WireModel,
)
from weir.online.errors import TaskError

# pydantic reads a time with a validator; msgspec reads the two forms as two types.
_TIME: Any = Annotated[float, Meta(ge=TS_MIN, le=TS_MAX)] | Annotated[datetime, Meta(tz=True)]
_BOUNDS = ("ge", "gt", "le", "lt", "min_length", "max_length")
_FEATURES: TypeAdapter[dict[str, float]] = TypeAdapter(Features)


@cache
def struct_of(model: type[WireModel], limits: InputLimits = DEFAULT_LIMITS, *, row: bool = False) -> type[Any]:
    """The struct that decodes ``model``; with ``row`` for table rows, which need not carry the version ``v``.

    >>> from weir.online.codec.wire import Label
    >>> struct_of(Label).__struct_fields__[:3]
    ('v', 'label_id', 'task')
    """
    fields = [
        (name, kind, VERSION) if row and name == "v" else (name, kind, *default)
        for name, kind, *default in fields_of(model, limits)
    ]
    return msgspec.defstruct(
        f"{model.__name__}Struct",
        fields,
        kw_only=True,
        gc=False,  # decoded JSON holds no cycles, and the collector need not walk thousands of events
    )


@cache
def fields_of(model: type[WireModel], limits: InputLimits = DEFAULT_LIMITS) -> tuple[Any, ...]:
    """The fields of ``model`` as ``defstruct`` takes them: (name, type) or (name, type, default)."""
    hints = get_type_hints(model, include_extras=True)
    kinds = {name: _TIME if hints[name] == Timestamp else bounded(hints[name], limits) for name in model.model_fields}
    return tuple(
        (name, kinds[name]) if info.is_required() else (name, kinds[name], info.default)
        for name, info in model.model_fields.items()
    )


def bounded(kind: Any, limits: InputLimits = DEFAULT_LIMITS) -> Any:
    """An annotation of the contract as msgspec reads it, narrowed by ``limits`` wherever one is marked ``LimitMark``.

    >>> from weir.online.codec.wire import Score
    >>> bounded(Score)
    typing.Annotated[float, msgspec.Meta(ge=0, le=1)]
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner, *notes = parts
        bounds = _bounds_of(notes, limits)
        return Annotated[bounded(inner, limits), Meta(**bounds)] if bounds else bounded(inner, limits)
    if origin in (UnionType, Union):
        return reduce(or_, (bounded(part, limits) for part in parts))
    if origin in (dict, tuple):
        return GenericAlias(origin, tuple(bounded(part, limits) for part in parts))
    return kind


def _bounds_of(notes: list[Any], limits: InputLimits) -> dict[str, Any]:
    """What pydantic's ``Field`` says among ``notes``, in msgspec's words; patterns are what ``scan`` looks for."""
    rules = [rule for note in notes if isinstance(note, FieldInfo) for rule in note.metadata]
    bounds = {name: getattr(rule, name) for rule in rules for name in _BOUNDS if hasattr(rule, name)}
    if any(getattr(rule, "allow_inf_nan", True) is False for rule in rules):
        bounds |= {"ge": -FINITE_MAX, "le": FINITE_MAX}  # msgspec has no word for it, but JSON has no other numbers
    mark = next((note for note in notes if isinstance(note, LimitMark)), None)
    if mark is None:
        return bounds
    most = getattr(limits, mark.name)
    return {"gt": 0, "le": most} if "gt" in bounds else {"ge": -most, "le": most}


@cache
def limited_fields(model: type[WireModel]) -> dict[str, str]:
    """The fields of ``model`` that hold numbers an operator limits, by the name of the limit.

    >>> from weir.online.codec.wire import Label
    >>> limited_fields(Label)
    {'weight': 'weight'}
    """
    hints = get_type_hints(model, include_extras=True)
    found = {name: _mark_in(hints[name]) for name in model.model_fields}
    return {name: mark.name for name, mark in found.items() if mark is not None}


def _mark_in(kind: Any) -> LimitMark | None:
    if isinstance(kind, LimitMark):
        return kind
    return next((mark for part in get_args(kind) if (mark := _mark_in(part)) is not None), None)


@cache
def times_of(model: type[WireModel]) -> tuple[str, ...]:
    """The fields of ``model`` that are times; ``ts`` is the first.

    >>> from weir.online.codec.wire import Prediction
    >>> times_of(Prediction)
    ('ts', 'scored_at')
    """
    return _fields_of(model, Timestamp)


@cache
def ids_of(model: type[WireModel]) -> tuple[str, ...]:
    """The fields of ``model`` that are ids which cannot be missing."""
    return _fields_of(model, KnownId)


def _fields_of(model: type[WireModel], kind: Any) -> tuple[str, ...]:
    hints = get_type_hints(model, include_extras=True)
    return tuple(name for name in model.model_fields if hints[name] == kind)


def list_of(struct: type[Any]) -> Any:
    """The type ``list[struct]`` of a struct made at run time."""
    return GenericAlias(list, (struct,))


@cache
def decoders(model: type[WireModel], limits: InputLimits = DEFAULT_LIMITS) -> tuple[msgspec.json.Decoder[Any], ...]:
    """A decoder of one record and a decoder of a JSON array of them."""
    struct = struct_of(model, limits)
    return msgspec.json.Decoder(struct), msgspec.json.Decoder(list_of(struct))


@lru_cache(maxsize=64)
def record_struct(model: type[WireModel]) -> type[Any]:
    """A struct to encode ``model`` with: its fields by position, unchecked; None is left out."""
    optional = False
    fields: list[Any] = []
    for name, info in model.model_fields.items():
        optional = optional or (info.default is None and not info.is_required())
        fields.append((name, Any, None) if optional else (name, Any))
    return msgspec.defstruct(model.__name__, fields, gc=False, omit_defaults=True)


@lru_cache(maxsize=256)
def features_struct(names: tuple[str, ...]) -> type[Any]:
    """A struct for ``{name: value}`` with exactly these names; twice as fast as a dict, either way.

    Raises ``TaskError`` where a name cannot be a key of a record.
    """
    try:
        _FEATURES.validate_python(dict.fromkeys(names, 0.0))
        if len(set(names)) < len(names):
            raise ValueError("a name is given twice")
        return _map_struct("Features", names, bounded(Feature))
    except (ValidationError, ValueError) as error:
        raise TaskError(f"feature names {names!r} cannot be keys of a record: {error}") from error


@lru_cache(maxsize=256)
def entities_struct(names: tuple[str, ...]) -> type[Any]:
    """A struct for ``{name: identifier}`` with these names or some of them; None is left out."""
    return _map_struct("Entities", names, bounded(Id), None)


def _map_struct(title: str, names: tuple[str, ...], kind: Any, *default: Any) -> type[Any]:
    # Names of features have points and may be words of Python: fields are numbered, and renamed on the wire.
    fields = [(f"f{i}", kind, *default) for i in range(len(names))]
    rename = {f"f{i}": name for i, name in enumerate(names)}
    return msgspec.defstruct(
        title, fields, rename=rename, gc=False, omit_defaults=bool(default), forbid_unknown_fields=True
    )
