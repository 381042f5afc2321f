"""Decides who may do what: who a request is from, and whether that allows it."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from urllib.parse import parse_qsl, urlsplit

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from weir.streams.config.serve_settings import is_loopback
from weir.streams.service.access.api_keys import KeyStore, digest, parts_of
from weir.streams.service.access.audit.audit_trail import Audit
from weir.streams.service.access.login.login_routes import Cookies, LoginRoutes
from weir.streams.service.access.login.sessions import Session, SessionStore, csrf_token_of
from weir.streams.service.access.rates import FailedLogins, Rates
from weir.streams.service.access.roles import INGEST, ROLES
from weir.streams.service.access.scopes import Caller, Visit, administrator, limited
from weir.streams.service.access.users import administrators_token, link_to, refuse_nobody, sign_on_of
from weir.streams.service.parts import DatabaseAway, Problem
from weir.streams.service.store.database import access_database, in_thread
from weir.streams.text import printable

if TYPE_CHECKING:
    from weir.streams.service.service import Service

CSRF_HEADER: Final = "x-csrf-token"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_ABOUT_PEOPLE: Final = frozenset({"alerts:read", "entities:read", "deadletters:read"})
_NAMES_SOMEBODY: Final = frozenset({"entity", "q"})
"""Filters of lists and of the feed."""
_BEARER: Final = {"WWW-Authenticate": "Bearer"}


class Access:
    """The rights of callers.

    Parameters
    ----------
    service : whose settings say who may enter, and whose log holds the audit.

    Raises
    ------
    UsageError
        Other machines can reach the service, and there are no users; or the database cannot be used.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._serve = service.settings.serve
        self._settings = self._serve.access
        self._only_here = self._serve.loopback
        self._engine = access_database(self._serve)
        self.keys = KeyStore(self._engine)
        self.sessions = SessionStore(self._engine)
        self.token = administrators_token(self._serve)
        """Of the administrator, where there is one."""
        refuse_nobody(self._serve, self.keys, self.token)
        self._known_keys = RecentlyRead(self.keys.find)
        self._known_sessions = RecentlyRead(self.sessions.find)
        self.cookies = Cookies()
        self.rates = Rates(self._settings)
        self.audit = Audit(service, self._engine, self.rates.taken)
        self._failed = FailedLogins()
        self.sign_on = sign_on_of(self._serve)
        """People's identity provider, where there is one."""
        self.router = LoginRoutes(self).router

    async def start(self) -> None:
        """Begin to write the audit."""
        await self.audit.start()

    async def stop(self) -> None:
        """Write the rest of the audit, and close the database."""
        await self.audit.stop()
        if self.sign_on is not None:
            await self.sign_on.close()
        self._engine.dispose()

    @property
    def public_url(self) -> str | None:
        """What people write to reach the service, where it was set."""
        return self._serve.public_url

    def link(self, port: int | None = None) -> str:
        """Where a person enters; with the token that the service made, which is as good as a password."""
        made = self._settings.token is None  # one that was set is not printed anywhere
        return link_to(self._serve, port or self._serve.port, self.token if made else None)

    async def check(self, request: Request, scope: str) -> Caller:
        """Who sent the request; raises ``Problem`` (401, 403, 429) where it may not do what needs ``scope``.

        ``""`` is what everyone may who is known.
        """
        visit: Visit = request.scope["weir"]
        visit.scope = scope
        visit.caller = caller = await self.identify(request)
        if scope and scope not in caller.scopes:
            raise Problem(
                403, "Not allowed", f"{caller.name} may not do what needs {scope}", scope=scope, fix="ask for a role"
            )
        # What programs send is only counted, and that needs no room.
        if scope not in INGEST and self.audit.full:
            words = "who does what cannot be written down now, so nothing is done; see the service's log"
            raise Problem(503, "Audit not written", words, headers={"Retry-After": "5"})
        self.rates.take_request(caller)
        return caller

    async def identify(self, request: Request) -> Caller:
        """Who sent the request, whatever it is for; raises ``Problem`` (401, 403, 429) where nobody known did."""
        self._refuse_rebinding(request)
        # No browser sends this by itself, so that no token of our page has to prove where it comes from.
        if (header := request.headers.get("authorization")) is not None:
            return await self._by_secret(request, header)
        if (cookie := self.cookies.get(request)) is not None:
            return await self._by_cookie(request, cookie)
        if self._settings.open:
            _refuse_other_sites(request, self._serve.public_url)
            return administrator("open")
        raise Problem(
            401, "Who are you", "send Authorization: Bearer and a key (weir keys create), or sign on", headers=_BEARER
        )

    def _refuse_rebinding(self, request: Request) -> None:
        """A page of another site may have its name point to this machine; the name it was reached by tells that."""
        host = request.headers.get("host", "")
        if self._only_here and not _is_ours(host, self._serve.public_url):
            words = f"the service listens on {self._serve.host} and was asked for as {printable(host, 100)!r}"
            fix = "use http://127.0.0.1, or set [serve] public_url to the name that people use"
            raise Problem(403, "Wrong host", words, value=host[:100], fix=fix)

    async def _by_secret(self, request: Request, header: str) -> Caller:
        kind, _, secret = header.partition(" ")
        parts = parts_of(secret.strip())
        if kind.lower() == "bearer" and parts is not None:
            if (known := self._known_keys.peek(parts[0])) is None:
                self._failed.allow(_address(request))  # so that guesses do not ask the database
                known = await self._known_keys.get(parts[0])
            if known is not None and known.proved_by(parts[1]) and known.state(time.time()) == "active":
                return known.caller()
        elif kind.lower() == "bearer" and self._is_token(secret.strip()):
            return administrator("token")
        self._wrong_secret(request)
        if kind.lower() != "bearer":
            raise Problem(401, "Not known", "the header has no key: send Authorization: Bearer KEY", headers=_BEARER)
        raise Problem(401, "Not known", "this key is wrong, expired or revoked; see weir keys list", headers=_BEARER)

    def _is_token(self, secret: str) -> bool:
        return self.token is not None and hmac.compare_digest(self.token.encode(), secret.encode())

    def _wrong_secret(self, request: Request) -> None:
        """Count a wrong secret; raises ``Problem`` (429) where there were too many from its address."""
        self._failed.allow(_address(request))
        self._failed.failed(_address(request))

    async def _by_cookie(self, request: Request, cookie: str) -> Caller:
        session = await self._known_sessions.get(digest(cookie))
        # What is believed from memory may be past its end.
        caller = None if session is None or session.expires_at <= time.time() else self._caller_of(session)
        if caller is None:
            raise Problem(401, "Signed off", "this session has ended; sign on again", headers=_BEARER)
        if request.method not in _SAFE:
            sent = request.headers.get(CSRF_HEADER, "")
            # As bytes: of texts it takes ASCII alone, and a header may hold anything.
            if not hmac.compare_digest(sent.encode(), csrf_token_of(cookie).encode()):
                raise Problem(
                    403, "Not from our page", f"a change by a browser needs {CSRF_HEADER}, which GET /v1/me tells"
                )
        return caller

    def _caller_of(self, session: Session) -> Caller | None:
        """What a session allows now; ``None`` where that is nothing any more."""
        if session.via == "token":  # it ends when the token is another one
            same = self.token is not None and session.subject == digest(self.token)
            return administrator("session") if same else None
        grants = [grant for group, grant in self._settings.oidc.groups.items() if group in session.groups]
        if self.sign_on is None or not grants:
            return None
        # Of several groups the strongest role counts, for the tasks of the groups that have it: never more than one
        # group gives. Roles are in their order.
        role = max((grant.role for grant in grants), key=list(ROLES).index)
        of_role = [grant.tasks for grant in grants if grant.role == role]
        every = None if None in of_role else {task for tasks in of_role if tasks is not None for task in tasks}
        scopes, tasks = limited(ROLES[role], every)
        return Caller(session.subject, session.name, "session", scopes, tasks, session.expires_at)

    async def enter_by_token(self, request: Request, response: Response, token: str) -> None:
        """Begin a session for who has the administrator's token; raises ``Problem`` (401, 403, 429) for others."""
        self._refuse_rebinding(request)
        if not self._is_token(token):
            self._wrong_secret(request)
            raise Problem(401, "Not known", "this is not the service's token; it is printed when the service starts")
        await self.enter(request, response, Session(digest(token), "admin", "token", (), 0.0))

    async def enter(self, request: Request, response: Response, who: Session) -> None:
        """Begin a session: its cookie is set on ``response``. The session the browser had ends.

        Raises ``Problem`` (403) for who may do nothing.
        """
        caller = self._caller_of(who)
        if caller is None:
            self._note(request.scope, "login", Caller(who.subject, who.name, "session", frozenset()), 403)
            words = f"{who.name} is known and may do nothing: no group of theirs has a role"
            fix = "give one of these groups a role in [serve.access.oidc.groups]"
            raise Problem(403, "Not allowed", words, value=list(who.groups), fix=fix)
        age_s = self._settings.session_age
        old = self.cookies.get(request)
        now = time.time()
        cookie = await in_thread(self.sessions.begin, who.subject, who.name, who.via, who.groups, now, now + age_s, old)
        self.cookies.put(request, response, cookie, age_s)
        # A sign-on passes no check of a route, so that the audit would not hear of it by ``visited``: it is told here.
        self._note(request.scope, "login", caller, 200)
        # Else it would be believed from memory for some seconds more.
        if old is not None:
            self._known_sessions.forget(digest(old))

    async def leave(self, request: Request, response: Response) -> None:
        """End the session of a browser."""
        if (cookie := self.cookies.get(request)) is not None:
            await in_thread(self.sessions.end, cookie)
            self._known_sessions.forget(digest(cookie))
        self.cookies.drop(request, response)

    def visited(self, scope: Scope, visit: Visit, status: int) -> None:
        """A request was answered: a change, or a look at a person's page, goes to the audit; refused ones do, too."""
        if visit.caller is None or not visit.told:
            return
        path = scope.get("path_params", {})
        if visit.scope in INGEST:
            self.audit.count(visit.caller, visit.scope)
            return
        subjects: list[str | None] = [*_subjects(scope)]
        if scope["method"] not in _SAFE or subjects or (path and visit.scope in _ABOUT_PEOPLE):
            route = getattr(scope.get("route"), "path", scope["path"])
            # A record for each: who asks for the audit of one person is to find it, whoever else was asked for.
            for subject in subjects or [None]:
                facts = {"task": path.get("task"), "subject": subject, "object": scope["path"], **visit.facts}
                self._note(scope, f"{scope['method']} {route}", visit.caller, status, **facts)

    def _note(self, scope: Scope, action: str, caller: Caller | None, status: int, **facts: str | None) -> None:
        client = scope.get("client")
        request_id = scope.get("state", {}).get("request_id")
        address = client[0] if client else None
        self.audit.note(action, caller, outcome=status, request_id=request_id, address=address, **facts)


