"""What a sign-on has to come back with from the identity provider, and to which page of ours."""

from __future__ import annotations

import base64
from typing import Final

import msgspec

from weir.online.errors import UNREADABLE
from weir.streams.service.problems import Problem

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
