"""The thinnest whole path: an event over HTTP becomes a prediction in the log."""

from __future__ import annotations

from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient

from weir.streams.config.settings import Settings
from weir.streams.records import RecordBatch
from weir.streams.service.app import create_app
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.task_files import load_task

pytestmark = pytest.mark.anyio
TASK = Path(__file__).parents[2] / "streams" / "demo" / "tasks" / "fraud.toml"
EVENT = {"v": 1, "event_id": "e1", "type": "purchase", "user_id": "u1", "ts": 1.7e9, "amount": 9.5, "merchant_id": "m"}


async def test_an_event_becomes_a_prediction(tmp_path: Path) -> None:
    settings = Settings.model_validate({"serve": {"directory": str(tmp_path)}})
    service = embedded_service(settings, [load_task(TASK)])
    seen: list[RecordBatch] = []
    service.log.subscribe(["predictions"], seen.append)
    app = create_app(service)
    async with service, AsyncClient(transport=ASGITransport(app), base_url="http://weir") as client:
        answer = await client.post("/v1/events", json=EVENT)
        assert answer.json()["accepted"] == 1
        assert (await client.get("/ready")).json()["ready"]
    assert b'"event_id":"e1"' in seen[0].records[0].value
