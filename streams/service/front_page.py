"""What is at the address of the service: the way to the console for people, and what there is for programs."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

import msgspec
from fastapi import Request, Response
from starlette.responses import RedirectResponse

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
    document = {"name": f"Weir {version('weir')}", "docs": _DOCS, "places": _PLACES}
    return Response(msgspec.json.encode(document), media_type="application/json")
