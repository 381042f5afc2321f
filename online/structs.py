"""The msgspec types of the hot path, generated from the pydantic models of ``online.wire`` so they cannot drift apart.

A struct has the same fields in the same order with the same bounds. What msgspec cannot state (control characters,
the range of an RFC 3339 time) is checked by ``online.scan`` and ``online.decode``.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

import msgspec
from msgspec import Meta

from online.wire import TS_MAX, TS_MIN, VERSION, Timestamp, WireModel

UnknownFields: TypeAlias = Literal["ignore", "reject"]

# pydantic reads a time with a validator; msgspec reads the two forms as two types.
_TIME: Any = Annotated[float, Meta(ge=TS_MIN, le=TS_MAX)] | Annotated[datetime, Meta(tz=True)]


@cache
def struct_of(model: type[WireModel], unknown_fields: UnknownFields = "ignore", *, row: bool = False) -> type[Any]:
    """The struct that decodes ``model``; with ``row`` for table rows, which need not carry the version ``v``.

    >>> from online.wire import Label
    >>> struct_of(Label).__struct_fields__[:3]
    ('v', 'label_id', 'task')
    """
    hints = get_type_hints(model, include_extras=True)
    if other := [name for name in hints if name != "ts" and hints[name] == Timestamp]:
        raise TypeError(f"{model.__name__} has times besides ts ({', '.join(other)}), which a struct cannot check")
    fields: list[Any] = []
    for name, info in model.model_fields.items():
        kind = _TIME if name == "ts" else hints[name]
        if row and name == "v":
            fields.append((name, kind, VERSION))
        else:
            fields.append((name, kind) if info.is_required() else (name, kind, info.default))
    return msgspec.defstruct(
        f"{model.__name__}Struct",
        fields,
        kw_only=True,
        forbid_unknown_fields=unknown_fields == "reject",
        gc=False,  # decoded JSON holds no cycles, and the collector need not walk thousands of events
    )


def list_of(struct: type[Any]) -> Any:
    """The type ``list[struct]`` of a struct made at run time."""
    return GenericAlias(list, (struct,))


@cache
def decoders(model: type[WireModel], unknown_fields: UnknownFields) -> tuple[msgspec.json.Decoder[Any], ...]:
    """A decoder of one record and a decoder of a JSON array of them."""
    struct = struct_of(model, unknown_fields)
    return msgspec.json.Decoder(struct), msgspec.json.Decoder(list_of(struct))
