"""Runs the service's application: listens, says where, and stops cleanly."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Final

import uvicorn
import uvloop

from weir.streams.config.serve_settings import ServeSettings
from weir.streams.errors import UsageError
from weir.streams.ops.signals import stop_signals
from weir.streams.service.app import create_app
from weir.streams.service.service import Service

_FAULT: Final = 1
"""Exit status after a fault of the tasks: a supervisor starts the process again."""
_STALLED_S: Final = 60.0
"""After so long without reading, a peer that has something to read is cut off."""
_DRAIN_S: Final = 10
"""So long requests may take to end when the service stops."""


def _say(link: str) -> None:
    print(f"ready: {link}", file=sys.stderr, flush=True)


class Server(uvicorn.Server):
    """Ends also when the service can not go on, and lets its parts end long answers first.

    Parameters
    ----------
    config, service : what is served, and how.
    tell : given the link that people open, as soon as it can be opened.
    """

    def __init__(self, config: uvicorn.Config, service: Service, tell: Callable[[str], None] = _say) -> None:
        super().__init__(config)
        self._service, self._tell = service, tell

    def stop(self) -> None:
        """Ask for a clean stop."""
        self.should_exit = True

    async def serve_at(self, bound: socket.socket) -> None:
        """Serve a service that has started until it is to stop."""
        bound.listen(self.config.backlog)  # who is given the link may connect at once
        await self.serve([bound])

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Signals are caught around the start and the stop of the service, too: see `serving`."""
        return nullcontext()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; whether to end."""
        return await super().on_tick(counter) or bool(self._service.fault)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and only then say so: who reads that line connects at once."""
        await super().startup(sockets)
        # Asked of the socket: port 0 in the settings is whichever was free.
        port = self.servers[0].sockets[0].getsockname()[1]
        self._tell(self._service.access.link(port))
        if self._service.console is not None:
            # After it listens, and beside it: no start waits for the templates, and mostly no visitor either.
            asyncio.get_running_loop().run_in_executor(None, self._service.console.pages.compile_all)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connection, end what would never end by itself, wait for the rest."""
        # First the doors: who is told by `drain` to connect again would come back to this process.
        for server in self.servers:
            server.close()
        await self._service.drain()
        await super().shutdown(sockets)


def run_service(service: Service, settings: ServeSettings) -> int:
    """Serve until SIGTERM or Ctrl-C, once for a clean stop, twice for the end; the exit status.

    Raises ``UsageError`` where the address can not be had, and what the log says when it cannot be opened.
    """
    with listening(settings.host, settings.port) as bound, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(service, settings, bound))


async def _serve(service: Service, settings: ServeSettings, bound: socket.socket) -> int:
    server = Server(configured(service, settings), service)
    with stop_signals(asyncio.get_running_loop(), server.stop) as caught:
        gc.freeze()
        # Not by the application's lifespan: an error at the start is told in words, not by a traceback of the server.
        async with service:
            # What imports and the start have made stays until the end.
            gc.freeze()
            await server.serve_at(bound)
    return _FAULT if service.fault else caught.status


def configured(service: Service, settings: ServeSettings) -> uvicorn.Config:
    """The server: uvloop and httptools, TLS where it is set, ``X-Forwarded-*`` from trusted proxies alone."""
    return uvicorn.Config(
        create_app(service), http="httptools", ws="none", lifespan="off", log_config=None,
        log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=_DRAIN_S,
        ssl_certfile=settings.tls_cert, ssl_keyfile=settings.tls_key,
        proxy_headers=bool(settings.trusted_proxies), forwarded_allow_ips=list(settings.trusted_proxies),
    )  # fmt: skip


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to the address; raises ``UsageError`` where that can not be had."""
    with ExitStack() as undo:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = undo.enter_context(socket.socket(family, kind, proto))
            # A service that is started again does not wait until the system forgets the connections of the one before.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sys.platform == "linux":
                # What is accepted inherits it: a peer that reads nothing for so long holds no buffer of ours any more.
                bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_STALLED_S * 1000))
            bound.bind(address)
        except OSError as error:
            raise UsageError(
                f"cannot listen at {host}:{port}: {error.strerror}; give another address by --host and --port (0 takes "
                "a free port), or stop what listens there"
            ) from error
        undo.pop_all()
        return bound
