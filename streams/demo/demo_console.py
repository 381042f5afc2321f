"""The console of a demo: the service's pages over the demo's own log and tasks, in a thread beside its loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Final, Self, cast

import uvloop

from weir.streams.config.settings import Settings
from weir.streams.demo.demo_engine import DemoEngine
from weir.streams.demo.demo_loop import Demo
from weir.streams.errors import UsageError
from weir.streams.service.embedded.appends import Step
from weir.streams.service.embedded.data_directory import DataDirectory
from weir.streams.service.embedded.embedded_service import EmbeddedServing
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog
from weir.streams.service.embedded.service_engine import Engine
from weir.streams.service.run import Server, configured, listening
from weir.streams.service.service import Service

FOLDER: Final = "console"
"""Of the demo's directory: alerts, who may enter, and the log of the service."""
PORTS: Final = range(8080, 8100)
"""The first free one of these, where none is asked for."""
_HOST: Final = "127.0.0.1"
_LOOK_S: Final = 0.02
_YEARS: Final = 100 * 365 * 86_400.0
"""Alerts of the simulated past are old as soon as they open; they stay."""


class DemoConsole:
    """Serves while the context lasts; the demo's loop has to call ``demo.visitors`` meanwhile.

    Parameters
    ----------
    demo : what is looked at.
    port : where to listen; the first free one of ``PORTS`` when not given.

    Raises
    ------
    UsageError
        The port is taken.
    """

    def __init__(self, demo: Demo, port: int | None = None) -> None:
        self.directory, tasks = demo.directory / FOLDER, [p.task for p in demo.host.pipelines.values()]
        self._demo, self._held, self._bound = demo, DataDirectory(self.directory, tasks), bound_at(port)
        serve = {
            "directory": self.directory,
            "host": _HOST,
            "port": self._bound.getsockname()[1],
            "alerts_kept": _YEARS,
            # The tables may hold alerts of what was cut off the log.
            "rebuild": demo.cut,
        }
        models = {"registry": str(demo.directory / "models"), "provider": "cpu"}
        settings = Settings.model_validate({"serve": serve, "models": models})
        # Not one by inheritance: of the service's engine it has the interface, which a test compares, and no part.
        log = EmbeddedServiceLog(lambda show, _: cast(Engine, self._engine_that(show)))
        self._service = service = Service(settings, tasks, log, EmbeddedServing(log))
        self._server = Server(configured(service, settings.serve), service, self._opened)
        self._thread = threading.Thread(target=self._run, name="weir-console", daemon=True)
        self._error: BaseException | None = None

    def _engine_that(self, show: Callable[[list[Step]], None]) -> DemoEngine:
        self._engine = DemoEngine(self._demo, self._held, show)
        return self._engine

    def __enter__(self) -> Self:
        self._demo.visitors = self._engine
        self._thread.start()
        while not self._demo.link and self._thread.is_alive():
            self._engine.serve(_LOOK_S, threading.Event())  # a start may ask something of the demo
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        while self._thread.is_alive():  # what is answered last is appended, too
            self._engine.serve(_LOOK_S, threading.Event())
        self._demo.visitors = None
        self._demo.checkpoint()

    def _opened(self, link: str) -> None:
        self._demo.link = link

    def _run(self) -> None:
        try:
            # The socket belongs to this thread from here on, and is closed with its loop.
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, self._bound:
                runner.run(self._serving())
        except BaseException as error:  # noqa: BLE001 - raised in the demo's thread
            self._error = error

    async def _serving(self) -> None:
        async with self._service:
            await self._server.serve_at(self._bound)


def bound_at(port: int | None) -> socket.socket:
    """A socket at the port, or at the first free one of ``PORTS``; raises ``UsageError`` where there is none."""
    for candidate in PORTS[:-1] if port is None else ():
        try:
            return listening(_HOST, candidate)
        except UsageError:
            continue
    return listening(_HOST, PORTS[-1] if port is None else port)
