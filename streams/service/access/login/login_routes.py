"""Routes of people: sign on, who am I, log out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from weir.streams.service.access.caller import Caller
from weir.streams.service.access.login.cookies import local, state_in
from weir.streams.service.access.login.sessions import csrf_token_of
from weir.streams.service.access.scopes import needs
from weir.streams.service.problems import Problem
from weir.streams.text import printable

if TYPE_CHECKING:
    from weir.streams.service.access.access import Access
    from weir.streams.service.access.login.oidc import SignOn

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
        self.router.get("/login", include_in_schema=False)(self.login)
        self.router.get("/login/callback", include_in_schema=False)(self.callback)
        self.router.post("/logout", status_code=204, dependencies=[needs("")])(self.logout)

    async def login(self, request: Request, next: str = "/") -> Response:  # noqa: A002 - what others call it too
        """Go to the identity provider, and come back to the page ``next``."""
        address, made = await self._sign_on().begin(self._back(request), next)
        answer = RedirectResponse(address, 303)
        self._access.cookies.begin_login(request, answer, made.cookie())
        return answer

    async def callback(self, request: Request, state: str = "", code: str = "", error: str = "") -> Response:
        """Come back from there."""
        sign_on, made = self._sign_on(), state_in(self._access.cookies.get(request, "login"))
        if error or not code:
            raise Problem(401, "Not signed on", f"the identity provider says {printable(error or 'nothing', 100)}")
        who = await sign_on.finish(self._back(request), made, state, code)
        # Looked at once more: the cookie that it comes from is the browser's, and not signed.
        answer = RedirectResponse(local(made.next), 303)
        self._access.cookies.drop(request, answer, "login")
        await self._access.enter(request, answer, who)
        return answer

    def _sign_on(self) -> SignOn:
        if self._access.sign_on is None:
            raise Problem(404, "No sign-on", "nobody signs on here; set [serve.access.oidc] issuer, or use a key")
        return self._access.sign_on

    def _back(self, request: Request) -> str:
        base = self._access.public_url or f"{request.url.scheme}://{request.url.netloc}"  # only on loopback
        return f"{base}/v1/login/callback"

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
