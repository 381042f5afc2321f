"""What a person sees who opens the address of the service: what it is, and where to go on."""

from __future__ import annotations

from html import escape
from importlib.metadata import version
from typing import Final

import msgspec
from fastapi import Request, Response

_PLACES: Final = {
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
    """A short page for browsers, JSON for programs; says nothing that one would have to sign on for."""
    name = f"Weir {version('weir')}"
    if "text/html" not in request.headers.get("accept", ""):
        document = {"name": name, "docs": _DOCS, "places": _PLACES}
        return Response(msgspec.json.encode(document), media_type="application/json")
    rows = "".join(f'<li><a href="{path}">{path}</a>: {escape(what)}</li>' for path, what in _PLACES.items())
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
    return Response(f"{head}<h1>{name}</h1><p>{escape(_DOCS)}</p><ul>{rows}</ul></html>", media_type="text/html")
