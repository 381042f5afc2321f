"""`Client` and `AsyncClient`: the service's routes as methods.

>>> client = Client("http://weir.example:8080", key="weir_...")     # or WEIR_URL and WEIR_KEY
>>> client.close()
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, Self

import httpx

from weir.streams.client import calls
from weir.streams.client.calls import Call, EventLines, FeedEvent, Records, ServiceError, T, Verdict
from weir.streams.service.intake.record_results import IntakeAnswer

_TRIES: Final = 5
_SILENT_S: Final = 60.0
"""A feed that has not even a heartbeat for so long is opened anew."""


class Client:
    """The service, from code that waits.

    Parameters
    ----------
    url : where it is; else ``WEIR_URL``, else this machine.
    key : an API key; else ``WEIR_KEY``.
    timeout_s : how long one answer may take.

    Methods raise ``ServiceError`` where the service refuses, ``httpx.HTTPError`` where it is not reached. What it has
    no room for now (429, 503) is sent again after the time that it asks for, five times in all.
    """

    def __init__(self, url: str | None = None, key: str | None = None, timeout_s: float = 30.0) -> None:
        self._http = httpx.Client(**calls.options(url, key, timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the service is."""
        return str(self._http.base_url)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def _do(self, call: Call[T]) -> T:
        for left in reversed(range(_TRIES)):
            response = self._http.send(call.request(self._http))
            if response.status_code not in calls.RETRIED or not left:
                break
            time.sleep(calls.wait_s(response))
        return call.read(response)

    def send_events(self, records: Records) -> IntakeAnswer:
        """Append events: records, or NDJSON as bytes. What is refused does not hold up the others."""
        return self._do(calls.send("/v1/events", records))

    def send_labels(self, records: Records) -> IntakeAnswer:
        """Append labels, as ``send_events`` does."""
        return self._do(calls.send("/v1/labels", records))

    def decide(self, events: Records, deadline_ms: int | None = None) -> dict[str, Any]:
        """Append 1 to 1,000 events and wait for the decision of each task; ``ServiceError`` 504 where it is late."""
        return self._do(calls.decide(events, deadline_ms))

    def alerts(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """Alerts by the filters of ``GET /v1/alerts``, page after page."""
        page = self._do(calls.alerts(None, **filters))
        yield from page.alerts
        while page.next is not None:
            page = self._do(calls.alerts(page.next, **filters))
            yield from page.alerts

    def alert(self, alert_id: str) -> dict[str, Any]:
        """One alert, with its history."""
        return self._do(calls.get(calls.alert_path(alert_id)))

    def verdict(self, alert_id: str, verdict: Verdict, *, reason: str = "", note: str = "") -> dict[str, Any]:
        """Say whether an alert was right: it resolves, and the model learns."""
        return self._do(calls.verdict(alert_id, verdict, reason, note))

    def undo(self, alert_id: str) -> dict[str, Any]:
        """Take the newest verdict back."""
        return self._do(calls.post(calls.alert_path(alert_id, "undo"), {}))

    def retrain(self, task: str, reason: str = "asked for by a program", *, force: bool = False) -> dict[str, Any]:
        """Ask for a new full model."""
        return self._do(calls.post("/v1/retrain", {"task": task, "reason": reason, "force": force}))

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """Anything else that can be looked up, such as ``/v1/tasks`` or ``/v1/entities/u7``."""
        return self._do(calls.get(path, **params))

    def post(self, path: str, **document: Any) -> dict[str, Any]:
        """Anything else that can be done, such as ``post("/v1/alerts/next", for_s=900)``; ids in a path are quoted."""
        return self._do(calls.post(path, document))

    def feed(self, *, last_id: str | None = None, since: str | None = None, **filters: Any) -> Iterator[FeedEvent]:
        """Follow the live feed for ever; it resumes by itself, without a gap or a repeat.

        Parameters
        ----------
        last_id : ``FeedEvent.id`` after which to go on.
        since : a time, such as ``15m``, where there is no id.
        filters : of ``GET /v1/feed``: type, task, entity, min_score, severity.

        Raises ``ServiceError`` (410) where the log does not hold the next record any more.
        """
        lines = EventLines(last_id)
        while True:
            try:
                with self._http.stream("GET", "/v1/feed", **_resume(lines, since, filters)) as response:
                    if response.status_code not in (calls.RETRIED if lines.last_id is None else calls.RESUMED):
                        if not response.is_success:
                            response.read()
                            raise calls.refusal(response)
                        for line in response.iter_lines():
                            if (event := lines.take(line)) and (found := lines.record(event)):
                                yield found
            except httpx.TransportError as error:
                if _is_final(error, fresh=lines.last_id is None and since is None):
                    raise
            time.sleep(lines.retry_s)


class AsyncClient:
    """The service, from a coroutine: see `Client` for the parameters and what the methods raise."""

    def __init__(self, url: str | None = None, key: str | None = None, timeout_s: float = 30.0) -> None:
        self._http = httpx.AsyncClient(**calls.options(url, key, timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def _do(self, call: Call[T]) -> T:
        for left in reversed(range(_TRIES)):
            response = await self._http.send(call.request(self._http))
            if response.status_code not in calls.RETRIED or not left:
                break
            await asyncio.sleep(calls.wait_s(response))
        return call.read(response)

    async def send_events(self, records: Records) -> IntakeAnswer:
        """See `Client.send_events`."""
        return await self._do(calls.send("/v1/events", records))

    async def send_labels(self, records: Records) -> IntakeAnswer:
        """See `Client.send_labels`."""
        return await self._do(calls.send("/v1/labels", records))

    async def decide(self, events: Records, deadline_ms: int | None = None) -> dict[str, Any]:
        """See `Client.decide`."""
        return await self._do(calls.decide(events, deadline_ms))

    async def alerts(self, **filters: Any) -> AsyncIterator[dict[str, Any]]:
        """See `Client.alerts`."""
        cursor: str | None = None
        while True:
            page = await self._do(calls.alerts(cursor, **filters))
            for alert in page.alerts:
                yield alert
            if (cursor := page.next) is None:
                return

    async def alert(self, alert_id: str) -> dict[str, Any]:
        """See `Client.alert`."""
        return await self._do(calls.get(calls.alert_path(alert_id)))

    async def verdict(self, alert_id: str, verdict: Verdict, *, reason: str = "", note: str = "") -> dict[str, Any]:
        """See `Client.verdict`."""
        return await self._do(calls.verdict(alert_id, verdict, reason, note))

    async def undo(self, alert_id: str) -> dict[str, Any]:
        """See `Client.undo`."""
        return await self._do(calls.post(calls.alert_path(alert_id, "undo"), {}))

    async def retrain(
        self, task: str, reason: str = "asked for by a program", *, force: bool = False
    ) -> dict[str, Any]:
        """See `Client.retrain`."""
        return await self._do(calls.post("/v1/retrain", {"task": task, "reason": reason, "force": force}))

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        """See `Client.get`."""
        return await self._do(calls.get(path, **params))

    async def post(self, path: str, **document: Any) -> dict[str, Any]:
        """See `Client.post`."""
        return await self._do(calls.post(path, document))

    async def feed(
        self, *, last_id: str | None = None, since: str | None = None, **filters: Any
    ) -> AsyncIterator[FeedEvent]:
        """See `Client.feed`."""
        lines = EventLines(last_id)
        while True:
            try:
                async with self._http.stream("GET", "/v1/feed", **_resume(lines, since, filters)) as response:
                    if response.status_code not in (calls.RETRIED if lines.last_id is None else calls.RESUMED):
                        if not response.is_success:
                            await response.aread()
                            raise calls.refusal(response)
                        async for line in response.aiter_lines():
                            if (event := lines.take(line)) and (found := lines.record(event)):
                                yield found
            except httpx.TransportError as error:
                if _is_final(error, fresh=lines.last_id is None and since is None):
                    raise
            await asyncio.sleep(lines.retry_s)


def _is_final(error: httpx.TransportError, *, fresh: bool) -> bool:
    """Whether to give up: an address that is none never answers; nor does, of a ``fresh`` feed, who was never there."""
    return isinstance(error, httpx.UnsupportedProtocol) or (fresh and isinstance(error, httpx.ConnectError))


def _resume(lines: EventLines, since: str | None, filters: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the request that goes on where ``lines`` is."""
    lines.begin()
    headers = {"Accept": "text/event-stream"}
    if lines.last_id is not None:
        headers["Last-Event-ID"] = lines.last_id
    params = {name: value for name, value in filters.items() if value is not None}
    if since is not None and lines.last_id is None:
        params["since"] = since
    # After the first id the place goes on alone: ``since`` would bring what was read already once more.
    return {"params": params, "headers": headers, "timeout": httpx.Timeout(30.0, read=_SILENT_S)}


__all__ = ["AsyncClient", "Client", "ServiceError"]
