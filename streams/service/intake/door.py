"""Takes events and labels: splits bodies into records, refuses what cannot be used, and appends the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from fastapi import APIRouter, Request, Response

from weir.streams.config import topics
from weir.streams.records import Record
from weir.streams.service.access.scopes import needs

if TYPE_CHECKING:
    from weir.streams.service.service import Service


class Door:
    """The way in.

    Parameters
    ----------
    service : whose log takes the records.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.router = APIRouter()
        self.router.post("/events", dependencies=[needs("events:write")])(self.events)

    async def start(self) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Nothing to end."""

    async def events(self, request: Request) -> Response:
        """Append one user event."""
        outcomes = await self.append(topics.USER_EVENTS, [await request.body()])
        return Response(msgspec.json.encode(outcomes), media_type="application/json")

    async def append(self, topic: str, values: Sequence[bytes]) -> list[tuple[str, str]]:
        """Append records as they came; what became of each."""
        import time

        outcomes = await self._service.log.append(topic, [Record(b"", value, time.time()) for value in values])
        return [(outcome.status, outcome.reason) for outcome in outcomes]
