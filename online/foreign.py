"""What a refused record is, where another program's format is recognised: compressed, framed, wrapped, encoded twice.

For the words of a dead letter only: nothing here decides whether a record is valid, and nothing here raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from online.mistakes import name_of, near, shown

_PACKED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\x82SNAPPY": "snappy"}
_ENVELOPES: Final = (
    ({"schema", "payload"}, "Kafka Connect's JSON with its schema", "set value.converter.schemas.enable=false"),
    ({"before", "after"}, "a Debezium change", "unwrap it by the transform ExtractNewRecordState"),
    ({"specversion", "type"}, "a CloudEvents envelope", "send what is in its data"),
    ({"@timestamp", "message"}, "a Logstash or Beats event", "send its message alone, as by codec format"),
    ({"records"}, "a batch of the Kafka REST proxy or of Event Hubs", "send each of its records by itself"),
    ({"Type", "Message", "TopicArn"}, "an Amazon SNS notification", "send its Message alone (raw delivery)"),
)
_TEXT: Final = (
    (r"<[?!A-Za-z]", "XML or HTML", "write one JSON object"),
    (r"\{\s*'|\{.*:\s*(?:None|True|False)\b", "a Python dict as text", "use json.dumps, not str or repr"),
    (r"\{\s*[\w.]+=", "a Java or Ruby map as text", "use a serializer that writes JSON"),
    (r"\{\s*[A-Za-z_]\w*\s*:", "keys without quotes (JavaScript)", "write keys in double quotes"),
    (
        r"[^{}\[\]\n]*[,;\t][^{}\[\]]*$",
        "a line of a table or protocol (CSV, InfluxDB)",
        "write one JSON object a record",
    ),
)
_SYNONYMS: Final = {
    "ts": "timestamp time eventtime @timestamp date datetime createdat occurredat ingesttime unixtime epoch",
    "event_id": "id uuid eventuuid transactionid txid messageid orderid",
    "user_id": "user uid userid customerid customer accountid clientid memberid",
    "device_id": "device sensor sensorid deviceid thingid machineid id",
    "entity_id": "user userid customerid deviceid entity accountid key",
    "type": "event eventtype eventname name action kind",
    "v": "version schemaversion",
    "value": "label y target outcome isfraud fraud class verdict",
    "metrics": "values readings measurements fields data sensors telemetry",
    "task": "taskname model",
}
_HEAD, _KEYS = 512, 64


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
    wide = _wide(raw)
    if wide is not None:
        return f"the text is in {wide}; write UTF-8"
    if raw[:1] == b"\0" and len(raw) > 5:
        after = "JSON" if raw[5:].lstrip()[:1] in (b"{", b"[") else "Avro or Protobuf"
        number = int.from_bytes(raw[1:5], "big")
        return f"framed for a schema registry (magic byte 0, schema id {number}), {after} after it; send plain JSON"
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError as error:
        return _latin(raw, error.start)
    return _recognise_text(text)


def recognise_value(value: Any, fields: Collection[str]) -> str | None:
    """What JSON that is not one event is; ``fields`` are those that an event must have.

    >>> recognise_value({"schema": {}, "payload": {"v": 1, "user_id": "u"}}, ["v", "user_id"])
    "Kafka Connect's JSON with its schema: the record is inside payload; set value.converter.schemas.enable=false"
    """
    if isinstance(value, list):
        return f"a JSON array of {len(value):,} items; send each as a record of its own"
    if isinstance(value, str):
        inner = _parsed(value)
        how = "JSON inside a JSON text (encoded twice)" if inner is not None else f"the text {shown(value)}"
        return f"{how}; send one JSON object" + (", encoded once" if inner is not None else "")
    if not isinstance(value, Mapping):
        return f"{shown(value)}, not a JSON object; send an object with {', '.join(fields)}"
    if any(field in value for field in fields if field not in ("v", "type", "ts")):
        return None
    known = next(((what, remedy) for keys, what, remedy in _ENVELOPES if keys <= value.keys()), None)
    path = _inside(value, fields)
    if known is not None:
        return known[0] + (f": the record is inside {path}" if path else "") + f"; {known[1]}"
    return f"the record is inside {path}; send that object alone" if path else None


def other_name(field: str, document: Any, known: Collection[str]) -> str:
    """Under which name ``document`` may hold what it should hold as ``field``."""
    others = [str(key) for key in list(document)[:_KEYS] if key not in known] if isinstance(document, Mapping) else []
    bare = {key.lower().replace("_", "").replace("-", ""): key for key in reversed(others)}
    like = near(field, others) or tuple(bare[word] for word in _SYNONYMS.get(field, "").split() if word in bare)
    return f"; rename {name_of(like[0])!r}, if that is it" if like else ""


def _wide(raw: bytes) -> str | None:
    if raw[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "UTF-32"
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or (raw[:1] != b"\0" and raw[1:4:2] == b"\0\0"):
        return "UTF-16"
    return "UTF-16" if raw[:1] == b"\0" and raw[1:2] in b'{["' and raw[2:3] == b"\0" else None


def _latin(raw: bytes, start: int) -> str | None:
    """A text in Windows-1252, whose bytes above 0x7f are letters among ASCII."""
    if raw.lstrip()[:1] != b"{" or any(byte < 32 and byte not in b"\t\r\n" for byte in raw[:_HEAD]):
        return None
    letter = raw[start : start + 1].decode("cp1252", "replace")
    return f"byte 0x{raw[start]:02x} at position {start}, which is {letter!r} in Latin-1 or Windows-1252; write UTF-8"


def _recognise_text(text: str) -> str | None:
    head = text[:_HEAD]
    first, _, rest = text.partition("\n")
    if first.lstrip().startswith("{") and rest.lstrip().startswith("{"):
        return "several JSON objects in one record (NDJSON); send each as a record of its own"
    if head.startswith("{") and re.search(r",\s*[}\]]", head):
        return "a comma before a closing bracket; leave it out"
    for pattern, what, remedy in _TEXT:
        if re.match(pattern, head):
            return f"{what}; {remedy}"
    return None


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
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
