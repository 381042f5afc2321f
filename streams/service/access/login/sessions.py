"""Sessions of people in browsers: an opaque cookie here, everything else in the database."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, delete, insert, select

from weir.streams.service.access.api_keys import digest
from weir.streams.service.store.tables import SESSIONS, execute, fetched


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who signed on.

    Parameters
    ----------
    subject : who: ``person:`` and the identity provider's name of them; of the token's holder its digest, so that the
        session ends with the token.
    name : what people read.
    via : ``oidc`` or ``token``.
    groups : of the identity provider. Not what they allow: that is looked up each time, so that a change of the
        settings holds for who is inside already.
    expires_at : when it ends, epoch seconds.
    """

    subject: str
    name: str
    via: str
    groups: tuple[str, ...]
    expires_at: float


def csrf_token_of(token: str) -> str:
    """What a page sends with a change, so that no other site can make one.

    It is made from the cookie, which no script can read, and only this service and pages that it made know it.
    """
    made = hashlib.sha256(b"weir csrf\0" + token.encode()).digest()
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


class SessionStore:
    """Sessions in the database, under the digest of their cookie."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(
        self, subject: str, name: str, via: str, groups: Sequence[str], now: float, expires_at: float, old: str | None
    ) -> str:
        """A new session's cookie. The one that the browser had before, ``old``, ends, and so do those past their time.

        A login always makes a new cookie: one that somebody planted in the browser before never becomes a login.
        """
        token = secrets.token_urlsafe(32)
        # Here, as nothing else looks for those that nobody comes back to.
        gone = SESSIONS.c.expires_at <= now
        if old is not None:
            gone |= SESSIONS.c.token_sha256 == digest(old)
        row = {"subject": subject, "name": name, "via": via, "groups": list(groups), "expires_at": expires_at}
        begun = insert(SESSIONS).values(token_sha256=digest(token), created_at=now, **row)
        execute(self._engine, delete(SESSIONS).where(gone), begun)
        return token

    def find(self, token_sha256: str) -> Session | None:
        """The session of a cookie's digest, also one past its time."""
        columns = (SESSIONS.c.subject, SESSIONS.c.name, SESSIONS.c.via, SESSIONS.c.groups, SESSIONS.c.expires_at)
        found = fetched(self._engine, select(*columns).where(SESSIONS.c.token_sha256 == token_sha256))
        return next((Session(row[0], row[1], row[2], tuple(row[3]), row[4]) for row in found), None)

    def end(self, token: str) -> None:
        """Log out."""
        execute(self._engine, delete(SESSIONS).where(SESSIONS.c.token_sha256 == digest(token)))
