"""Around every request: headers that bind browsers, the link with a token, and what the audit is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weir.streams.service.access.scopes import Visit
from weir.streams.service.parts import DatabaseAway, Problem
from weir.streams.service.store.database import AWAY

if TYPE_CHECKING:
    from weir.streams.service.access.access import Access

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NO_PAGE: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
"""Of all that is no page: data never runs anything."""
_TLS: Final = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_PAGE: Final = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'"
)


class Guard:
    """An ASGI application around another.

    Parameters
    ----------
    app : what it goes around.
    access : exchanges tokens, and is told what was done.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = scope["weir"] = Visit()
        status = 500  # where nothing is answered

        async def sends(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(message, scope, visit)]
            await send(message)

        try:
            # Before any route and its check, whichever page the link leads to.
            if b"token=" in scope["query_string"] and scope["method"] == "GET":
                await self._exchange(scope, receive, sends)
            else:
                await self._app(scope, receive, sends)
        finally:
            self._access.visited(scope, visit, status)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A link with a token becomes a session, and an address without it: that stays in histories and logs."""
        request = Request(scope, receive)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        token = next((value for name, value in query if name == "token"), None)
        answer: ASGIApp
        try:
            if token is None:
                answer = self._app
            else:
                rest = urlencode([(name, value) for name, value in query if name != "token"])
                target = "/" + request.url.path.lstrip("/")  # never //host, which is another site
                answer = RedirectResponse(f"{target}?{rest}" if rest else target, 303)
                await self._access.enter_by_token(request, answer, token)
        except Problem as problem:
            answer = problem.response()
        except AWAY as error:  # outside of the application, whose handlers would tell it
            answer = DatabaseAway(error).response()
        await answer(scope, receive, send)


def _headers(message: Message, scope: Scope, visit: Visit) -> list[tuple[bytes, bytes]]:
    """What is added to an answer; what it has already stays."""
    there = dict(message.get("headers", ()))
    page = there.get(b"content-type", b"").startswith(b"text/html")
    policy = (b"content-security-policy", _PAGE.format(nonce=visit.nonce).encode()) if page else _NO_PAGE
    # Over plain http browsers have to pass it over (RFC 6797, 8.1).
    wanted = [*_HEADERS, policy, *([_TLS] if scope["scheme"] == "https" else ())]
    if b"cache-control" not in there:
        wanted.append((b"cache-control", b"no-store"))  # answers are of who asked
    return [(name, value) for name, value in wanted if name not in there]
