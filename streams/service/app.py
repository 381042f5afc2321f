"""The HTTP application of a service: its routes, health, metrics, and errors as problem+json."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final, cast

from fastapi import FastAPI, Request, Response
from fastapi.dependencies import utils
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weir.streams.errors import BrokerError, WeirError, in_words
from weir.streams.ops.exposition import CONTENT_TYPE, Exposition
from weir.streams.ops.metric_registry import Registry
from weir.streams.redis.store_errors import StoreUnavailable
from weir.streams.service.access.access_guard import Guard
from weir.streams.service.parts import ANSWERS, DatabaseAway, OverloadError, Problem, answer
from weir.streams.service.service import Service
from weir.streams.service.store.database import AWAY
from weir.streams.text import printable

logger = logging.getLogger(__name__)
_PREFIX: Final = "/v1"
_BODY_BYTES: Final = 1 << 20
"""Of a request that brings no events or labels: some eight times what the ids of 500 alerts take."""


def create_app(service: Service) -> FastAPI:
    """The application; the service starts and stops with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    # No pages of documentation: theirs would load scripts from elsewhere.
    app = FastAPI(title="Weir", version=version("weir"), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service, app.state.exposition = service, Exposition(service.metrics)
    for router in service.routers:
        app.include_router(router, prefix=_PREFIX, responses=ANSWERS)
    often = [cast(APIRoute, route) for router in service.often for route in router.routes]
    # Before FastAPI's own routes: the router takes the first one that matches.
    app.router.routes[:0] = [QuickRoute(route, _PREFIX) for route in often]
    if service.console is not None:
        app.include_router(service.console.router)
    for path, handler in (("/", front_page), ("/health", _health), ("/ready", _ready), ("/metrics", _metrics)):
        app.add_api_route(path, handler, include_in_schema=False)
    # Of an error's classes the nearest one's handler is taken: a Problem is a WeirError, and is told as it is.
    handlers: dict[type[Exception], Callable[[Request, Any], Problem]] = {
        Problem: lambda _, problem: problem,
        BrokerError: _unreachable,
        StoreUnavailable: _unreachable,
        **dict.fromkeys(AWAY, _database_away),
        WeirError: lambda _, error: Problem(422, "Not usable", str(error)),
        HTTPException: _refused,
        RequestValidationError: _invalid,
    }
    for kind, problem_of in handlers.items():
        app.add_exception_handler(kind, partial(_told, problem_of))
    bulk = frozenset(_PREFIX + route.path for route in often)
    app.add_middleware(RequestGuard, registry=service.metrics, bulk=bulk)
    app.add_middleware(Guard, access=service.access)  # the outermost: its headers are on every answer
    return app


class RequestGuard:
    """Names each request, counts it, and answers 500 for what nobody expected, without a word of its inside.

    Parameters
    ----------
    app : the application within.
    registry : where requests are counted.
    bulk : paths whose handlers bound the body by themselves; everywhere else it has a MiB at most.
    """

    def __init__(self, app: ASGIApp, registry: Registry, bulk: frozenset[str] = frozenset()) -> None:
        self._app, self._registry, self._bulk = app, registry, bulk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on what is none."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Our own id, whatever the caller sent: the log and the audit name the request by it, so nobody else may choose
        # it.
        request_id, status = secrets.token_hex(8), 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        scope.setdefault("state", {})["request_id"] = request_id
        bounded = receive if scope["path"] in self._bulk else _bounded(receive)
        try:
            await self._app(scope, bounded, named)
        except Exception:
            # A path may hold an end of a line: nobody is to write lines of their own into the log.
            logger.exception("request %s: %s %s", request_id, scope["method"], printable(scope["path"], 256))
            if status:  # the answer has begun: only the end of the connection says that it is not whole
                raise
            detail = f"the service failed at this request; its log says why, under {request_id}"
            problem = Problem(500, "Internal error", detail, request_id=request_id)
            await problem.response()(scope, receive, named)
        finally:
            # The route, not the path: callers choose paths, and each would be a series of its own.
            route = getattr(scope.get("route"), "path", "none")
            self._registry.inc("weir_http_requests_total", route=route, status=str(status))


def _bounded(receive: Receive) -> Receive:
    """What a request brings, up to ``_BODY_BYTES``: FastAPI reads a whole body before it asks who sends it."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > _BODY_BYTES:
            # What the router raises, too: FastAPI passes it on from where it reads, and any other error it would hide.
            detail = f"the body has more than {_BODY_BYTES:,} bytes; send less at once"
            raise HTTPException(413, detail, {"Connection": "close"})
        return message

    return bounded


def _health() -> Response:
    return answer({"status": "alive", "version": version("weir")})


def _ready(request: Request) -> Response:
    service: Service = request.app.state.service
    reasons = service.serving.ready()
    service.metrics.set("weir_ready", not reasons)
    document = {"ready": not reasons, "reasons": reasons, **service.serving.describe()}
    return answer(document, 503 if reasons else 200)


def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    # Asked now: where nobody looks at /ready, the figure would be of long ago.
    service.metrics.set("weir_ready", not service.serving.ready())
    return Response(request.app.state.exposition.render(), media_type=CONTENT_TYPE)


async def _told(problem_of: Callable[[Request, Any], Problem], request: Request, error: Exception) -> Response:
    """What is wrong: a page where a person asked for one, problem+json for programs."""
    problem, console = problem_of(request, error), request.app.state.service.console
    if console is not None and console.answers(request):
        return cast(Response, console.problem(request, problem))
    return problem.response()


def _unreachable(_: Request, error: Exception) -> Problem:
    return OverloadError(str(error))


def _database_away(request: Request, error: Exception) -> Problem:
    path = printable(request.url.path, 256)
    logger.error("%s %s: %s", request.method, path, in_words(error).splitlines()[0])
    return DatabaseAway(error)


def _refused(request: Request, refused: HTTPException) -> Problem:
    """What the router itself refuses: no such path, another method."""
    detail = f"{request.method} {request.url.path[:256]}: {refused.detail}"
    if refused.status_code == 404:
        detail += "; GET /openapi.json lists what there is"
    elif allowed := (refused.headers or {}).get("Allow"):
        detail += f"; it takes {allowed}"
    title = HTTPStatus(refused.status_code).phrase.capitalize()
    return Problem(refused.status_code, title, detail, headers=refused.headers)


def _invalid(request: Request, error: RequestValidationError) -> Problem:
    # The first word of `loc` is FastAPI's, such as query or body; the others are the caller's own names.
    first: dict[str, Any] = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    if not where and "json" not in request.headers.get("content-type", ""):  # curl -d calls everything a form
        detail = "the body is none that is called JSON; send a JSON object with Content-Type: application/json"
        return Problem(422, "Not valid", detail, parameter="body", value=request.headers.get("content-type"))
    where = where or "body"
    value = first.get("input")
    # Not what holds other values: of a missing field the input is the whole body.
    shown = value if isinstance(value, str | int | float | bool) else None
    return Problem(422, "Not valid", f"{where}: {first['msg']}", parameter=where, value=shown)


_PLACES: Final = {
    "/console/": "pages for people",
    "/v1/me": "who you are here, and what that allows",
    "/v1/tasks": "the tasks that it serves, and how well they do",
    "/v1/alerts": "alerts",
    "/v1/feed": "what happens, live (server-sent events)",
    "/openapi.json": "every route, with examples",
    "/health": "whether it is alive",
    "/ready": "whether it can take events, and if not, why",
    "/metrics": "figures for Prometheus",
}
_DOCS: Final = "docs/SERVE.md of its source says how to use it; weir send, weir feed and weir alerts talk to it."


def front_page(request: Request) -> Response:
    """The console for browsers, JSON for programs; says nothing that one would have to sign on for."""
    if "text/html" in request.headers.get("accept", "") and request.app.state.service.console is not None:
        return RedirectResponse("/console/", 303)
    return answer({"name": f"Weir {version('weir')}", "docs": _DOCS, "places": _PLACES})


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
        response: Response = await self._usual.endpoint(request=request, **{name: await check(request)}, **parameters)
        return response
