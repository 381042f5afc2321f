"""Tasks, entities, models, retraining and dead letters over HTTP, on the embedded service."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient

from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings
from weir.streams.outputs import dead_letter
from weir.streams.records import Record, RefusedRecord
from weir.streams.service.app import create_app
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.task_files import load_task

pytestmark = pytest.mark.anyio
TASKS = Path(__file__).parents[2] / "streams" / "demo" / "tasks"
NOW = time.time()
OF_ANY_KEY = """
name = "any"
entity = "seen"
inputs = ["seen.*"]
[[entities]]
name = "seen"
key = "KEY"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean"], windows = ["1d"] }]
anomalies = [{ name = "odd", value = "amount" }]
labels = [{ name = "risk", ops = ["share"], windows = ["7d"], prior = 2, prior_share = 0.2 }]
[model]
kind = "logistic"
"""


def event(n: int, **more: Any) -> dict[str, Any]:
    return {
        "v": 1, "event_id": f"e{n}", "type": "purchase", "user_id": "u1", "merchant_id": "m", "amount": 9.5 + n,
        "ts": NOW - 600 + n, **more,
    }  # fmt: skip


@asynccontextmanager
async def running(folder: Path, task: TaskSpec | None = None) -> AsyncIterator[tuple[Any, AsyncClient]]:
    settings = Settings.model_validate(
        {"serve": {"directory": str(folder)}, "models": {"registry": str(folder / "models")}}
    )
    service = embedded_service(settings, [task or load_task(TASKS / "fraud.toml")])
    transport = ASGITransport(create_app(service))
    async with service, AsyncClient(transport=transport, base_url="http://weir") as client:
        yield service, client


async def test_an_entity_has_features_and_scores(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        for n in range(3):
            await client.post("/v1/events", json=event(n))
        found = (await client.get("/v1/entities/u1")).json()
        assert [score["event_id"] for score in found["scores"]] == ["e2", "e1", "e0"]
        features = next(t["features"] for t in found["tables"] if t["key"] == "user_id")
        assert 3.0 in features.values()  # a count of its events
        missing = await client.get("/v1/entities/nobody")
        assert missing.status_code == 404
        assert missing.headers["content-type"] == "application/problem+json"
        assert missing.json()["value"] == "nobody"


@pytest.mark.parametrize(("key", "entity"), [("*", "*"), ("merchant_id", "m")])
async def test_one_process_scores_any_entity_also_one_that_kafka_has_no_partition_for(
    tmp_path: Path, key: str, entity: str
) -> None:
    task = TaskSpec.from_toml(OF_ANY_KEY.replace("KEY", key))
    async with running(tmp_path, task) as (_, client):
        for n in range(3):
            assert (await client.post("/v1/events", json=event(n, user_id=f"u{n}"))).status_code == 200
        found = (await client.get(f"/v1/entities/{entity}")).json()
    assert [score["event_id"] for score in found["scores"]] == ["e2", "e1", "e0"]
    features = next(t["features"] for t in found["tables"] if t["table"] == "any.seen")
    assert features == {"seen.amount_count_1d": 3.0, "seen.amount_mean_1d": 10.5}


async def test_tasks_tell_their_file_and_their_metrics(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        await client.post("/v1/events", json=event(1))
        (task,) = (await client.get("/v1/tasks")).json()["tasks"]
        assert (task["task"], task["stream"], set(task["metrics"])) == (
            "fraud", "user-events", {"cumulative", "rolling", "fading"},
        )  # fmt: skip
        assert (await client.get("/v1/tasks/fraud")).json()["file"]["name"] == "fraud"
        wrong = await client.get("/v1/tasks/fruad")
        assert (wrong.status_code, "did you mean 'fraud'" in wrong.json()["detail"]) == (404, True)


async def test_a_person_asks_for_a_new_model(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        asked = await client.post("/v1/retrain", json={"task": "fraud", "reason": "new cards"})
        assert asked.status_code == 202, asked.text
        (request,) = (await client.get("/v1/retraining")).json()["requests"]
        assert (request["request_id"], request["cause"]) == (asked.json()["request_id"], "manual")
        assert "new cards" in request["text"]
        assert (await client.get("/v1/drift")).json() == {"drift": []}


async def test_no_version_is_no_error_but_moving_one_is(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        assert (await client.get("/v1/models")).json() == {"models": []}
        assert (await client.get("/v1/models/fraud/3")).status_code == 404
        assert (await client.post("/v1/models/fraud/rollback", json={})).status_code == 422
        assert (await client.post("/v1/models/fraud/3/stage", json={"to": "king"})).status_code == 422


async def test_a_dead_letter_is_listed_shown_replayed_once(tmp_path: Path) -> None:
    raw = b'{"v":1,"event_id":"late","type":"purchase","user_id":"u9","ts":%d,"amount":1}' % NOW
    async with running(tmp_path) as (service, client):
        refused = RefusedRecord(7, "late: 4000 s behind", Record(b"u9", raw, NOW))
        await service.log.append("dead-letters", [dead_letter("user-events", 0, refused, NOW, 1 << 20)])
        listed = (await client.get("/v1/dead-letters")).json()
        assert (listed["total"], listed["groups"][0]["count"]) == (1, 1)
        letter = listed["letters"][0]["id"]
        shown = (await client.get(f"/v1/dead-letters/{letter}")).json()
        assert (shown["text"], shown["done"]) == (raw.decode(), None)
        assert (await client.post("/v1/dead-letters/replay", json={"ids": [letter]})).json() == {"replayed": 1}
        assert (await client.get("/v1/entities/u9")).json()["scores"][0]["event_id"] == "late"
        again = await client.post("/v1/dead-letters/replay", json={"ids": [letter]})
        assert again.status_code == 404
        assert (await client.get(f"/v1/dead-letters/{letter}")).json()["done"]["action"] == "replayed"


async def test_letters_are_dropped_by_their_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        for n in range(3):
            refused = RefusedRecord(n, "not JSON" if n else "late", Record(b"", b"{", NOW))
            await service.log.append("dead-letters", [dead_letter("user-events", 0, refused, NOW, 1 << 20)])
        assert (await client.post("/v1/dead-letters/drop", json={"reason": "json"})).json() == {"dropped": 2}
        assert (await client.get("/v1/dead-letters")).json()["total"] == 1
        assert (await client.get("/v1/dead-letters", params={"done": True})).json()["total"] == 3
        assert (await client.post("/v1/dead-letters/drop", json={})).status_code == 422


async def test_an_entity_may_have_a_slash_in_its_name(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        await client.post("/v1/events", json=event(1, user_id="shop/1"))
        found = (await client.get("/v1/entities/shop%2F1")).json()
    assert (found["entity"], len(found["scores"])) == ("shop/1", 1)


async def test_a_number_of_a_query_has_an_end(tmp_path: Path) -> None:
    """Databases have no one answer for NaN: as NULL it finds nothing, as a number it is larger than all."""
    async with running(tmp_path) as (_, client):
        paths = (await client.get("/openapi.json")).json()["paths"]
        asked = [
            (path, given["name"])
            for path, methods in paths.items()
            for given in methods.get("get", {}).get("parameters", ())
            if "number" in {each.get("type") for each in (given["schema"], *given["schema"].get("anyOf", ()))}
        ]
        assert len(asked) >= 3
        for path, name in asked:
            for value in ("nan", "inf", "-inf"):
                answer = await client.get(path, params={name: value})
                assert answer.status_code == 422, (path, name, value, answer.status_code)
