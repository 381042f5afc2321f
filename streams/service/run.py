"""Runs the service's application: listens, says where, and stops cleanly."""

from __future__ import annotations

import sys

import uvicorn

from weir.streams.config.settings import Settings
from weir.streams.service.app import create_app
from weir.streams.service.service import Service


def run_service(service: Service, settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    serve = settings.serve
    config = uvicorn.Config(create_app(service), serve.host, serve.port, log_level="warning", lifespan="on")
    print(f"Weir: {service.access.link()}", file=sys.stderr)
    uvicorn.Server(config).run()
