"""What a route needs: a scope that its caller must have."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request

from weir.streams.service.access.roles import SCOPES


def needs(scope: str) -> Any:
    """A dependency of a route: the caller must have ``scope``; gives the ``Caller``.

    Every route has one: a test goes over all of them. ``""`` is what everyone may who is known. Raises ``ValueError``
    for a scope that is not in the table.
    """
    if scope and scope not in SCOPES:
        raise ValueError(f"needs({scope!r}): no such scope; add it to weir.streams.service.access.roles, or use one")

    async def check(request: Request) -> Any:
        return await request.app.state.service.access.check(request, scope)

    check.__dict__["scope"] = scope  # the matrix of routes and roles is made from it
    return Depends(check)
