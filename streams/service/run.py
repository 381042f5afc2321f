"""Runs the service's application: listens, says where, and stops cleanly."""

from __future__ import annotations

import socket
import sys

import uvicorn

from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError
from weir.streams.service.app import create_app
from weir.streams.service.service import Service


class _Server(uvicorn.Server):
    """Also ends when the service can not go on."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; whether to end."""
        return await super().on_tick(counter) or bool(self._service.fault)


def run_service(service: Service, settings: Settings) -> int:
    """Serve until SIGTERM or Ctrl-C, once for a clean stop; the exit status. Raises ``UsageError`` for the address."""
    serve = settings.serve
    config = uvicorn.Config(
        create_app(service), loop="uvloop", http="httptools", log_config=None, log_level="warning", lifespan="on",
    )  # fmt: skip
    with listening(serve.host, serve.port) as bound:
        print(f"Weir: {service.access.link(bound.getsockname()[1])}", file=sys.stderr)
        server = _Server(config, service)
        server.run([bound])
    return 0 if server.started and not service.fault else 1


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to the address; raises ``UsageError`` where that can not be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise UsageError(
            f"cannot listen at {host}:{port}: {error.strerror}; give another address by --host and --port (0 takes a "
            "free port), or stop what listens there"
        ) from error
    return bound
