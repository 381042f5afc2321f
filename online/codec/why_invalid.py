"""Why a record is not valid, in words for the person who reads the dead letter. Slow, exact, and never raises.

This is also the definition of valid: one JSON object in UTF-8 without a byte order mark, no key twice in any object, no
``NaN`` or ``Infinity``, numbers of at most ``MAX_NUMBER_CHARS`` characters, at most ``MAX_DEPTH`` deep, and what the
pydantic model says, within the limits of ``weir.online.codec.limits``. A property test holds
``weir.online.codec.decode`` to it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from pydantic import ValidationError

from weir.online.codec.foreign_formats import other_name, recognise_bytes, recognise_value
from weir.online.codec.hot_structs import times_of
from weir.online.codec.judge import out_of_range
from weir.online.codec.limits import DEFAULT_LIMITS, InputLimits
from weir.online.codec.scan import MAX_NUMBER_CHARS
from weir.online.codec.wire import FINITE_MAX, MISSING, REASON_CHARS, TS_MAX, TS_MIN, WireModel
from weir.online.mistakes import Mistake, at, mistakes, name_of, number_in, shown

MAX_DEPTH = 32
_LARGE = 16_384
_SHOWN_ERRORS, _SHOWN_KEYS = 3, 8
_UNREAD = ("not UTF-8", "not JSON")
_BOM = b"\xef\xbb\xbf"
# A key, and what stands there without quotes. Possessive throughout: a record of blanks or commas alone would else be
# gone over once for each of its characters, which is hours for a megabyte.
_END = r'(?:,\s*+["}]|[}\]]|$)'
_BARE = re.compile(
    rf'"([^"\\]++)"\s*+:\s*+([^\s"{{}}\[\]](?:[^\s"{{}}\[\],]++|\s++(?!{_END})|,(?!\s*+["}}]))*+)(?=\s*+{_END})'
)


def explain(model: type[WireModel], raw: bytes, limits: InputLimits = DEFAULT_LIMITS) -> str | None:
    """Say what is wrong with the record ``raw``, or None where it is valid.

    >>> from weir.online.codec.wire import Label
    >>> explain(Label, b'{"v":1,"label_id":"l1","task":"fraud","entity_id":"u1","ts":1700000000,"value":2}')
    'value: got 2; give 0 or 1'
    >>> explain(Label, b"")
    'the record is empty'
    """
    reason = explain_json(raw)
    if reason is not None:
        known = recognise_bytes(raw) if reason.startswith(_UNREAD) else None
        fault = "not UTF-8" if known and known.startswith(("byte ", "the text is in")) else "not JSON"
        reason = f"{fault}: {known}" if known else reason
    elif len(raw) <= _LARGE or (reason := _too_many(model, json.loads(raw))) is None:
        try:
            reason = out_of_range(model.model_validate_json(raw), limits)
        except ValidationError as error:
            reason = describe(model, error, json.loads(raw))
    return reason and reason[:REASON_CHARS]


@cache
def _most_items(model: type[WireModel]) -> dict[str, int]:
    """The maps and lists of a record, and how many items each may have."""
    nodes = {name: (node, *node.get("anyOf", ())) for name, node in model.model_json_schema()["properties"].items()}
    bounds = {name: [each.get("maxProperties") or each.get("maxItems") for each in of] for name, of in nodes.items()}
    return {name: max(filter(None, of)) for name, of in bounds.items() if any(of)}


def _too_many(model: type[WireModel], document: Any) -> str | None:
    """Say which map or list of a record is far too long, or None.

    Of each item in it pydantic would else tell three mistakes: 4 s of work for a record of a megabyte.
    """
    for name, most in _most_items(model).items():
        held = document.get(name) if isinstance(document, dict) else None
        if isinstance(held, dict | list) and len(held) > most:
            return f"{name}: has {len(held):,} items; give at most {most:,}"
    return None


def explain_row(model: type[WireModel], row: Any) -> str | None:
    """Say what is wrong with a row of a table (``v`` may be absent), or None where it is valid."""
    if not isinstance(row, dict):
        return f"a row is a dict of column to value, got {type(row).__name__}"
    try:
        record = model.model_validate({"v": 1, **finite(row)}, context={"row": True})
    except ValidationError as error:
        return describe(model, error, row)[:REASON_CHARS]
    return out_of_range(record, DEFAULT_LIMITS)


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """A row with infinite numbers as the largest finite ones, which stand for "no data" as they do."""
    return {
        key: {name: _finite(each) for name, each in value.items()} if isinstance(value, dict) else _finite(value)
        for key, value in row.items()
    }


def _finite(value: Any) -> Any:
    return max(-FINITE_MAX, min(value, FINITE_MAX)) if isinstance(value, float) and value == value else value


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
        # Numbers are not made, only measured: of an int of over 4,300 digits Python would speak in words of its own.
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_number, parse_float=_number
        )
    except RecursionError:
        return f"nested deeper than {MAX_DEPTH}; send a flat object"
    except json.JSONDecodeError as error:
        return _not_json(error, text)
    except ValueError as error:
        found = re.search(rf'"([^"\\]+)"\s*:\s*{error.args[0]}\b', text) if error.args[1:] else None
        return (f"{name_of(found[1])}: " if found else "") + " ".join(error.args)
    if _too_deep(value):
        return f"nested deeper than {MAX_DEPTH}; send a flat object"
    return "a text holds half a surrogate pair" if "\\u" in text and not _is_unicode(value) else None


def describe(model: type[WireModel], error: ValidationError, document: Any) -> str:
    """Turn a pydantic error into one line: each field, what it was and what to give instead."""
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    foreign = recognise_value(document, required)
    if foreign is not None:
        return f"record: {foreign}"
    told = mistakes(model, error, document, table="an object", most=_SHOWN_ERRORS)
    parts = [_field(model, each, document) for each in told]
    if any(each.words.startswith("is missing") for each in told) and isinstance(document, dict):
        unknown = [name_of(key) for key in document if key not in model.model_fields][:_SHOWN_KEYS]
        parts += [f"the record has {', '.join(unknown)}"] if unknown and "; rename" not in parts[0] else []
    return "; ".join(parts)


def _field(model: type[WireModel], mistake: Mistake, document: Any) -> str:
    name, given, words = ".".join(map(name_of, mistake.path)), at(document, mistake.path), mistake.words
    if not name or words.startswith("unknown key"):
        return words
    if words.startswith("is missing"):
        words = f"is missing; give {TIME}" if name in times_of(model) else words
        return f"{name}: {words.removeprefix('is ')}{other_name(name, document, model.model_fields)}"
    if name in times_of(model):
        words = time_words(given)
    elif given is None or (isinstance(given, str) and given.strip().lower() in MISSING):
        if len(mistake.path) > 1 or not model.model_fields[name].is_required():
            words += "; or leave it out"
        elif name == "value":
            words += "; send no label where it is not known"
    if isinstance(given, dict) and len(given) == 1 and "give an object" not in words:
        words += f"; send alone what its {name_of(*given)} holds"
    return f"{name}: {words}"


def _not_json(error: json.JSONDecodeError, text: str) -> str:
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
        return f"not JSON: the text ends early, after {len(text):,} characters; it was cut off"
    here = f"at character {error.pos}, where it says {shown(text[error.pos : error.pos + 20])}"
    if error.msg.startswith("Extra"):
        return f"not JSON: the record goes on after its end {here}; send each event as a record of its own"
    bare = next((m for m in _BARE.finditer(text) if m.start(2) <= error.pos <= m.end(2)), None)
    if bare is not None:
        number = number_in(bare[2])
        right = "write null or leave it out; a text needs quotes" if number is None else f"write {float(number):.15g}"
        return f"not JSON: {name_of(bare[1])} is {name_of(bare[2])}; {right}"
    return f"not JSON: {error.msg[:1].lower()}{error.msg[1:].removesuffix(' at')} {here}; send one JSON object"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        count = Counter(key for key, _ in pairs)  # a megabyte has 100,000 keys: to search a list for each takes minutes
        repeated = next(key for key, n in count.items() if n > 1)
        raise ValueError(f"the key {name_of(repeated)} is given more than once; keep one")
    return members


def _no_constant(token: str) -> None:
    raise ValueError(token, "is not JSON; leave the value out or write null")


def _number(token: str) -> float:
    if len(token) > MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(token)} characters; at most {MAX_NUMBER_CHARS}")
    return 0.0


def _too_deep(value: Any) -> bool:
    # Level by level, without recursion: this says what is too deep.
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


# Name, how many make a second, and seconds from its year 0 to 1970.
_UNITS: Final = (
    ("milliseconds", 1e3, 0.0),
    ("microseconds", 1e6, 0.0),
    ("nanoseconds", 1e9, 0.0),
    ("days of a spreadsheet", 1 / 86_400, 2_209_161_600.0),
)
_ENDLESS: Final = 1e30
TIME: Final = "epoch seconds, or RFC 3339 with an offset, as 2024-03-01T12:00:00Z"


def time_words(given: Any) -> str:
    """Say what ``given`` is and what to give instead.

    >>> time_words(1_700_000_000_000)
    'got 1700000000000, in milliseconds; give seconds, as 1700000000'
    >>> time_words("2024-03-01 12:00:00")
    "got '2024-03-01 12:00:00', without an offset; give 2024-03-01T12:00:00Z if it is UTC"
    """
    if isinstance(given, datetime):
        given = given.isoformat()
    if isinstance(given, int | float) and not isinstance(given, bool):
        return _odd_number(float(max(min(given, _ENDLESS), -_ENDLESS)), shown(given))  # an int may be too large
    if not isinstance(given, str):
        return f"got {shown(given)}; give {TIME}"
    text = given.strip()
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return _text(text, shown(given))
    fits = TS_MIN <= number <= TS_MAX
    return f"got the text {shown(given)}; give a number without quotes" if fits else _odd_number(number, shown(given))


def _odd_number(number: float, said: str) -> str:
    if math.isnan(number):  # neither before nor after anything
        return f"got {said}; give {TIME}"
    for name, a_second, zero in _UNITS:
        seconds = number / a_second - zero
        if TS_MIN <= seconds <= TS_MAX:
            return f"got {said}, in {name}; give seconds, as {seconds:.15g}"
    if number < TS_MIN:
        day = datetime.fromtimestamp(0, UTC) + timedelta(seconds=max(number, -6e10))
        return f"got {said}, which is {day:%Y-%m-%d}: before 2000, as of a clock that was not set; give epoch seconds"
    return f"got {said}: after 2100; give epoch seconds"


def _text(text: str, said: str) -> str:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return f"got {said}; give {TIME}"
    if found.tzinfo is None:
        return f"got {said}, without an offset; give {found.isoformat()}Z if it is UTC"
    seconds = (found - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    return f"got {said}; give it as {found.isoformat()}" if TS_MIN <= seconds <= TS_MAX else _odd_number(seconds, said)
