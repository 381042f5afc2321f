"""Records as the feed sends them: each is encoded once, and decoded only where a filter or its type asks for that."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, get_args

import msgspec

from weir.online.decisions.alert_state import SEVERITIES, Severity
from weir.online.errors import UNREADABLE
from weir.streams.config import topics
from weir.streams.records import Record
from weir.streams.service.feed.place import Shard

Kind = Literal["prediction", "alert", "drift", "retrain", "model-update", "dead-letter", "case-event"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
TOPIC_OF: Final[dict[Kind, str]] = {
    "prediction": topics.PREDICTIONS,
    "alert": topics.ALERTS,
    "drift": topics.RETRAIN_REQUESTS,
    "retrain": topics.RETRAIN_REQUESTS,
    "model-update": topics.MODEL_UPDATES,
    "dead-letter": topics.DEAD_LETTERS,
    "case-event": topics.CASE_EVENTS,
}
_LINE_ENDS: Final = "\x85\u2028\u2029"
"""Ends of lines to Python's ``splitlines``, and so to many a client; JSON has another way to write them in a text."""
# Of two kinds in one topic it has the latter: only the record's cause tells drifts from other requests.
_KIND_OF: Final[dict[str, Kind]] = {topic: kind for kind, topic in TOPIC_OF.items()}


class Facts(msgspec.Struct):
    """What filters look at; a record has some of it."""

    task: str | None = None
    entity_id: str | None = None
    score: float | None = None
    severity: str | None = None
    cause: str | None = None


class FeedItem:
    """One record of the feed."""

    __slots__ = ("_data", "_facts", "_kind", "offset", "record", "shard")

    def __init__(self, shard: Shard, offset: int, record: Record) -> None:
        self.shard, self.offset, self.record = shard, offset, record
        self._facts: Facts | None = None
        self._kind: Kind | None = None
        self._data: bytes | None = None

    @property
    def facts(self) -> Facts:
        """What filters look at, decoded once; nothing where the record is not what its topic holds."""
        if self._facts is None:
            try:
                self._facts = msgspec.json.decode(self.record.value, type=Facts)
            except UNREADABLE:
                self._facts = Facts()
        return self._facts

    @property
    def kind(self) -> Kind:
        """The type of its event."""
        if self._kind is None:
            self._kind = _KIND_OF[self.shard.topic]
            if self.shard.topic == topics.RETRAIN_REQUESTS:
                self._kind = "drift" if self.facts.cause == "drift" else "retrain"
        return self._kind

    @property
    def data(self) -> bytes:
        """The record and where it is in the log, as JSON of one line; encoded once."""
        if self._data is None:
            topic, partition = self.shard
            known = {"type": self.kind, "topic": topic, "partition": partition}
            head = msgspec.json.encode({**known, "offset": self.offset, "ts": self.record.ts})
            # The record's own bytes are put in: decoded and encoded again, a number might be written otherwise.
            self._data = b"%b,%b}" % (head[:-1], _member(self.record.value))
        return self._data

    def frame(self, before: bytes, after: bytes) -> bytes:
        """The server-sent event; its id is the next offset between ``before`` and ``after``."""
        kind, following = self.kind.encode(), self.offset + 1
        return b"event: %b\nid: %b%d%b\ndata: %b\n\n" % (kind, before, following, after, self.data)


def _member(value: bytes) -> bytes:
    """``"record":...``; where the bytes are no JSON, ``"raw":...`` in base64, so that no record is left out."""
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
        value.decode()  # msgspec passes over texts without a look at their encoding
    except UNREADABLE:
        return b'"raw":"%b"' % base64.b64encode(value)
    if not value.isascii():
        for character in _LINE_ENDS:
            value = value.replace(character.encode(), b"\\u%04x" % ord(character))
    # A line break would end the event's data early; in JSON it can only be a blank between two tokens.
    return b'"record":' + value.replace(b"\n", b" ").replace(b"\r", b" ")


@dataclass(frozen=True)
class FeedFilter:
    """Conditions that all have to hold.

    Parameters
    ----------
    kinds : types of events.
    tasks, entities : a record without task or entity is of none of them; ``None`` is no condition.
    min_score, severity : at least that; what has no score or severity passes.
    """

    kinds: frozenset[Kind]
    tasks: frozenset[str] | None = None
    entities: frozenset[str] | None = None
    min_score: float | None = None
    severity: Severity | None = None

    @cached_property
    def topics(self) -> frozenset[str]:
        """Where such records are."""
        return frozenset(TOPIC_OF[kind] for kind in self.kinds)

    @cached_property
    def _severities(self) -> tuple[str | None, ...]:
        return (None, *SEVERITIES[SEVERITIES.index(self.severity) if self.severity else 0 :])

    @cached_property
    def _only_kinds(self) -> bool:
        return (self.tasks, self.entities, self.min_score, self.severity) == (None, None, None, None)

    def matches(self, item: FeedItem) -> bool:
        """Whether the client gets it."""
        if item.kind not in self.kinds:
            return False
        # As most clients ask: then no record has to be decoded for them.
        if self._only_kinds:
            return True
        facts = item.facts
        return (
            (self.tasks is None or facts.task in self.tasks)
            and (self.entities is None or facts.entity_id in self.entities)
            and (self.min_score is None or facts.score is None or facts.score >= self.min_score)
            and (self.severity is None or facts.severity in self._severities)
        )
