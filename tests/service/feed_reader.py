"""A client of the feed in this process: speaks ASGI, reads events as a browser's EventSource does, and may stall."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from fastapi import FastAPI
from starlette.types import Message


class Event(NamedTuple):
    """One event that a listener of the page would be given."""

    type: str
    id: str
    data: Any


class EventSource:
    """The parser of HTML's standard (9.2.6): an id stays until another one comes, a block without data is no event."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.first_id = self.last_id = ""
        self.retry_ms: int | None = None
        self.comments = 0
        self._rest = b""
        self._fields: dict[str, str] = {}

    @property
    def records(self) -> list[dict[str, Any]]:
        """Data of events that are records."""
        return [event.data for event in self.events if "topic" in event.data]

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._line(line.decode())

    def _line(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            self._dispatch()
        elif line.startswith(":"):
            self.comments += 1
        elif name == "retry":
            self.retry_ms = int(value)
        elif name == "data":
            assert "data" not in self._fields, "data of one line"
            self._fields["data"] = value
        else:
            assert name in ("id", "event"), line
            self._fields[name] = value

    def _dispatch(self) -> None:
        fields, self._fields = self._fields, {}
        self.last_id = fields.get("id", self.last_id)
        self.first_id = self.first_id or self.last_id
        if "data" in fields:
            self.events.append(Event(fields.get("event", "message"), self.last_id, json.loads(fields["data"])))


class FeedReader(EventSource):
    """One connection; ``stalled`` keeps ``send`` waiting, as a full buffer of the transport does."""

    def __init__(self, app: FastAPI, path: str = "/v1/feed", last_event_id: str | None = None) -> None:
        super().__init__()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._may_send, self._hung_up = asyncio.Event(), asyncio.Event()
        self._may_send.set()
        self._asked = False
        where, _, query = path.partition("?")
        headers = [] if last_event_id is None else [(b"last-event-id", last_event_id.encode())]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": where,
            "raw_path": quote(where).encode(), "query_string": query.encode(), "headers": headers, "scheme": "http",
            "server": ("127.0.0.1", 8080), "client": ("127.0.0.1", 1), "root_path": "",
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._may_send.wait()
        if self._hung_up.is_set():
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        self.body += message["body"]
        if self.headers["content-type"].startswith("text/event-stream"):
            self.feed(message["body"])

    def stall(self) -> None:
        self._may_send.clear()

    def go_on(self) -> None:
        self._may_send.set()

    async def hang_up(self) -> None:
        self._hung_up.set()
        self._may_send.set()
        await self.task


async def turns(until: Callable[[], bool] = lambda: False, most: int = 60) -> None:
    """Let the loop go on until something holds, or for some turns."""
    for _ in range(most):
        if until():
            return
        await asyncio.sleep(0)
