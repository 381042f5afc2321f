"""Requests and answers of the service without the sending, which a synchronous and an asynchronous client share.

Also what the service answers, as types, and the events of the feed: lines in, records out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from weir.online.errors import UNREADABLE
from weir.streams.errors import ShellError, UsageError
from weir.streams.service.intake.record_results import IntakeAnswer

T = TypeVar("T")
Verdict = Literal["confirmed", "false_alarm", "unsure"]
Records = bytes | Iterable[Mapping[str, Any]]
"""NDJSON, or records that become NDJSON."""

RETRIED: Final = frozenset({429, 503})
"""Answers that say: the same again, later. Records are known by their ids, so that none counts twice."""
RESUMED: Final = RETRIED | {502, 504}
"""Answers after which a feed that had begun goes on: a proxy gives the others while the service starts again."""
_LONGEST_WAIT_S: Final = 30.0


class ServiceError(ShellError):
    """The service refused a request; its words say how to correct it.

    Parameters
    ----------
    problem : the problem document; ``status``, ``title``, ``detail`` and what else it says.
    """

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{problem.get('title', 'refused')} ({problem.get('status')}): {problem.get('detail', '')}")
        self.problem = dict(problem)
        self.status = int(problem.get("status", 0))


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and the type of its answer."""

    method: str
    path: str
    answer: type[T]
    params: dict[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    content_type: str = "application/json"

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """For ``client`` to send."""
        headers = {} if self.content is None else {"Content-Type": self.content_type}
        params = {name: value for name, value in self.params.items() if value is not None}
        known = params or None  # httpx puts even an empty table in the place of the query that the path has
        return client.build_request(self.method, self.path, params=known, content=self.content, headers=headers)

    def read(self, response: httpx.Response) -> T:
        """The answer; raises ``ServiceError``."""
        error = None if response.is_success else refusal(response)
        # That every record was refused is told as a problem, with the same members.
        if error is not None and not (self.answer is IntakeAnswer and "results" in error.problem):
            raise error
        return msgspec.json.decode(response.content, type=self.answer)


def refusal(response: httpx.Response) -> ServiceError:
    """What a response that is no success says."""
    try:
        problem = msgspec.json.decode(response.content, type=dict[str, Any])
    except UNREADABLE:  # of a proxy, say
        problem = {"title": response.reason_phrase, "detail": response.text[:200]}
    return ServiceError({**problem, "status": response.status_code})


def wait_s(response: httpx.Response) -> float:
    """How long to wait before the same again."""
    said = response.headers.get("retry-after", "")
    return min(float(said) if said.isdecimal() else 1.0, _LONGEST_WAIT_S)


def options(url: str | None, key: str | None, timeout_s: float) -> dict[str, Any]:
    """Arguments of httpx's clients; ``WEIR_URL`` and ``WEIR_KEY`` stand in for what is not given."""
    key = key or os.environ.get("WEIR_KEY")
    return {
        "base_url": url or os.environ.get("WEIR_URL") or "http://127.0.0.1:8080",
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": timeout_s,
    }


def send(path: str, records: Records) -> Call[IntakeAnswer]:
    """Append records."""
    return Call("POST", path, IntakeAnswer, content=_ndjson(records), content_type="application/x-ndjson")


def decide(events: Records, deadline_ms: int | None) -> Call[dict[str, Any]]:
    """Append events, and wait for what is decided of them."""
    body, params = _ndjson(events), {"deadline_ms": deadline_ms}
    return Call("POST", "/v1/decisions", dict[str, Any], params, body, "application/x-ndjson")


def get(path: str, **params: Any) -> Call[dict[str, Any]]:
    """Look something up."""
    return Call("GET", path, dict[str, Any], params)


def post(path: str, document: Mapping[str, Any]) -> Call[dict[str, Any]]:
    """Do something."""
    return Call("POST", path, dict[str, Any], content=msgspec.json.encode(document))


def verdict(alert_id: str, verdict: Verdict, reason: str, note: str) -> Call[dict[str, Any]]:
    """Judge an alert."""
    said = {"verdict": verdict, "reason": reason, "note": note}
    return post(alert_path(alert_id, "verdict"), {name: text for name, text in said.items() if text})


def alerts(cursor: str | None, **filters: Any) -> Call[AlertPage]:
    """A page of alerts."""
    return Call("GET", "/v1/alerts", AlertPage, {"cursor": cursor, **filters})


def alert_path(alert_id: str, *rest: str) -> str:
    """Where an alert is: its id may hold any character."""
    return "/".join(["/v1/alerts", quote(alert_id, safe=""), *rest])


def _ndjson(records: Records) -> bytes:
    return records if isinstance(records, bytes) else b"\n".join(map(msgspec.json.encode, records))


class FeedEvent(msgspec.Struct):
    """One record of the live feed."""

    type: str
    """``prediction``, ``alert``, ``drift``, ``retrain``, ``model-update``, ``dead-letter`` or ``case-event``."""
    topic: str
    partition: int
    offset: int
    ts: float
    """When it was written, epoch seconds."""
    record: dict[str, Any] = {}
    """As docs/WIRE.md has it."""
    id: str = ""
    """Where to resume: the feed from there begins with the next record."""


class AlertPage(msgspec.Struct):
    """Some alerts, in the order that was asked for."""

    alerts: list[dict[str, Any]]
    next: str | None = None
    """Cursor of the next page; ``None`` at the end."""


class ServerEvent(NamedTuple):
    """One event of the stream."""

    name: str
    data: str


class EventLines:
    """Puts events together from lines (WHATWG HTML, 9.2.6), and knows where to resume.

    An id counts once its event is whole: a connection may break between the two.
    """

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id, self.retry_s = last_id, 1.0
        self.begin()

    def begin(self) -> None:
        """A new connection: what was left of the old one's last event is none."""
        self._id, self._name, self._data = self.last_id, "", list[str]()

    def take(self, line: str) -> ServerEvent | None:
        """The event that this line ends; ``None`` within one, and for comments.

        >>> lines = EventLines()
        >>> [lines.take(line) for line in ("id: 7", "event: alert", "data: {}")], lines.take(""), lines.last_id
        ([None, None, None], ServerEvent(name='alert', data='{}'), '7')
        """
        if not line:
            made = ServerEvent(self._name or "message", "\n".join(self._data)) if self._data else None
            self.last_id = self._id
            self._name, self._data = "", []
            return made
        field, _, value = line.partition(":")
        # One blank alone, as a second one is part of the value (WHATWG HTML, 9.2.6).
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        # An id with this character is passed over, says the same place.
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isdecimal():
            self.retry_s = int(value) / 1000
        return None

    def record(self, event: ServerEvent) -> FeedEvent | None:
        """The record of an event; ``None`` where the stream only says that it goes on elsewhere.

        Raises ``UsageError`` where it cannot go on: the key has expired.
        """
        if event.name in ("drain", "resync"):
            return None
        if event.name == "expired":
            raise UsageError("the feed has ended: the key has expired; make a new one with weir keys create")
        found = msgspec.json.decode(event.data, type=FeedEvent)
        found.id = self.last_id or ""
        return found
