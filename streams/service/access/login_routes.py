"""Routes of people: who am I, log out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from fastapi import APIRouter, Request, Response

from weir.streams.service.access.caller import Caller
from weir.streams.service.access.scopes import needs
from weir.streams.service.access.sessions import csrf_token_of

if TYPE_CHECKING:
    from weir.streams.service.access.access import Access

Known = Annotated[Caller, needs("")]


class LoginRoutes:
    """What a page asks first, and last.

    Parameters
    ----------
    access : knows callers.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self.router = APIRouter(tags=["access"])
        self.router.get("/me")(self.me)
        self.router.post("/logout", status_code=204, dependencies=[needs("")])(self.logout)

    async def me(self, request: Request, caller: Known) -> Response:
        """Who the caller is, and what that allows; for a session also the token that its changes need."""
        cookie = self._access.cookies.get(request) if caller.via == "session" else None
        told = {
            "id": caller.id,
            "name": caller.name,
            "via": caller.via,
            "scopes": sorted(caller.scopes),
            "tasks": None if caller.tasks is None else sorted(caller.tasks),
            "expires_at": caller.expires_at,
            "csrf_token": None if cookie is None else csrf_token_of(cookie),
        }
        return Response(msgspec.json.encode(told), media_type="application/json")

    async def logout(self, request: Request) -> Response:
        """End the session."""
        answer = Response(status_code=204)
        await self._access.leave(request, answer)
        return answer
