"""What a service is made of: views, which have routes, and parts, which run while it does; how these wait."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from fastapi import APIRouter

if TYPE_CHECKING:
    from weir.streams.service.service import Service


class View:
    """Routes of a service.

    Parameters
    ----------
    service : whose log and tasks they are about.
    tag : what the API's description has them under.
    """

    def __init__(self, service: Service, tag: str) -> None:
        self._service = service
        self.router = APIRouter(tags=[tag])
        """Without ``/v1``."""


class Part:
    """Something that runs while the service does."""

    async def start(self) -> None:
        """Begin; the log is not open yet, so that no record passes a listener by."""

    async def stop(self) -> None:
        """End; what waits is answered first."""


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait until ``event`` is set, but no longer than so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def ended(task: asyncio.Task[None] | None) -> None:
    """Cancel what runs in the background, where something does, and wait until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