@lru_cache(maxsize=1024)
def _is_ours(host: str, public_url: str | None) -> bool:
    """Whether a ``Host`` header is a name of this machine, or the one that was set."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name == urlsplit(public_url or "").hostname


def _subjects(scope: Scope) -> list[str]:
    """The entities that a request is about, by its path or its filters, and what it searched for; each once."""
    if (named := scope.get("path_params", {}).get("entity")) is not None:
        return [named]
    # Parsed as the routes parse it: "%65ntity=" is the same filter, and a look for the bytes would pass it over.
    asked = parse_qsl(scope["query_string"].decode("latin-1"))
    # A search is told as it was typed: an id in it finds a person as surely as the filter does.
    found = (value if name == "entity" else value.strip() for name, value in asked if name in _NAMES_SOMEBODY)
    return [value for value in dict.fromkeys(found) if value]


def _refuse_other_sites(request: Request, public_url: str | None) -> None:
    """Where nobody has to prove anything, a page of any site could have a browser make changes."""
    if request.method in _SAFE:
        return
    site = request.headers.get("sec-fetch-site")
    if site is None and (origin := request.headers.get("origin")) is not None:
        # Over plain http to another machine a browser leaves out the site, and still says whose page it is.
        ours = {f"{scheme}://{request.headers.get('host')}" for scheme in ("http", "https")}
        site = "same-origin" if origin in {*ours, (public_url or "").rstrip("/")} else origin[:100]
    if site not in (None, "same-origin", "none"):
        fix = "where this is your own page, behind a proxy: set [serve] public_url to the address that people use"
        words = f"a page of another site ({site}) asked for a change"
        raise Problem(403, "Not from our page", words, value=site, fix=fix)


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


V = TypeVar("V")
BELIEVED_S: Final = 3.0
"""A key that was revoked elsewhere works for so long at most; 5 s are promised."""
_MOST: Final = 10_000
"""Values that are kept; the oldest goes, so that made-up keys cannot fill memory."""


class RecentlyRead(Generic[V]):
    """The last values of a reader, of keys that exist and of keys that do not.

    Parameters
    ----------
    read : asks the database; it runs in a thread.
    """

    def __init__(self, read: Callable[[str], V | None]) -> None:
        self._read = read
        self._known: dict[str, tuple[float, V | None]] = {}

    def peek(self, key: str) -> V | None:
        """What is believed of ``key`` without asking; ``None`` where that is nothing, or too old."""
        found = self._known.get(key)
        return found[1] if found is not None and time.monotonic() - found[0] < BELIEVED_S else None

    async def get(self, key: str) -> V | None:
        """The value of ``key``; raises ``DatabaseAway`` (503) where the database does not answer.

        A database that is away lets nobody in: a key may have been revoked since.
        """
        found = self._known.get(key)
        now = time.monotonic()  # from before the question: the answer may be as old as that
        if found is not None and now - found[0] < BELIEVED_S:
            return found[1]
        try:
            value = await in_thread(self._read, key)
        except SQLAlchemyError as exc:
            raise DatabaseAway(exc, "who may do what is not known now") from exc
        # Out before it goes in again: what was read longest ago has to stand first.
        self._known.pop(key, None)
        while len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)))
        self._known[key] = (now, value)
        return value

    def forget(self, key: str) -> None:
        """Ask again next time."""
        self._known.pop(key, None)
