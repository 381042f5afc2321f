"""One record of a topic as one line for a person, or as JSON; and whether it is one that was asked for. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.text import printable

KEY_FIELD: Final[Mapping[str, str]] = {
    topics.USER_EVENTS: "user_id",
    topics.DEVICE_EVENTS: "device_id",
    topics.LABELS: "entity_id",
    topics.PREDICTIONS: "entity_id",
    topics.ALERTS: "entity_id",
    topics.DECISIONS: "task",
    topics.EXAMPLES: "task",
    topics.RETRAIN_REQUESTS: "task",
    topics.MODEL_UPDATES: "task",
    topics.CASE_EVENTS: "alert_id",
    topics.AUDIT: "writer",
}
"""The field that is a record's key: the entity (or task) that owns the partition."""
_FIRST: Final[Mapping[str, tuple[str, ...]]] = {
    topics.USER_EVENTS: ("type", "amount"),
    topics.DEVICE_EVENTS: ("status", "metrics"),
    topics.LABELS: ("task", "value"),
    topics.PREDICTIONS: ("task", "score", "model_version"),
    topics.ALERTS: ("task", "status", "severity", "score"),
    topics.EXAMPLES: ("value", "score", "weight"),
    topics.RETRAIN_REQUESTS: ("cause", "text"),
    topics.MODEL_UPDATES: ("action", "version"),
    topics.CASE_EVENTS: ("action", "verdict", "by"),
    topics.AUDIT: ("action", "who", "object", "outcome"),
    topics.NOTIFICATIONS: ("kind", "topic", "partition", "start", "end", "ids", "answer"),
    topics.DEAD_LETTERS: ("topic", "partition", "offset", "reason"),
}
_BARE: Final = frozenset({"type", "task", "status", "severity", "cause", "action", "reason", "text"})
"""Fields whose value speaks for itself."""
_COUNTED: Final = frozenset({"features", "reasons", "event_ids"})
_HIDDEN: Final = frozenset({"v", "ts", "raw", "key"})
_DEEPEST: Final = 16
"""Levels of objects that are shown as dotted names; what is below is JSON."""
TEXT_CHARS: Final = 160
LINE_CHARS: Final = 2_000


def parse(value: bytes | None) -> Any:
    """What a record holds, JSON or a block of ``entity-updates`` or ``decisions``; ``None`` for what is neither."""
    try:
        return orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        from weir.online.codec.decision_blocks import decisions_as_json  # heavy, and help needs none of them
        from weir.online.codec.row_updates import block_as_json

        return block_as_json(value) or decisions_as_json(value)


def key_of(topic: str, document: Any) -> bytes | None:
    """The key that a record of ``topic`` should have; ``None`` where it does not say.

    >>> key_of("user-events", {"user_id": "u1"}), key_of("user-events", {"user_id": 3})
    (b'u1', None)
    """
    name = document.get(KEY_FIELD.get(topic, "")) if isinstance(document, dict) else None
    return name.encode() if isinstance(name, str) and name else None


def line(topic: str, value: bytes | None) -> str:
    r"""One line that says what a record holds, the most telling fields first.

    >>> line("user-events", b'{"v":1,"event_id":"e1","type":"view","user_id":"u1","ts":1.0,"properties":{"page":"a"}}')
    'view  event_id=e1 properties.page=a'
    >>> line("user-events", b"{broken\x1b[2J")
    'not JSON: {broken\\x1b[2J'
    """
    if value is None:
        return "deleted (no value)"
    document = parse(value)
    if not isinstance(document, dict):
        return (
            f"not JSON: {printable(value, TEXT_CHARS)}"
            if document is None
            else f"no object: {printable(value, TEXT_CHARS)}"
        )
    first = [name for name in _FIRST.get(topic, ()) if document.get(name) is not None]
    hidden = {*first, *_HIDDEN, KEY_FIELD.get(topic, "")}
    rest = [name for name in document if name not in hidden and document[name] is not None]
    parts = [" ".join(_shown(name, document[name]) for name in names) for names in (first, rest)]
    return printable("  ".join(part for part in parts if part), LINE_CHARS)


