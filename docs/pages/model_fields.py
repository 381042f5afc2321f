"""What pages tell of the fields of pydantic models: meaning, type, bounds, default."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Secret, SecretStr
from pydantic.fields import FieldInfo


def docs_of(model: type) -> dict[str, str]:
    """The text below each field of a model, or a dataclass, and of those it is built from, in one line.

    >>> from weir.online.codec.limits import InputLimits
    >>> docs_of(InputLimits)["weight"]
    'The largest ``weight`` of a label; more is ``out of range``.'
    """
    found: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if not part.__module__.startswith("weir."):
            continue
        (tree,) = ast.parse(inspect.getsource(part)).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


def shown(value: object) -> str:
    """A default or a bound as a person writes it."""
    return "-" if value is None else f"{value:.10g}" if isinstance(value, float) else f"{value}"


def plain(text: str) -> str:
    """A docstring as Markdown in a cell of a table."""
    return text.replace("``", "`").replace("|", "/")


def type_of(schema: Mapping[str, Any], definitions: Mapping[str, Any] | None = None) -> str:
    """The type and the bounds that a field's JSON Schema states, in words.

    >>> type_of({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    'integer, >= 1; or null'
    """
    if (name := schema.get("$ref")) and definitions is not None:
        return type_of(definitions[name.rpartition("/")[2]], definitions)
    if parts := schema.get("anyOf"):
        told = [type_of(part, definitions) for part in parts]
        return "; or ".join(dict.fromkeys(told))
    if choices := [schema["const"]] if "const" in schema else schema.get("enum"):
        return " or ".join(f"`{each}`" for each in choices)
    of = schema.get("items") or schema.get("additionalProperties")
    each = type_of(of, definitions) if isinstance(of, dict) else ""
    inner = f" of ({each})" if "," in each or ";" in each else each and f" of {each}"
    kind = {"array": "list", "object": "table", "string": "text"}.get(
        schema.get("type", "any"), schema.get("type", "any")
    )
    formats = {"path": "path", "date-time": "RFC 3339", "base64": "bytes in base64", "base64url": "bytes in base64"}
    kind = formats.get(schema.get("format", ""), kind)
    return ", ".join([f"{kind}{inner}", *_bounds(schema)])


def _bounds(schema: Mapping[str, Any]) -> list[str]:
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    found = [f"{sign} {shown(schema[key])}" for key, sign in signs.items() if key in schema]
    sizes = {"Length": "characters", "Items": "items", "Properties": "members"}
    for what, unit in sizes.items():
        least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
        if least is not None or most is not None:
            both = f"{least} {unit}" if least == most else f"{least or 0} to {most} {unit}"
            found.append(both if most is not None else f"at least {least} {unit}")
    if not (pattern := schema.get("pattern", "^[^")).startswith("^[^"):  # those say which characters are not allowed
        found.append(f"as `{pattern}`")
    return found


def toml_of(value: object) -> str:
    """A value as TOML writes it.

    >>> toml_of(("a:9092",)), toml_of(2.0), toml_of(True)
    ('["a:9092"]', '2', 'true')
    """
    if isinstance(value, Secret | SecretStr):
        return toml_of(value.get_secret_value())
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_of, value))}]"
    if isinstance(value, float):
        return f"{value:g}" if "e" in f"{value:g}" else f"{value:.15g}"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def default_of(info: FieldInfo) -> Any:
    """A field's default, made where a factory makes it; ``PydanticUndefined`` of one that must be given."""
    return info.get_default(call_default_factory=True, validated_data={})
