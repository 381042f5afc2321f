"""The answer to a request for the feed: first what was missed, then what is new, until one side ends it.

A writer of its own: a task group and two streams in memory for each client, as frameworks have it, are too much for
thousands of them. It counts on ``send`` to wait while the transport's buffer is full (64 KiB in uvicorn).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from weir.streams.errors import WeirError
from weir.streams.service.feed.fan_out import FanOut
from weir.streams.service.feed.feed_client import FeedClient, heartbeat
from weir.streams.service.feed.feed_item import FeedItem
from weir.streams.service.feed.place import Place

HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Nobody on the way may keep the feed, or hold it back until a buffer is full."""
_CLOSE: Final = {"Connection": "close"}
"""A browser comes back by a new connection then: to another process where this one ends. One that is kept alive would
be answered here by an error, after which a browser gives up."""
_PIECE: Final = 1 << 16
"""Bytes written at once: with a full buffer before it, so much of a stalled client stays in the transport."""

_Put = Callable[[bytes], Awaitable[None]]


class EventStream(Response):
    """Server-sent events for one client.

    Parameters
    ----------
    fan_out : where new records come from.
    client : who asks.
    place : where it begins; moves on with what is sent.
    heartbeat_s : seconds without news after which a heartbeat goes out.
    """

    media_type = "text/event-stream"

    def __init__(self, fan_out: FanOut, client: FeedClient, place: Place, heartbeat_s: float) -> None:
        self._fan_out, self._client, self._place, self._heartbeat_s = fan_out, client, place, heartbeat_s
        # Not by ``Response.__init__``, which renders a body and tells its length.
        self.status_code, self.background = 200, None
        self.init_headers({**HEADERS, **_CLOSE})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write until the client hangs up or its feed is ended."""
        del scope
        client = self._client

        async def put(payload: bytes) -> None:
            for start in range(0, len(payload), _PIECE):
                piece = payload[start : start + _PIECE]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            client.sent_at = time.monotonic()

        self._fan_out.clients.add(client)
        # Only ``receive`` tells that a client is gone: uvicorn drops what is sent to it, and says nothing.
        hung_up = asyncio.create_task(_hung_up(receive))
        hung_up.add_done_callback(lambda _: client.leave())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            # The place at once: who is cut off before the first event comes back to here, and not to what is new then.
            await put(b"retry: %d\nid: %b\n\n" % (client.retry_ms, client.taken.encode()))
            await self._catch_up(put)
            await self._follow(put)
            if not client.gone:
                await send({"type": "http.response.body", "body": client.last, "more_body": False})
        finally:
            hung_up.cancel()
            self._fan_out.remove(client)

    async def _catch_up(self, put: _Put) -> None:
        """Send what was missed, as fast as the client reads, until it can join the others."""
        client, place = self._client, self._place
        try:
            while not client.ended():
                async for found in self._fan_out.replay.items(client.wanted, place):
                    await self._show(found, put)
                    if client.ended():
                        return
                if self._fan_out.join(client, place):
                    return
                await self._fan_out.next_flush()
                await self._show([], put)
        except WeirError as error:  # such as NoLongerKept: the status line is out, so the feed itself has to say it
            client.end("resync", str(error))

    async def _show(self, found: Sequence[FeedItem], put: _Put) -> None:
        """Send what was found before the present place; without any, that place now and then."""
        client, now = self._client, self._place.text()
        if not found and time.monotonic() - client.sent_at < self._heartbeat_s:
            return
        payload = frames(found, Place.parse(client.taken, self._place.epoch)) if found else heartbeat(now)
        client.taken = now  # before it is sent, which may take long: an end that is decided meanwhile comes after it
        await put(payload)

    async def _follow(self, put: _Put) -> None:
        """Send what is new, until the end of the feed is decided."""
        client = self._client
        while not client.gone:
            if payload := client.take():
                await put(payload)
            elif client.last is not None:
                return
            else:
                await client.news.wait()


def frames(found: Sequence[FeedItem], shown: Place) -> bytes:
    """Events of a client that is not at the newest record: their ids are its own, from the place ``shown`` on."""
    made, shard = [], None
    before = after = b""
    for item in found:
        shown[item.shard] = item.offset + 1
        if item.shard != shard:
            shard = item.shard
            # Made once for a run of one partition, as the offsets of the others stand still meanwhile.
            before, after = shown.around(shard)
        made.append(item.frame(before, after))
    return b"".join(made)


async def _hung_up(receive: Receive) -> None:
    """Wait until the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
