"""What a refused record is, where another program's format is recognised: compressed, framed, wrapped, encoded twice.

For the words of a dead letter only: nothing here decides whether a record is valid, and nothing here raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from weir.online.mistakes import name_of, near, shown

_PACKED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\x82SNAPPY": "snappy"}
_TEXT: Final = (
    (r"\{[^\n]*\}\s*\n\s*\{", "several JSON objects in one record (NDJSON)", "send each as a record of its own"),
    (r"\{\s*'|\{.*:\s*(?:None|True|False)\b", "a Python dict as text", "use json.dumps, not str or repr"),
    (r"\{\s*[A-Za-z_]\w*\s*[:=]", "keys without quotes (JavaScript, Java)", "write keys in double quotes"),
    (r"\{(?s:.)*,\s*[}\]]", "a comma before a closing bracket", "leave it out"),
    (
        r"[^{}\[\]\n]*[,;\t][^{}\[\]]*$",
        "a line of a table or protocol (CSV, InfluxDB)",
        "write one JSON object a record",
    ),
)
_SYNONYMS: Final = {"ts": ("timestamp", "@timestamp", "time"), "user_id": ("customer_id", "account_id")}
_KEYS: Final = 64


def recognise_bytes(raw: bytes) -> str | None:
    r"""What bytes that are no UTF-8 or no JSON are, and what to send instead; None where nothing is known of them.

    >>> recognise_bytes(b"\x00\x00\x00\x00\x11\x02u1")
    'framed for a schema registry (magic byte 0, schema id 17), Avro or Protobuf after it; send plain JSON'
    >>> recognise_bytes(b"{'v': 1}")
    'a Python dict as text; use json.dumps, not str or repr'
    """
    for magic, codec in _PACKED.items():
        if raw.startswith(magic):
            return f"{codec} data; send JSON text; the producer's compression.type compresses better"
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b'{\0"' in raw[:4] or raw[:3] == b"\0{\0":
        return "the text is in UTF-16; write UTF-8"
    if raw[:1] == b"\0" and len(raw) > 5:
        after = "JSON" if raw[5:].lstrip()[:1] in (b"{", b"[") else "Avro or Protobuf"
        number = int.from_bytes(raw[1:5], "big")
        return f"framed for a schema registry (magic byte 0, schema id {number}), {after} after it; send plain JSON"
    try:
        head = raw.decode().strip()[:512]
    except UnicodeDecodeError as error:
        letter = f"which is {raw[error.start : error.end].decode('cp1252', 'replace')!r} in Latin-1 or Windows-1252"
        text = raw.lstrip()[:1] == b"{" and b"\0" not in raw
        if not text:
            return "binary data, as of Avro, Protobuf or MessagePack; send JSON text"
        return f"byte 0x{raw[error.start]:02x} at position {error.start}, {letter}; write UTF-8"
    return next((f"{what}; {remedy}" for pattern, what, remedy in _TEXT if re.match(pattern, head)), None)


def recognise_value(value: Any, fields: Collection[str]) -> str | None:
    """What JSON that is not one event is; ``fields`` are those that an event must have.

    >>> recognise_value({"schema": {}, "payload": {"v": 1, "user_id": "u"}}, ["v", "user_id"])
    'the record is inside payload; send that object alone'
    """
    if isinstance(value, list):
        return f"a JSON array of {len(value):,} items; send each as a record of its own"
    if isinstance(value, str):
        twice = _parsed(value) is not None
        how = "JSON inside a JSON text (encoded twice)" if twice else f"the text {shown(value)}"
        return f"{how}; send one JSON object" + (", encoded once" if twice else "")
    if not isinstance(value, Mapping):
        return f"{shown(value)}, not a JSON object; send an object with {', '.join(fields)}"
    if any(field in value for field in fields if field not in ("v", "type", "ts")):
        return None
    return (path := _inside(value, fields)) and f"the record is inside {path}; send that object alone"


def other_name(field: str, document: Any, known: Collection[str]) -> str:
    """Under which name ``document`` may hold what it should hold as ``field``."""
    others = [str(key) for key in list(document)[:_KEYS] if key not in known] if isinstance(document, Mapping) else []
    like = near(field, others) or [name for name in _SYNONYMS.get(field, ()) if name in others]
    return f"; rename {name_of(like[0])!r}, if that is it" if like else ""


def _inside(value: Mapping[Any, Any], fields: Collection[str], depth: int = 3) -> str | None:
    """The path of the object inside ``value`` that has most of ``fields``, itself or as JSON in a text."""
    for key, held in list(value.items())[:_KEYS]:
        inner = _parsed(held) if isinstance(held, str) else held
        if not isinstance(inner, Mapping):
            continue
        if sum(field in inner for field in fields) > len(fields) // 2:
            return name_of(key) + (" (as a text)" if inner is not held else "")
        deeper = _inside(inner, fields, depth - 1) if depth else None
        if deeper is not None:
            return f"{name_of(key)}.{deeper}"
    return None


def _parsed(text: str) -> Any:
    """The JSON object or array that a text holds, or None."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else None
    except (ValueError, RecursionError):
        return None
