"""What a refused record or file is, where another program's format is recognised: compressed, framed, wrapped, encoded.

For the words of a dead letter or of a refused file only: nothing here decides whether a record is valid, and nothing
here raises. A new format is a line in one of the tables.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from weir.online.mistakes import name_of, near, shown

_UNPACK: Final = "unpack it, and give the files"
# First bytes, what begins with them, and the remedy where it is a file.
_MAGIC: Final = (
    (rb"\x1f\x8b", "gzip data", _UNPACK),
    (rb"\(\xb5/\xfd|\x04\"M\x18|\x82SNAPPY|\xff\x06..sNaP|BZh|\xfd7z", "zstd, lz4, snappy, bzip2 or xz data", _UNPACK),
    (rb"PK\x03\x04(?s:.{,999}?)(?:xl/|\[Content|mimetype)|\xd0\xcf\x11", "a spreadsheet", "export the sheet as CSV"),
    (rb"PK\x03\x04|7z\xbc\xaf|Rar!|(?s:.{257})ustar", "an archive (zip, 7z, rar, tar)", _UNPACK),
    (rb"Obj\x01|\xc3\x01", "Avro", "export it as CSV or Parquet"),
    (rb"SQLite f|\x89HDF|\x93NUMPY|ORC[^ -~\s]", "a file of SQLite, HDF5, NumPy or ORC", "export it as CSV or Parquet"),
    (rb"\x80[\x02-\x05]|\xac\xed\x00\x05", "a pickle of Python or Java", "export it as CSV or Parquet"),
    (rb"<[?!]|<[A-Za-z][^<>,;\t]*>(?![,;\t])", "XML or HTML", "a login page, perhaps; else export it as CSV"),
)
_TEXT: Final = (
    (r"\{[^\n]*\}\s*\n\s*\{", "several JSON objects in one record (NDJSON)", "send each as a record of its own"),
    (r"\{\s*'|\{.*:\s*(?:None|True|False)\b", "a Python dict as text", "use json.dumps, not str or repr"),
    (r'\{\s*\\+"', "JSON with a backslash before each quote (encoded twice)", "send it encoded once"),
    (r"\{\s*[A-Za-z_]\w*\s*[:=]", "keys without quotes (JavaScript, Java)", "write keys in double quotes"),
    (r"\{(?s:.)*,\s*[}\]]", "a comma before a closing bracket", "leave it out"),
    (
        r"[^{}\[\]\n]*(?:[,;\t|]|\s\d{9,})[^{}\[\]]*$",
        "a line of a table or protocol (CSV, InfluxDB)",
        "write one JSON object a record",
    ),
    (r"(?:---\s+)?[\w.-]+\s*[:=]", "names and values without braces (YAML, a form, logfmt)", "send one JSON object"),
)
# Keys that all are there, what has them, and what the sender can set: to send what is inside alone, which helps where
# that is a whole record, and otherwise.
_ENVELOPES: Final = (
    ({"before", "after", "op"}, "a change event of Debezium", "use its transform ExtractNewRecordState", ""),
    ({"database", "table", "data"}, "a change event of Maxwell or Canal", "", ""),
    ({"specversion"}, "a structured CloudEvent", "use its binary mode",
     "send it to weir serve as application/cloudevents+json"),
    ({"schema", "payload"}, "JSON with its schema, of Kafka Connect", "set value.converter.schemas.enable=false", ""),
    ({"TopicArn", "Message"}, "a notification of SNS", "turn on raw message delivery", ""),
    ({"message", "subscription"}, "a push message of Pub/Sub", "", ""),
    ({"Records"}, "a batch of an AWS service", "", ""),
    ({"detail-type", "detail"}, "an event of EventBridge", "", ""),
    ({"fields", "tags"}, "a metric of Telegraf", "", "rename its fields to metrics"),
    ({"resourceMetrics"}, "metrics of OpenTelemetry", "", ""),
    ({"@timestamp", "@version"}, "an event of Logstash", "", ""),
)  # fmt: skip
# Other names, without ``_`` and case; a label's may also begin with ``is_``.
_SYNONYMS: Final[dict[str, str]] = {
    "ts": "timestamp @timestamp time eventtime createdat occurredat date datetime unix epoch",
    "event_id": "id uuid messageid transactionid txid",
    "user_id": "customerid customer accountid memberid clientid",
    "device_id": "sensorid sensor id mac serial",
    "entity_id": "userid customerid accountid deviceid sensorid user customer",
    "metrics": "readings values fields measurements data",
    "value": "label target y class outcome",
}
_KEYS: Final = 64


def magic(head: bytes) -> tuple[str, str] | None:
    r"""What begins with these bytes, and the remedy where it is a file.

    >>> magic(b"Rar!\x1a\x07")
    ('an archive (zip, 7z, rar, tar)', 'unpack it, and give the files')
    """
    return next(((what, remedy) for mark, what, remedy in _MAGIC if re.match(mark, head)), None)


def recognise_bytes(raw: bytes) -> str | None:
    r"""What bytes that are no UTF-8 or no JSON are, and what to send instead; None where nothing is known of them.

    >>> recognise_bytes(b"\x00\x00\x00\x00\x11\x02u1")
    'framed for a schema registry (magic byte 0, schema id 17), Avro or Protobuf after it; send plain JSON'
    >>> recognise_bytes(b"{'v': 1}")
    'a Python dict as text; use json.dumps, not str or repr'
    """
    if found := magic(raw):
        packed = found[0].endswith(" data")
        return f"{found[0]}; send JSON text" + ("; the producer's compression.type compresses better" if packed else "")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b'{\0"' in raw[:4] or raw[:3] == b"\0{\0" or raw[:4] == b"\0\0\0{":
        return "the text is in UTF-16 or UTF-32; write UTF-8"
    if raw[:1] == b"\0" and len(raw) > 5:
        after = "JSON" if raw[5:].lstrip()[:1] in (b"{", b"[") else "Avro or Protobuf"
        number = int.from_bytes(raw[1:5], "big")
        return f"framed for a schema registry (magic byte 0, schema id {number}), {after} after it; send plain JSON"
    try:
        head = raw.decode().strip()[:512]
    except UnicodeDecodeError as error:
        letter = f"which is {raw[error.start : error.end].decode('cp1252', 'replace')!r} in Latin-1 or Windows-1252"
        if raw.lstrip()[:1] == b"{" and b"\0" not in raw:
            return f"byte 0x{raw[error.start]:02x} at position {error.start}, {letter}; write UTF-8"
        head = "\0"
    if head[:1] != "{" and re.search(r"[\0-\x08\x0e-\x1f]", head):
        return "binary data, as of Avro, Protobuf or MessagePack; send JSON text"
    if _parsed(head if len(raw) <= 512 else raw.decode()) is not None:
        return "base64 text; send the JSON that is in it"
    return next((f"{what}; {remedy}" for pattern, what, remedy in _TEXT if re.match(pattern, head)), None)


def recognise_value(value: Any, fields: Collection[str]) -> str | None:
    """What JSON that is not one event is; ``fields`` are those that an event must have.

    >>> recognise_value({"data": {"v": 1, "user_id": "u"}}, ["v", "user_id"])
    'the record is inside data; send that object alone'
    """
    if isinstance(value, list):
        return f"a JSON array of {len(value):,} items; send each as a record of its own"
    if isinstance(value, str):
        twice = _parsed(value) is not None
        how = "JSON inside a JSON text (encoded twice)" if twice else f"the text {shown(value)}"
        return f"{how}; send one JSON object" + (", encoded once" if twice else "")
    if not isinstance(value, Mapping):
        return f"{shown(value)}, not a JSON object; send an object with {', '.join(fields)}"
    if any(field in value for field in fields if field not in ("v", "type", "ts", "metrics")):
        return None
    found = _inside(value, fields)
    inside = None if found is None else f"the record is inside {found}"
    for keys, what, unwraps, otherwise in _ENVELOPES:
        if keys <= value.keys():
            told = f"{what}; {inside or 'send one object with ' + ', '.join(fields)}"
            remedy = unwraps if found is not None and found.whole else otherwise
            return told + (f", or {remedy}" if remedy else "")
    return inside


def other_name(field: str, document: Any, known: Collection[str]) -> str:
    """Under which name ``document`` may hold what it should hold as ``field``."""
    others = [str(key) for key in list(document)[:_KEYS] if key not in known] if isinstance(document, Mapping) else []
    bare, names = {key.lower().replace("_", ""): key for key in others}, _SYNONYMS.get(field, "").split()
    like = [bare[name] for name in names if name in bare] or list(near(field, others))
    like = like or [key for key in others if field == "value" and key.startswith("is_")]
    return f"; rename {name_of(like[0])!r}, if that is it" if like else ""


class _Inner(NamedTuple):
    """Where a record is inside another object."""

    path: str
    lacks: tuple[str, ...]
    """Fields that it does not have itself: envelopes have an id and a time of their own."""
    depth: int = 1

    def __str__(self) -> str:
        lacks = f" with {', '.join(self.lacks)} added" if self.lacks else ""
        return f"{self.path}; send that object alone{lacks}"

    @property
    def whole(self) -> bool:
        """Whether it is all that is needed, and one envelope is around it."""
        return not self.lacks and self.depth == 1


def _inside(value: Mapping[Any, Any], fields: Collection[str], depth: int = 3) -> _Inner | None:
    """The object inside ``value`` that has most of ``fields``, itself or as JSON in a text."""
    for key, held in list(value.items())[:_KEYS]:
        first = isinstance(held, list) and bool(held)  # a batch: its first item is like the others
        name, held = name_of(key) + ("[0]" if first else ""), held[0] if first else held
        inner = _parsed(held) if isinstance(held, str) else held
        if not isinstance(inner, Mapping):
            continue
        lacks = tuple(field for field in fields if field not in inner)
        if len(lacks) < (len(fields) + 1) // 2:
            return _Inner(name + (" (as a text)" if inner is not held else ""), lacks)
        deeper = _inside(inner, fields, depth - 1) if depth else None
        if deeper is not None:
            return deeper._replace(path=f"{name}.{deeper.path}", depth=deeper.depth + 1)
    return None


def _parsed(text: str) -> Any:
    """The JSON object or array that a text holds, itself or in base64, or None."""
    try:
        if text.lstrip()[:1] not in ("{", "["):
            text = base64.b64decode(text + "=" * (-len(text) % 4)).decode()
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else None
    except (ValueError, RecursionError):
        return None
