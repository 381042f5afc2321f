"""A short way to handlers of which hundreds are called each second."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from fastapi.dependencies import utils
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

_QUERIES: Final = 256
"""Query strings whose parameters are remembered, and the most bytes that one may have: callers choose them."""


class QuickRoute(Route):
    """Leads to the handler of one of FastAPI's routes, which stays for what is unusual, and for the OpenAPI document.

    FastAPI works out the parameters of each request anew, which takes longer than the handler itself. Here that is
    done once for each query string. A query that it would refuse does not match, so that its own route refuses it.

    Parameters
    ----------
    route : FastAPI's; its only dependency is ``needs``, and its handler reads the body by itself.
    prefix : of the path.
    """

    def __init__(self, route: APIRoute, prefix: str) -> None:
        # The usual route is in the OpenAPI document already.
        super().__init__(prefix + route.path, self._answer, methods=list(route.methods or ()), include_in_schema=False)
        self._usual, self.dependant = route, route.dependant
        # A handler with a second dependency fails here, at the start, and not at its first caller.
        (self._caller,) = route.dependant.dependencies
        self._parameters = lru_cache(_QUERIES)(self._parameters_of)

    def _parameters_of(self, query: bytes) -> dict[str, Any] | None:
        given, fields = QueryParams(query), self.dependant.query_params
        values, errors = utils.request_params_to_args(fields, given)
        return None if errors or {*given} - {field.alias for field in fields} else values

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether path, method and query are usual ones."""
        match, found = super().matches(scope)
        query = scope.get("query_string", b"")
        if match is not Match.FULL or len(query) > _QUERIES or self._parameters(query) is None:
            # Nor PARTIAL for another method: the usual route says which methods it takes.
            return Match.NONE, {}
        # Metrics, the audit and the check of names of parameters go by the route of the scope.
        return match, {**found, "route": self._usual}

    async def _answer(self, request: Request) -> Response:
        parameters = self._parameters(request.scope["query_string"]) or {}
        check, name = self._caller.call, self._caller.name
        assert check is not None
        assert name is not None
        answer: Response = await self._usual.endpoint(request=request, **{name: await check(request)}, **parameters)
        return answer
