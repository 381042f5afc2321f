"""What a service is made of: views, which have routes, and parts, which run while it does; how they answer and wait.

What cannot be served is a problem+json (RFC 9457) that names the value, the limit and the fix.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

from weir.streams.errors import ShellError

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
        from fastapi import APIRouter  # commands that meet a problem do without it

        self._service = service
        self.router = APIRouter(tags=[tag])
        """Without ``/v1``."""


class Part:
    """Something that runs while the service does."""

    async def start(self) -> None:
        """Begin; the log is not open yet, so that no record passes a listener by."""

    async def stop(self) -> None:
        """End; what waits is answered first."""


def answer(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A document as JSON."""
    return Response(msgspec.json.encode(document), status, headers, "application/json")


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


MEDIA_TYPE: Final = "application/problem+json"
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and how to correct it."},
        "value": {"description": "What was given."},
        "limit": {"description": "What is allowed."},
        "fix": {"type": "string"},
    },
}
_CONTENT: Final = {MEDIA_TYPE: {"schema": SCHEMA}}
ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {
        "description": "The request is wrong, or not allowed; its words say how to correct it.",
        "content": _CONTENT,
    },
    422: {"description": "A parameter or the body is not valid.", "content": _CONTENT},
    "5XX": {"description": "The service cannot serve it now; Retry-After says when, if it knows.", "content": _CONTENT},
}
"""What OpenAPI says of every route's problems."""


class Problem(ShellError):  # noqa: N818 - RFC 9457 calls it so
    """A request that cannot be served.

    Parameters
    ----------
    status : HTTP status.
    title : what kind of problem it is, the same words each time.
    detail : what is wrong this time, and how to correct it.
    facts : members of the document beside these, such as ``value``, ``limit`` and ``fix``.
    headers : such as ``Retry-After``.
    """

    def __init__(
        self, status: int, title: str, detail: str, *, headers: Mapping[str, str] | None = None, **facts: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.facts = status, title, detail, facts
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer."""
        kind = self.title.lower().replace(" ", "-").replace("'", "")
        document = {"type": f"urn:weir:problem:{kind}", "title": self.title, "status": self.status}
        body = msgspec.json.encode({**document, "detail": self.detail, **self.facts})
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


class OverloadError(Problem):
    """More waits than this process can hold; the caller waits and sends again."""

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(503, "Overloaded", detail, headers={"Retry-After": str(retry_after_s)})


_SAYS: Final = {
    "53100": "its disk is full; make room there",
    "25006": "it only reads; see that [serve] database leads to the primary",
    "55P03": "somebody holds a lock there; end that transaction",
}
"""What to do, by PostgreSQL's code."""


class DatabaseAway(Problem):
    """The database does not answer; ``unknown`` says what is not known or done for it."""

    def __init__(self, error: Exception, unknown: str = "nothing was done that needs it") -> None:
        # Not its own words, which may name machines and users: who asks may be nobody that we know.
        code = getattr(getattr(error, "orig", None), "sqlstate", None)
        why = _SAYS.get(code or "", f"{type(error).__name__}; see that [serve] database can be reached")
        detail = f"{unknown}: {why}"
        super().__init__(503, "Database away", detail, headers={"Retry-After": "2"})


class NoLongerKept(Problem):
    """Records that retention has removed."""

    def __init__(self, topic: str, partition: int, offset: int, first: int) -> None:
        words = f"{topic}-{partition}: offset {offset} is no longer kept; the first that is has offset {first}"
        super().__init__(410, "No longer kept", words, value=offset, limit=first)