def _shown(name: str, value: Any, depth: int = 0) -> str:
    if name in _COUNTED and isinstance(value, dict | list):
        return f"{name}={_count(name, value)}"
    if isinstance(value, dict) and depth < _DEEPEST:
        return " ".join(_shown(f"{name}.{key}", held, depth + 1) for key, held in value.items()) or f"{name}={{}}"
    text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else _json(value)
    return printable(text, TEXT_CHARS) if name in _BARE else f"{name}={printable(text, TEXT_CHARS)}"


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # orjson reads 1,024 levels, and writes 254
        return "too deep to be shown"


def _count(name: str, value: dict[str, Any] | list[Any]) -> str:
    head = value[0] if name == "reasons" and isinstance(value, list) and value else None
    first = head.get("text") if isinstance(head, dict) else None
    return f"[{printable(first, TEXT_CHARS)}, ...]" if isinstance(first, str) else f"<{len(value)}>"


def as_json(topic: str, partition: int, offset: int, ts: float, key: bytes | None, value: bytes | None) -> bytes:
    """A record as one line of JSON; a value or key that is none becomes ``{"base64": ...}``."""
    document = parse(value)
    held: Any = _opaque(value) if document is None else document
    if document is not None and value and value[0] < 0x80:  # JSON: its numbers stay as they were written
        held = orjson.Fragment(value)
    record = {"topic": topic, "partition": partition, "offset": offset, "ts": ts, "key": _text(key), "value": held}
    return orjson.dumps(record)


def _opaque(value: bytes | None) -> Any:
    return None if value is None else {"base64": base64.b64encode(value).decode()}


def _text(key: bytes | None) -> Any:
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return _opaque(key)


@dataclass(frozen=True, slots=True)
class Match:
    """Records whose field (by dotted path, or ``key``) has a value.

    >>> Match.parse("properties.page=home").accepts(b"k", {"properties": {"page": "home"}})
    True
    >>> Match.parse("key=u1").accepts(b"u2", {})
    False
    """

    path: str
    wanted: str

    @classmethod
    def parse(cls, text: str) -> Match:
        """Read ``FIELD=VALUE``; raises ``UsageError`` for anything else."""
        path, equals, wanted = text.partition("=")
        if not equals or not path.strip():
            raise UsageError(f"--filter {text!r}: give FIELD=VALUE, such as user_id=u17 or key=u17")
        return cls(path.strip(), wanted)

    def accepts(self, key: bytes | None, document: Any) -> bool:
        """Whether a record is one of those."""
        if self.path == "key":
            return key is not None and key == self.wanted.encode()
        return any(_equal(found, self.wanted) for found in _lookup(document, self.path))


def filters(texts: Sequence[str]) -> Callable[[bytes | None, Any], bool]:
    """One verdict of several filters: all must accept."""
    matches = [Match.parse(text) for text in texts]
    return lambda key, document: all(match.accepts(key, document) for match in matches)


def _lookup(document: Any, path: str) -> Iterator[Any]:
    """Every value at a dotted path; names may hold dots themselves, as features' do."""
    if isinstance(document, list):
        for item in document:
            yield from _lookup(item, path)
    if not isinstance(document, dict):
        return
    if path in document:
        found = document[path]
        yield from found if isinstance(found, list) else [found]
    for at in (m.start() for m in re.finditer(r"\.", path)):
        if path[:at] in document:
            yield from _lookup(document[path[:at]], path[at + 1 :])


def _equal(found: Any, wanted: str) -> bool:
    if isinstance(found, str):
        return found == wanted
    if found is None or isinstance(found, bool):
        return wanted == {None: "null", True: "true", False: "false"}[found]
    try:
        return bool(float(wanted) == found)
    except ValueError:
        return False
