"""An embedded service in which every event opens an alert, and what its tests ask of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from httpx import ASGITransport, AsyncClient, Response

from tests.service.test_thin import TASK
from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings
from weir.streams.records import RecordBatch
from weir.streams.service.app import create_app
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.service.store.alert_requests import name_of
from weir.streams.task_files import load_task


def every_event_alerts() -> TaskSpec:
    document = load_task(TASK).model_dump() | {"threshold": {"kind": "fixed", "value": 0.0}}
    document["labels"]["negative_rate"] = 1.0  # all that is labelled is learned
    return TaskSpec.model_validate(document)


def event(user: str, n: int, **more: Any) -> dict[str, Any]:
    ts = time.time() - 3600 + n
    return {
        "v": 1, "event_id": f"{user[:4]}-{n}", "type": "purchase", "user_id": user, "ts": ts, "amount": 10.0 + n,
        "merchant_id": "m", **more,
    }  # fmt: skip


@asynccontextmanager
async def service(directory: Path, *, whole: bool = True, **serve: Any) -> AsyncIterator[AsyncClient]:
    settings = Settings.model_validate({"serve": {"directory": str(directory), **serve}})
    made = embedded_service(settings, [every_event_alerts()])
    async with made, AsyncClient(transport=ASGITransport(create_app(made)), base_url="http://weir") as client:
        client.log = made.log  # type: ignore[attr-defined]
        client.store = made.store  # type: ignore[attr-defined]
        if whole:
            await until(client, "/v1/alerts", lambda answer: answer["trouble"] is None)
        yield client


async def send(client: AsyncClient, *events: dict[str, Any]) -> None:
    answer = await client.post("/v1/events", json=list(events))
    assert answer.json()["accepted"] == len(events), answer.text


async def until(client: AsyncClient, path: str, holds: Any) -> Any:
    """What a route answers once it is so; each record that is written is a new look."""
    while True:
        wrote = client.store.projector.wrote  # type: ignore[attr-defined]
        answer = await client.get(path)
        if answer.status_code == 200 and holds(answer.json()):
            return answer.json()
        await wrote.wait()


async def alerts(client: AsyncClient, n: int, **query: Any) -> list[dict[str, Any]]:
    path = "/v1/alerts?" + "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
    found: list[dict[str, Any]] = (await until(client, path, lambda body: len(body["alerts"]) == n))["alerts"]
    return found


def at(alert_id: str, action: str = "") -> str:
    return f"/v1/alerts/{quote(alert_id, safe='')}" + (f"/{action}" if action else "")


async def topic(client: AsyncClient, name: str) -> list[dict[str, Any]]:
    batches: list[RecordBatch] = await client.log.read(name, 0, 0)  # type: ignore[attr-defined]
    return [msgspec.json.decode(record.value) for batch in batches for record in batch.records]


@contextmanager
def person(client: AsyncClient, name: str) -> Iterator[None]:
    """What the client asks is asked by somebody else."""
    app = client._transport.app  # type: ignore[attr-defined]
    app.dependency_overrides[name_of] = lambda: name
    yield
    app.dependency_overrides.clear()


async def problem(answer: Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    detail: str = answer.json()["detail"]
    return detail
