"""Routes of people: sign on, who am I, log out; the cookie of a session, and what a sign-on comes back with."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from weir.online.errors import UNREADABLE
from weir.streams.config.serve_settings import is_loopback
from weir.streams.service.access.login.sessions import csrf_token_of
from weir.streams.service.access.scopes import Caller, needs
from weir.streams.service.parts import Problem
from weir.streams.text import printable

if TYPE_CHECKING:
    from weir.streams.service.access.access import Access
    from weir.streams.service.access.login.oidc import SignOn

Known = Annotated[Caller, needs("")]


class LoginRoutes:
    """What a page asks first, and last."""

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


_LOGIN_S: Final = 600
Kind = Literal["session", "login"]
"""Of who signed on, and of a sign-on that goes on at the identity provider."""


class Cookies:
    """Cookies of this service.

    With https they are ``__Host-weir``: the browser sends those back to this host alone, over https alone, and no other
    host of the domain can set one. Without it, which only this machine's own addresses may be, browsers refuse that
    name, so there it is ``weir-PORT``: cookies do not know ports, and two services of one machine would sign each other
    out.
    """

    def get(self, request: Request, kind: Kind = "session") -> str | None:
        """The cookie that came with a request."""
        return request.cookies.get(self._name(request, kind))

    def put(self, request: Request, response: Response, value: str, age_s: float, kind: Kind = "session") -> None:
        """Set it; raises ``Problem`` (403) where the way to the browser is not encrypted."""
        secure = self._secure(request)
        if not secure and not is_loopback(request.url.hostname or ""):
            raise Problem(
                403,
                "Not encrypted",
                "nobody signs on over plain http, where others on the way could read the cookie; give tls_cert and "
                "tls_key in [serve], or an encrypting proxy with trusted_proxies",
            )
        # Lax: back from the identity provider a browser comes from another site, and strict cookies would stay behind.
        kept: Any = {"httponly": True, "samesite": "lax", "path": "/", "secure": secure}
        response.set_cookie(self._name(request, kind), value, max_age=int(age_s), **kept)

    def begin_login(self, request: Request, response: Response, value: str) -> None:
        """Remember what a sign-on has to come back with."""
        self.put(request, response, value, _LOGIN_S, "login")

    def drop(self, request: Request, response: Response, kind: Kind = "session") -> None:
        """Have the browser forget it."""
        # By the same attributes: without ``Secure`` a browser passes over what is said of a ``__Host-`` cookie.
        response.delete_cookie(
            self._name(request, kind), path="/", secure=self._secure(request), httponly=True, samesite="lax"
        )

    def _secure(self, request: Request) -> bool:
        return request.url.scheme == "https"

    def _name(self, request: Request, kind: Kind) -> str:
        suffix = "" if kind == "session" else f"-{kind}"
        return f"__Host-weir{suffix}" if self._secure(request) else f"weir-{request.url.port or 80}{suffix}"


_LONGEST: Final = 1_000
"""Of an address that we return to: browsers keep no cookie beyond 4 kB."""


class LoginState(msgspec.Struct):
    """What a sign-on must come back with. It is in a cookie of the browser that began it, and nowhere else.

    Parameters
    ----------
    state : who answers ``/login/callback`` has to know it.
    nonce : the token has to hold it, so that a token of another sign-on does not do.
    verifier : proves to the provider that who exchanges the code is who asked for it.
    next : the page to show then.
    """

    state: str
    nonce: str
    verifier: str
    next: str

    def cookie(self) -> str:
        """As a cookie can hold it."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()


def state_in(cookie: str | None) -> LoginState:
    """What was remembered of a sign-on; raises ``Problem`` (400) where nothing was."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cookie or ""), type=LoginState)
    except (*UNREADABLE, ValueError) as exc:
        raise Problem(400, "Sign on again", "this sign-on was not begun in this browser, or took too long") from exc


def local(page: str) -> str:
    r"""A page of ours; the first one for anything that a browser would take for another site.

    >>> local("/alerts?a=1"), local("//evil.example"), local("/\\evil.example"), local("https://evil.example")
    ('/alerts?a=1', '/', '/', '/')
    """
    plain = (
        page.startswith("/")
        and not page.startswith("//")
        and "\\" not in page
        and page.isprintable()
        and len(page) <= _LONGEST
    )
    return page if plain else "/"
