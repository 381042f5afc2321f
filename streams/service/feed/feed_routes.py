"""The routes of the feed: ``GET /v1/feed`` for those who follow, ``GET /v1/feed.ndjson`` for scripts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from fastapi import Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from weir.online.codec.wire import parse_time
from weir.online.decisions.alert_state import Severity
from weir.online.durations import parse_duration
from weir.streams.errors import WeirError
from weir.streams.service.access.scopes import Caller, needs
from weir.streams.service.feed.fan_out import FanOut
from weir.streams.service.feed.feed_client import FeedClient, heartbeat
from weir.streams.service.feed.feed_item import KINDS, FeedFilter, FeedItem, Kind
from weir.streams.service.feed.place import LETTERS, Place, Shard
from weir.streams.service.parts import OverloadError, Part, Problem, View

if TYPE_CHECKING:
    from weir.streams.service.service import Service

_log = logging.getLogger(__name__)
_DRAIN_S: Final = 2.0
_NOT_ASKED: Final = "prediction"
"""A flood: only who asks for it by name gets it."""


class FeedQuery(BaseModel):
    """What a client asks for."""

    # A filter with a slip in its name must not open the feed of everything; ``needs`` leaves that to a model.
    model_config = ConfigDict(extra="forbid")

    type: list[Kind] = Field(
        default=[kind for kind in KINDS if kind != _NOT_ASKED],
        description="Types of events, repeatable; all but predictions where none is given.",
    )
    task: list[str] = Field(default=[], description="Only records of these tasks, repeatable.")
    entity: list[str] = Field(default=[], description="Only records of these entities, repeatable.")
    min_score: float | None = Field(
        default=None, ge=0, le=1, description="Least score; records that have none pass.", examples=[0.8]
    )
    severity: Severity | None = Field(default=None, description="Least severity; records that have none pass.")
    since: str | None = Field(
        default=None,
        description="Begin with records of this time on: RFC 3339, epoch seconds, or a duration before now (`15m`, "
        "`2h`). A time before what is kept begins with the oldest record.",
        examples=["15m"],
    )
    last_event_id: str | None = Field(
        default=None, description="Begin after this event; the header `Last-Event-ID` counts where both are given."
    )


class OnceQuery(FeedQuery):
    """What a script asks for."""

    once: Literal["1", "true"] = Field(description="The answer ends with the newest record.")


_LINE: Final = '{"type":"alert","topic":"alerts","partition":0,"offset":41,"ts":1700000000.0,"record":{"v":1,...}}'
_LINES: Final = f'{_LINE}\n{{"next":"309a4dae.a42"}}\n'
_EXAMPLE: Final = f"event: alert\nid: 309a4dae.a42\ndata: {_LINE}\n\n"
_RECORD: Final = (
    "`data` is one JSON object: `type`, then `topic`, `partition` and `offset` (where the record is in the log), `ts` "
    "(when it came, epoch seconds) and `record` (as it is there; `raw` in base64 where it is no JSON)."
)


class Feed(View, Part):
    """The live event feed."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, "feed")
        self._settings = service.settings.serve.feed
        self.fan_out = FanOut(service.log, self._settings, service.metrics)
        self._ends: list[Callable[[], object]] = []
        self._closed = "the feed is not open yet"
        self._routes()

    def _routes(self) -> None:
        add = self.router.add_api_route
        events, lines = _responses("text/event-stream", _EXAMPLE), _responses("application/x-ndjson", _LINES)
        add("/feed", self.follow, methods=["GET"], response_class=Response, responses=events)
        add("/feed.ndjson", self.once, methods=["GET"], response_class=Response, responses=lines)

    async def start(self) -> None:
        """Listen to the log."""
        self._ends.append(self._service.log.subscribe(list(LETTERS), self.fan_out.arrived))
        self._closed = ""
        for forever in (self.fan_out.run(), self.fan_out.tick(), self.fan_out.watch()):
            task = asyncio.create_task(forever)
            task.add_done_callback(self._broken)
            self._ends.append(task.cancel)

    async def stop(self) -> None:
        """Tell everyone to go on elsewhere, and end; a second time does nothing."""
        self._closed = self._closed or "this process ends"
        await self.fan_out.drain(_DRAIN_S)
        while self._ends:
            self._ends.pop()()

    def _broken(self, task: asyncio.Task[None]) -> None:
        """Nobody waits in vain where the feed has failed: it ends for all, and says so."""
        if not task.cancelled() and (error := task.exception()):
            _log.error("the feed has failed", exc_info=error)
            self._closed = "the feed has failed; the log of this process says why"
            self.fan_out.end_all("resync", self._closed)
            self._service.fail(f"the feed has failed: {error!r}")

    async def follow(
        self,
        request: Request,
        query: Annotated[FeedQuery, Query()],
        caller: Annotated[Caller, needs("feed:read")],
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Follow what happens, as server-sent events.

        Each event has an `id` from which a client resumes without gap or repeat: by `Last-Event-ID`, as browsers do by
        themselves, or by `?last_event_id=`. Without a place the feed begins now. Besides the types of records there
        are the events `resync` (you read too slowly), `drain` (the process ends) and `expired` (sign in again): the
        feed ends after them, and its `id` is where to go on. A comment comes where nothing else does.
        """
        wanted, place = await self._begin(query, caller, last_event_id)
        access, most = self._service.access, self._settings.client_bytes
        client = FeedClient(wanted, most, place.text(), caller.expires_at, lambda: access.identify(request))
        return EventStream(self.fan_out, client, place, self._settings.heartbeat_s)

    async def once(
        self,
        query: Annotated[OnceQuery, Query()],
        caller: Annotated[Caller, needs("feed:read")],
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Read what has happened up to now, a JSON object a line, for scripts.

        Begins at the place or at `since`; without either there is nothing before now. The last line is
        `{"next": ID}`, where a later call goes on. An answer without that line is not whole.
        """
        wanted, place = await self._begin(query, caller, last_event_id)
        return StreamingResponse(self._lines(wanted, place), headers=HEADERS, media_type="application/x-ndjson")

    async def _lines(self, wanted: FeedFilter, place: Place) -> AsyncIterator[bytes]:
        try:
            # Up to what is here now: on a busy log there would always be one more.
            async for found in self.fan_out.replay.items(wanted, place, until=self.fan_out.ring.seq):
                yield b"".join(b"%b\n" % item.data for item in found)
        except WeirError as error:  # the status line is out
            yield msgspec.json.encode({"error": str(error), "next": None}) + b"\n"
        else:
            yield msgspec.json.encode({"next": place.text()}) + b"\n"

    async def _begin(self, query: FeedQuery, caller: Caller, header: str | None) -> tuple[FeedFilter, Place]:
        """What the client gets, and from where; raises a ``Problem`` where it cannot."""
        if self._closed:
            raise OverloadError(f"no feed: {self._closed}")
        if len(self.fan_out.clients) >= self._settings.clients:
            raise OverloadError(f"{self._settings.clients} clients follow already; raise [serve.feed] clients", 5)
        await self.fan_out.locate()
        wanted = self._wanted(query, caller)
        if text := header or query.last_event_id:
            place = Place.parse(text, self._service.log.epoch)
            await self.fan_out.replay.check(wanted, place)
            return wanted, place
        # A copy, as the end of the ring moves on with the next flush.
        place = self.fan_out.ring.end.copy()
        if query.since is not None:
            ts = time_said(query.since, time.time())
            for topic in wanted.topics:
                for partition, offset in (await self._service.log.offsets_at(topic, ts)).items():
                    place[Shard(topic, partition)] = offset
        return wanted, place

    def _wanted(self, query: FeedQuery, caller: Caller) -> FeedFilter:
        known, allowed = {task.name for task in self._service.tasks}, caller.tasks
        visible = known if allowed is None else known & allowed
        if unknown := sorted(set(query.task) - visible):
            raise Problem(422, "Unknown task", f"no task {unknown[0]!r}; there are {sorted(visible)}", value=unknown[0])
        kinds = set(query.type)
        if "deadletters:read" not in caller.scopes:
            # A dead letter holds what somebody sent, whatever it was.
            if "dead-letter" in kinds and "type" in query.model_fields_set:
                raise Problem(403, "Not allowed", "type=dead-letter needs the scope deadletters:read")
            kinds.discard("dead-letter")
        return FeedFilter(
            frozenset(kinds),
            frozenset(query.task) or allowed,
            frozenset(query.entity) or None,
            query.min_score,
            query.severity,
        )


def _responses(media_type: str, example: str) -> dict[int | str, dict[str, Any]]:
    lost = "Records after the place are lost; `links` has where to begin again (problem+json)."
    return {200: {"description": _RECORD, "content": {media_type: {"example": example}}}, 410: {"description": lost}}


def time_said(text: str, now: float, name: str = "since") -> float:
    """Epoch seconds of a time in a query; raises ``Problem`` (422), which names the parameter.

    >>> time_said("2024-03-01T12:00:00Z", 0.0), time_said("15m", 1000.0), time_said("1.7e9", 0.0)
    (1709294400.0, 100.0, 1700000000.0)
    """
    # A bare number first: it is epoch seconds, and no duration without a unit.
    for read in (float, lambda text: now - parse_duration(text), parse_time):
        try:
            ts = read(text)
        except ValueError:
            continue
        # 1e11 s is in the year 5138. Milliseconds are beyond it, and would be a future that never comes.
        if isinstance(ts, float) and abs(ts) < 1e11:
            return ts
    fix = "give RFC 3339 with an offset, epoch seconds, or a duration before now such as 15m"
    raise Problem(422, "No time", f"{name}={text[:80]!r} is no time; {fix}", value=text[:80])


HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Nobody on the way may keep the feed, or hold it back until a buffer is full."""
_CLOSE: Final = {"Connection": "close"}
"""A browser comes back by a new connection then: to another process where this one ends. One that is kept alive would
be answered here by an error, after which a browser gives up."""
_PIECE: Final = 1 << 16
"""Bytes written at once: with a full buffer before it, so much of a stalled client stays in the transport."""

_Put = Callable[[bytes], Awaitable[None]]


class EventStream(Response):
    """Server-sent events for one client: first what was missed, then what is new, until one side ends it.

    A writer of its own: a task group and two streams in memory for each client, as frameworks have it, are too much for
    thousands of them. It counts on ``send`` to wait while the transport's buffer is full (64 KiB in uvicorn).

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
