"""What a route needs: a scope that its caller must have."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel

from weir.streams.service.access.roles import SCOPES
from weir.streams.service.problems import Problem
from weir.streams.text import printable


# One object for a scope: FastAPI asks the same dependency once for a request, wherever else it is needed.
@cache
def needs(scope: str) -> Any:
    """A dependency of a route: the caller must have ``scope``; gives the ``Caller``.

    Every route has one: a test goes over all of them. ``""`` is what everyone may who is known. Raises ``ValueError``
    for a scope that is not in the table.
    """
    if scope and scope not in SCOPES:
        raise ValueError(f"needs({scope!r}): no such scope; add it to weir.streams.service.access.roles, or use one")

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
