"""Who asks, what that allows, and what a route needs: a scope that its caller must have."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel
from starlette.requests import Request

from weir.streams.service.access.roles import OF_ALL_TASKS, ROLES, SCOPES
from weir.streams.service.parts import Problem
from weir.streams.text import printable

if TYPE_CHECKING:
    from fastapi.dependencies.models import Dependant

Via = Literal["key", "session", "token", "open"]
"""How somebody proved who they are; ``open`` is nobody's proof (``[serve.access] open``)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Parameters
    ----------
    id : of the key, or of the person at the identity provider; what the audit and rate limits go by.
    name : what people read.
    via : how it was proved.
    scopes : what is allowed.
    tasks : the only tasks it is allowed for; ``None`` for all.
    expires_at : when that ends, epoch seconds; a feed ends then.
    requests_per_s, records_per_s : limits of its own.
    """

    id: str
    name: str
    via: Via
    scopes: frozenset[str]
    tasks: frozenset[str] | None = None
    expires_at: float | None = None
    requests_per_s: float | None = None
    records_per_s: float | None = None

    def sees(self, task: str) -> bool:
        """Whether it may see and change what belongs to ``task``."""
        return self.tasks is None or task in self.tasks

    def must_see(self, task: str) -> None:
        """Raise a ``Problem`` (403) where it may not."""
        if not self.sees(task):
            words = f"{self.name} may not use task {task!r}, only {', '.join(sorted(self.tasks or ())) or 'none'}"
            fix = "use a key or group that has this task, or none of its own"
            raise Problem(403, "Not allowed", words, value=task, fix=fix)


def limited(scopes: frozenset[str], tasks: Iterable[str] | None) -> tuple[frozenset[str], frozenset[str] | None]:
    """Scopes and tasks of a caller; without the scopes that are of all tasks, where it has only some."""
    return (scopes, None) if tasks is None else (scopes - OF_ALL_TASKS, frozenset(tasks))


def administrator(via: Via) -> Caller:
    """Who holds the token of the administrator, or anyone where access is open."""
    name = "admin" if via != "open" else "anyone"
    return Caller(name, name, via, ROLES["admin"])


@dataclass(slots=True)
class Visit:
    """What one request did, as far as who may do what is concerned; ``request.scope["weir"]``.

    Parameters
    ----------
    caller, scope : who, and what was needed; set by the check of the route.
    facts : what a handler adds to the audit's record: ``task``, ``subject``, ``object``, ``reason``.
    nonce : of the page's scripts, where one asked for it.
    told : whether the audit is told; not of what a page repeats by itself every few seconds.
    """

    caller: Caller | None = None
    scope: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    nonce: str = ""
    told: bool = True


def caller_of(request: Request) -> Caller:
    """Who sent a request, as the check of its route found."""
    caller: Caller = request.scope["weir"].caller
    return caller


def nonce_of(request: Request) -> str:
    """What a script element of the page that answers ``request`` has to carry."""
    visit: Visit = request.scope["weir"]
    visit.nonce = visit.nonce or secrets.token_urlsafe(16)
    return visit.nonce


def tell_audit(request: Request, **facts: str) -> None:
    """Add to what the audit will hold of this request: ``task``, ``subject``, ``object``, ``reason``."""
    request.scope["weir"].facts.update(facts)


# One object for a scope: FastAPI asks the same dependency once for a request, wherever else it is needed.
@cache
def needs(scope: str) -> Any:
    """A dependency of a route: the caller must have ``scope``; gives the ``Caller``.

    Every route has one: a test goes over all of them. ``""`` is what everyone may who is known. Raises ``ValueError``
    for a scope that is not in the table.
    """
    if scope and scope not in SCOPES:
        raise ValueError(f"needs({scope!r}): no such scope; add it to weir.streams.service.access.roles, or use one")

    from fastapi import Depends  # commands about keys do without it

    async def check(request: Request) -> Any:
        _refuse_unknown(request)
        return await request.app.state.service.access.check(request, scope)

    check.__dict__["scope"] = scope  # the matrix of routes and roles is made from it
    return Depends(check)


def _refuse_unknown(request: Request) -> None:
    """A filter with a slip in its name would be left out in silence, and the answer would be of everything."""
    if not request.url.query:
        return
    known = _parameters(request.scope["route"].dependant)
    if known is not None and (unknown := sorted({*request.query_params} - known)):
        raise Problem(
            422, "Not valid", f"{printable(unknown[0], 64)}: no such parameter here",
            parameter=unknown[0][:64], fix=f"give {', '.join(sorted(known))}" if known else "give none",
        )  # fmt: skip


def _parameters(of: Dependant) -> set[str] | None:
    """Names of a route's parameters; ``None`` where a model takes them, which refuses others by itself."""
    if any(
        isinstance(kind := one.field_info.annotation, type) and issubclass(kind, BaseModel) for one in of.query_params
    ):
        return None
    within = [_parameters(one) for one in of.dependencies]
    return {one.alias for one in of.query_params}.union(*(names for names in within if names is not None))
