"""What every answer has: problems with a name, request ids, metrics; health apart from readiness."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.running import EVENT, running
from weir.streams.errors import BrokerError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "path", "status", "title"),
    [("GET", "/v1/none", 404, "Not found"), ("DELETE", "/v1/events", 405, "Method not allowed")],
)
async def test_the_routers_own_refusals_are_problems(
    method: str, path: str, status: int, title: str, tmp_path: Path
) -> None:
    async with running(tmp_path) as (_, client):
        answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["title"]) == (status, title)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-Id"]


async def broken(*_: object) -> None:
    """What fails in a way that nobody expected."""
    raise RuntimeError("secret inside")


async def test_a_fault_is_told_by_its_request_id_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as (service, client):
        monkeypatch.setattr(service.log, "append", broken)
        answer = await client.post("/v1/events", json=EVENT)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    assert answer.headers["X-Request-Id"] in caplog.text
    assert "secret inside" in caplog.text


async def test_no_path_writes_a_line_of_its_own_into_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as (service, client):
        monkeypatch.setattr(service.serving, "rows", broken)
        assert (await client.get("/v1/entities/u1%0Aall%20is%20well%1b[2J")).status_code == 500
    (told,) = [record.getMessage() for record in caplog.records if record.name == "weir.streams.service.app"]
    assert told.isprintable()
    assert "all is well" in told


async def test_brokers_that_do_not_answer_are_503_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise BrokerError("localhost:9092 does not answer")

    async with running(tmp_path) as (service, client):
        monkeypatch.setattr(service.log, "append", away)
        answer = await client.post("/v1/events", json=EVENT)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "localhost:9092" in answer.json()["detail"]


async def test_requests_and_records_are_counted(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        await client.post("/v1/events", json=[EVENT, EVENT, {}])
        await client.get("/nowhere")
        text = (await client.get("/metrics")).text
    assert 'weir_http_requests_total{route="none",status="404"} 1.0' in text
    for outcome in ("accepted", "repeat", "refused"):
        assert f'weir_intake_records_total{{outcome="{outcome}",route="events"}} 1.0' in text


async def test_a_service_that_is_alive_may_not_be_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as (service, client):
        assert (await client.get("/ready")).status_code == 200
        monkeypatch.setattr(service.serving, "ready", lambda: ["the engine stopped"])
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["the engine stopped"])
        assert (await client.get("/health")).json()["status"] == "alive"
        assert "weir_ready 0.0" in (await client.get("/metrics")).text


async def test_the_document_of_the_api_shows_an_example_of_each_body(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert (await client.get("/docs")).status_code == 404
    for path in ("/v1/events", "/v1/labels"):
        for content in (paths[path]["post"]["requestBody"], paths[path]["post"]["responses"]["200"]):
            assert all("example" in form for form in content["content"].values())


async def test_what_is_asked_wrongly_is_told_how(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        key = {"Authorization": f"Bearer {service.access.token}"}
        slip = await client.get("/v1/alerts?entities=u1", headers=key)
        more = await client.get("/v1/me?x=1", headers=key)
        feed = await client.get("/v1/feed?x=1", headers=key)
        form = {**key, "Content-Type": "application/x-www-form-urlencoded"}
        as_form = await client.post("/v1/retrain", content=b'{"task": "fraud"}', headers=form)
        empty = await client.post("/v1/retrain", headers=key)
        method = await client.get("/v1/decisions", headers=key)
        bare = await client.get("/v1/me", headers={"Authorization": service.access.token or ""})
    assert slip.status_code == more.status_code == feed.status_code == 422
    assert slip.json()["parameter"] == "entities"
    assert "entity" in slip.json()["fix"]
    assert more.json()["fix"] == "give none"
    assert as_form.status_code == empty.status_code == 422
    assert "Content-Type: application/json" in as_form.json()["detail"]
    assert "Content-Type: application/json" in empty.json()["detail"]
    assert method.json()["detail"].endswith("it takes POST")
    assert "Bearer KEY" in bare.json()["detail"]


async def test_the_address_that_is_printed_shows_what_this_is(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        page = await client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
        told = (await client.get("/")).json()
        # What stands there exists; a method that it does not take is asked for, because the feed never ends.
        found = [(await client.put(path)).status_code for path in told["places"]]
    assert (page.status_code, page.headers["Location"]) == (303, "/console/")
    assert set(found) == {405}
