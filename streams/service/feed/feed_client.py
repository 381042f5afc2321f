"""One client of the live feed: what waits for it, within a bound, and how its feed ends."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from weir.streams.service.feed.feed_item import FeedFilter

End = Literal["resync", "drain", "expired"]
_REASONS: Final[dict[End, str]] = {
    "resync": "you read too slowly, and what waited for you was dropped; resume from the id of this event",
    "drain": "this process ends; connect again and resume from the id of this event",
    "expired": "what you proved who you are with has expired; sign in again",
}
_RETRY_MS: Final = (1_000, 5_000)
"""Between these a client waits before it connects again: each another time, so that not all come at once."""


class FeedClient:
    """What waits for a client.

    Parameters
    ----------
    wanted : what it gets.
    max_bytes : what may wait.
    taken : the place (an id) before which it has been given everything.
    expires_at : when it may no longer read, epoch seconds.
    still_known : raises ``Problem`` once it may no longer read for another reason, such as a key that was revoked.
    """

    def __init__(
        self,
        wanted: FeedFilter,
        max_bytes: int,
        taken: str,
        expires_at: float | None,
        still_known: Callable[[], Awaitable[object]],
    ) -> None:
        self.wanted, self._max_bytes, self.taken, self.expires_at = wanted, max_bytes, taken, expires_at
        self.still_known = still_known
        self.retry_ms = random.randint(*_RETRY_MS)
        self.news = asyncio.Event()
        self.last: bytes | None = None
        """The event that ends the feed, once that is decided, and why it does."""
        self.why: End | None = None
        self.gone = False
        """Whether it has hung up."""
        self.sent_at = time.monotonic()
        """When something was written to it last."""
        self._waiting: deque[tuple[bytes, str]] = deque()
        self._bytes = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits for it."""
        return not self._waiting

    def offer(self, payload: bytes, place: str) -> None:
        """Add events that lead to ``place``; where too much waits already, the feed ends with ``resync``."""
        # Dropped, not kept: memory is bounded by clients, and what is dropped the log still has.
        if self._bytes + len(payload) > self._max_bytes:
            self.end("resync")
        elif self.last is None:
            self._waiting.append((payload, place))
            self._bytes += len(payload)

    def take(self) -> bytes:
        """Everything that waits; empty where nothing does."""
        self.news.clear()
        if not self._waiting:
            return b""
        payload = b"".join(part for part, _ in self._waiting)
        # Before it is written, which may take long: an end that is decided meanwhile names the place after it.
        self.taken = self._waiting[-1][1]
        self._waiting.clear()
        self._bytes = 0
        return payload

    def end(self, why: End, detail: str = "") -> None:
        """End the feed: what waits is dropped, and the last event says so, with the id from which it can be had."""
        # The first reason stays: its event names the place from which what was dropped can be had.
        if self.last is None:
            self.why = why
            data = msgspec.json.encode({"reason": detail or _REASONS[why], "next": self.taken})
            self.last = b"event: %b\nid: %b\nretry: %d\ndata: %b\n\n" % (
                why.encode(), self.taken.encode(), self.retry_ms, data,
            )  # fmt: skip
            self._waiting.clear()
            self._bytes = 0
            self.news.set()

    def ended(self) -> bool:
        """Whether nothing more is to be sent than ``last``, or nothing at all."""
        return self.gone or self.last is not None

    def leave(self) -> None:
        """It has hung up."""
        self.gone = True
        self.news.set()


def heartbeat(place: str) -> bytes:
    """Shows that the feed lives. It has no data, so that nobody sees an event, yet the client's id moves on."""
    return b": \nid: %b\n\n" % place.encode()
