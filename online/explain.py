"""Why a record is not valid, in words for the person who reads the dead letter. Slow, exact, and never raises.

This is also the definition of valid: one JSON object in UTF-8 without a byte order mark, no key twice in any object,
no ``NaN`` or ``Infinity``, numbers of at most ``MAX_NUMBER_CHARS`` characters, at most ``MAX_DEPTH`` deep, and what the
pydantic model says, within the limits of ``online.limits``. A property test holds ``online.decode`` to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from online.judge import out_of_range
from online.limits import DEFAULT_LIMITS, InputLimits
from online.scan import MAX_NUMBER_CHARS
from online.structs import UnknownFields
from online.wire import REASON_CHARS, WireModel

MAX_DEPTH = 32
_SHOWN_VALUE, _SHOWN_ERRORS = 80, 3
_BOM = b"\xef\xbb\xbf"


def explain(
    model: type[WireModel],
    raw: bytes,
    unknown_fields: UnknownFields = "ignore",
    limits: InputLimits = DEFAULT_LIMITS,
) -> str | None:
    """Say what is wrong with the record ``raw``, or None where it is valid.

    >>> from online.wire import Label
    >>> explain(Label, b'{"v":1,"label_id":"l1","task":"fraud","entity_id":"u1","ts":1700000000,"value":2}')
    'value: input should be less than or equal to 1, got 2'
    >>> explain(Label, b"")
    'the record is empty'
    """
    reason = explain_json(raw)
    if reason is None:
        try:
            record = model.model_validate_json(raw, extra="forbid" if unknown_fields == "reject" else "ignore")
            reason = out_of_range(record, limits)
        except ValidationError as error:
            reason = describe(error)
    return reason and reason[:REASON_CHARS]


def explain_row(
    model: type[WireModel],
    row: Any,
    unknown_fields: UnknownFields = "ignore",
    limits: InputLimits = DEFAULT_LIMITS,
) -> str | None:
    """Say what is wrong with a row of a table (``v`` may be absent), or None where it is valid."""
    if not isinstance(row, dict):
        return f"a row is a dict of column to value, got {type(row).__name__}"
    try:
        record = model.model_validate({"v": 1, **row}, extra="forbid" if unknown_fields == "reject" else "ignore")
    except ValidationError as error:
        return describe(error)[:REASON_CHARS]
    return out_of_range(record, limits)


def explain_json(raw: bytes) -> str | None:
    """Say why ``raw`` is not acceptable JSON whatever the model, or None where it is."""
    if raw.startswith(_BOM):
        return "the record starts with a UTF-8 byte order mark; write it without"
    if not raw.strip(b" \t\r\n"):
        return "the record is empty"
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}"
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_number,
            parse_float=_number,
        )
    except RecursionError:
        return f"nested deeper than {MAX_DEPTH}"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at character {error.pos}"
    except ValueError as error:
        return str(error)
    if _too_deep(value):
        return f"nested deeper than {MAX_DEPTH}"
    return "a text holds half a surrogate pair" if "\\u" in text and not _is_unicode(value) else None


def describe(error: ValidationError) -> str:
    """Turn a pydantic error into one line: each field, what it should be and what it was.

    A value that may be of several types gives several errors; those that are not about the type say more.
    """
    by_field: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_field.setdefault(detail["loc"][:2], []).append(detail)
    parts = []
    for loc, details in by_field.items():
        telling = [d for d in details if not d["type"].endswith("_type")] or details
        wanted = " or ".join(_sentence(d["msg"]) for d in telling)
        got = "" if telling[0]["type"] in ("missing", "extra_forbidden") else f", got {_shown(telling[0]['input'])}"
        parts.append(f"{'.'.join(_name(part) for part in loc) or 'record'}: {wanted}{got}")
    more = len(parts) - _SHOWN_ERRORS
    return "; ".join(parts[:_SHOWN_ERRORS]) + (f"; and {more} more" if more > 0 else "")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for k, key in enumerate(keys) if key in keys[:k])
        raise ValueError(f"the key {_name(repeated)} is given more than once")
    return members


def _no_constant(token: str) -> None:
    raise ValueError(f"{token} is not JSON; leave the value out or write null")


def _number(token: str) -> float:
    if len(token) > MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(token)} characters; at most {MAX_NUMBER_CHARS}")
    return 0.0


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [member for parent in level for member in _members(parent)]
    return bool(level)


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _sentence(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _name(part: int | str) -> str:
    text = str(part)
    return text if text.isprintable() and len(text) <= _SHOWN_VALUE else _shown(text)


def _shown(value: object) -> str:
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}... ({len(text)} characters)"
