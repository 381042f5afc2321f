"""What a route needs: a scope that its caller must have."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request


def needs(scope: str) -> Any:
    """A dependency of a route: the caller must have ``scope``; gives who it is."""

    async def check(request: Request) -> Any:
        return await request.app.state.service.access.check(request, scope)

    check.__dict__["scope"] = scope  # the matrix of routes and roles is made from it
    return Depends(check)
