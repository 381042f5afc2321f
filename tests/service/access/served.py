"""A service whose access is real, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from httpx import ASGITransport, AsyncClient

from weir.streams.config.settings import Settings
from weir.streams.service.app import create_app
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.service.service import Service
from weir.streams.task_files import load_task

TASK = Path(__file__).parents[3] / "streams" / "demo" / "tasks" / "fraud.toml"
EVENT = {"v": 1, "event_id": "e1", "type": "purchase", "user_id": "u1", "ts": 1.7e9, "amount": 9.5, "merchant_id": "m"}
BASE = "http://127.0.0.1:8080"


@asynccontextmanager
async def served(directory: Path, base: str = BASE, **serve: Any) -> AsyncIterator[tuple[Service, AsyncClient]]:
    """It runs, and a browser or program without credentials is there."""
    settings = Settings.model_validate({"serve": {"directory": str(directory), **serve}})
    service = embedded_service(settings, [load_task(TASK)])
    transport = ASGITransport(create_app(service), client=("127.0.0.1", 5))
    async with service, AsyncClient(transport=transport, base_url=base) as client:
        yield service, client


def bearer(secret: str | None) -> dict[str, str]:
    """Headers of a program."""
    return {"authorization": f"Bearer {secret}"}
