"""The HTTP application of a service: its routes, health, and errors as problem+json."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import cast

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from weir.streams.errors import WeirError
from weir.streams.service.problems import Problem
from weir.streams.service.service import Service


def create_app(service: Service) -> FastAPI:
    """The application; the service starts and stops with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(title="Weir", version=version("weir"), lifespan=lifespan)
    app.state.service = service
    for routed in (*service.parts, *service.views):
        app.include_router(routed.router, prefix="/v1")
    app.add_api_route("/health", _health, include_in_schema=False)
    app.add_api_route("/ready", _ready, include_in_schema=False)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(WeirError, _mistake)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


def _health() -> Response:
    return _json({"status": "alive", "version": version("weir")})


def _ready(request: Request) -> Response:
    service: Service = request.app.state.service
    reasons = service.serving.ready()
    document = {"ready": not reasons, "reasons": reasons, **service.serving.describe()}
    return _json(document, 503 if reasons else 200)


def _json(document: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")


async def _problem(_: Request, error: Exception) -> Response:
    return cast(Problem, error).response()


async def _mistake(_: Request, error: Exception) -> Response:
    return Problem(422, "Not usable", str(error)).response()


async def _invalid(_: Request, error: Exception) -> Response:
    first = cast(RequestValidationError, error).errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    value = first.get("input")
    shown = value if isinstance(value, str | int | float | bool) else None
    return Problem(422, "Not valid", f"{where}: {first['msg']}", parameter=where, value=shown).response()
