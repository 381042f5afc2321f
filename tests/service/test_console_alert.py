"""The pages of one alert and of one entity, and the score behind an alert."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.service.running import running
from tests.service.test_alerts import event, every_event_alerts, send, until
from weir.streams.errors import UsageError
from weir.streams.service.views.alert_scores import AlertScores

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def alerting(folder: Path, *events: dict[str, Any], **settings: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A service in which each of the events opened, or joined, an alert."""
    async with running(folder, every_event_alerts(), **settings) as (service, client):
        client.store = service.store  # type: ignore[attr-defined]
        await send(client, *events)
        users = {event["user_id"] for event in events}
        await until(client, "/v1/alerts", lambda body: len(body["alerts"]) == len(users))
        yield service, client


async def alert_of(service: Any, client: Any, user: str) -> Any:
    """The row of a user's alert."""
    (found,) = (await client.get("/v1/alerts", params={"entity": user})).json()["alerts"]
    return await service.store.cases.row(found["alert_id"], None)


async def judge(client: Any, row: Any, verdict: str) -> None:
    """Give a verdict, and wait until the model has learned it."""
    path = f"/v1/alerts/{row.alert_id}"
    assert (await client.post(f"{path}/verdict", json={"verdict": verdict})).status_code == 200
    await until(client, path, lambda body: body["verdicts"][0]["learned_version"])


async def test_a_score_is_made_again_bit_for_bit_and_by_the_model_of_now(tmp_path: Path) -> None:
    async with alerting(tmp_path, *(event(f"u{n}", n, amount=10.0 * n) for n in range(4))) as (service, client):
        scores = AlertScores(service)
        row = await alert_of(service, client, "u2")
        before = await scores.now(row)
        assert before.score == before.before == row.score
        await judge(client, await alert_of(service, client, "u3"), "confirmed")
        await send(client, event("late", 9, amount=35.0))
        late = (await until(client, "/v1/alerts?entity=late", lambda body: body["alerts"]))["alerts"][0]
        row = await service.store.cases.row(late["alert_id"], None)
        await judge(client, row, "confirmed")
        rebuilt = await scores.again(row)
        assert (rebuilt.explained.equal, rebuilt.explained.logged.model_version, rebuilt.start) == (True, 1, 0)
        assert rebuilt.explained.score == row.score
        now = await scores.now(row)
        assert now.version == 2
        assert now.score > now.before == row.score, "confirmed twice, the model finds it more likely"


async def test_why_a_score_is_not_to_be_had_is_said(tmp_path: Path) -> None:
    async with alerting(tmp_path, event("u1", 1)) as (service, client):
        row = await alert_of(service, client, "u1")
        row.score += 0.01
        with pytest.raises(UsageError, match="retention deleted it"):
            await AlertScores(service).now(row)
