"""Server-sent events as the feed writes them: lines in, events out."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from weir.streams.client.answers import FeedEvent
from weir.streams.errors import UsageError


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
