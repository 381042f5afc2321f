"""CloudEvents 1.0 as records: structured, batched and binary mode of the HTTP binding.

``data`` is the record, and the event's attributes stand in where it lacks a field: id for ``event_id`` (of a label:
``label_id``), time for ``ts``, type for ``type``, and subject for ``user_id``, ``device_id`` or ``entity_id``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import msgspec
from msgspec import Raw

from weir.online.codec.wire import VERSION
from weir.online.errors import UNREADABLE

ONE: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"


class CloudEvent(msgspec.Struct):
    """The attributes that mean something to Weir; others are passed over."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    data: Raw = Raw(b"null")
    data_base64: bytes | None = None


_decoder: Final = msgspec.json.Decoder(CloudEvent)
# Values stay as they were written: decoded and encoded again, a number of many digits would be another one.
_data_decoder: Final = msgspec.json.Decoder(dict[str, Raw])


def structured(value: bytes) -> CloudEvent:
    """An event whose attributes and data are one JSON object; raises ``ValueError``."""
    try:
        return _decoder.decode(value)
    except UNREADABLE as error:
        raise ValueError(f"not a CloudEvent: {error}") from None


def binary(headers: Mapping[str, str], body: bytes) -> CloudEvent:
    """An event whose attributes are ``ce-`` headers and whose data is the body; raises ``ValueError``."""
    # Not data: in this mode the body is that, and no header may stand in its place.
    names = [name for name in CloudEvent.__struct_fields__ if not name.startswith("data")]
    given = {name: unquote(value) for name in names if (value := headers.get(f"ce-{name}"))}
    missing = [f"ce-{name}" for name in ("specversion", "id", "source", "type") if name not in given]
    if missing:
        raise ValueError(f"not a CloudEvent: the header {missing[0]} is missing")
    # In this mode Content-Type has the place of ``ce-datacontenttype`` (HTTP binding, 3.1.1).
    given["datacontenttype"] = headers.get("content-type", "application/json")
    return CloudEvent(**given, data=Raw(body))  # type: ignore[arg-type]  # headers are texts, as these fields are


def record_of(event: CloudEvent, *, label: bool) -> bytes:
    """The record that an event brings; raises ``ValueError`` with the reason of its refusal."""
    if event.specversion != "1.0":
        raise ValueError(f"CloudEvents specversion {event.specversion[:16]!r}; only 1.0 is known")
    media_type = (event.datacontenttype or "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise ValueError(f"CloudEvents datacontenttype {media_type[:64]!r}; send application/json")
    data = event.data_base64 if event.data_base64 is not None else bytes(event.data)
    try:
        document = _data_decoder.decode(data)
    except UNREADABLE as error:
        raise ValueError(f"data of the CloudEvent is no JSON object: {error}") from None
    if label:
        names = {"label_id": event.id, "entity_id": event.subject}
    else:
        sender = "device_id" if "metrics" in document else "user_id"
        names = {"event_id": event.id, "type": event.type, sender: event.subject}
    given = {"v": VERSION, **names, "ts": event.time}
    return msgspec.json.encode({name: value for name, value in given.items() if value is not None} | document)
