"""Services for tests: in this process behind httpx, or listening on a socket of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from httpx import ASGITransport, AsyncClient

from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings
from weir.streams.service.app import create_app
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.service.service import Service
from weir.streams.task_files import load_task

TASKS = Path(__file__).parents[2] / "streams" / "demo" / "tasks"
EVENT = {"v": 1, "event_id": "e1", "type": "purchase", "user_id": "u1", "ts": 1.7e9, "amount": 9.5, "merchant_id": "m"}
READING = {"v": 1, "event_id": "d1", "device_id": "p1", "ts": 1.7e9, "metrics": {"temp": 21.5}}


def make_service(directory: Path, *tasks: str | TaskSpec, **settings: Any) -> Service:
    """The embedded service of some tasks, the demo's by name; ``settings`` are tables of the file."""
    serve = {"directory": str(directory), **settings.pop("serve", {})}
    loaded = [load_task(TASKS / f"{task}.toml") if isinstance(task, str) else task for task in tasks or ("fraud",)]
    return embedded_service(Settings.model_validate({"serve": serve, **settings}), loaded)


@asynccontextmanager
async def running(
    directory: Path, *tasks: str | TaskSpec, **settings: Any
) -> AsyncIterator[tuple[Service, AsyncClient]]:
    """A service that runs, and a client of it."""
    service = make_service(directory, *tasks, **settings)
    transport = ASGITransport(create_app(service), raise_app_exceptions=False)
    async with service, AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        yield service, client


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.listens, self._service = asyncio.Event(), service

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    async def shutdown(self, sockets: Any = None) -> None:
        await self._service.drain()  # feeds would never end by themselves
        await super().shutdown(sockets)


@asynccontextmanager
async def listening(service: Service, port: int = 0) -> AsyncIterator[int]:
    """The service behind a real socket; its port."""
    config = uvicorn.Config(create_app(service), "127.0.0.1", port, log_level="warning", lifespan="on")
    server = _Server(config, service)
    serving = asyncio.create_task(server.serve())
    try:
        await server.listens.wait()
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving
