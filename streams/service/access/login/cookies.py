"""The cookie of a session: its name, and how a browser is to keep it; and what a sign-on comes back with."""

from __future__ import annotations

import base64
from typing import Any, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from weir.online.errors import UNREADABLE
from weir.streams.config.serve_settings import is_loopback
from weir.streams.service.problems import Problem

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
