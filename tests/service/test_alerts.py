"""Alerts over HTTP on the embedded service: what people do with them, and what the model makes of it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from sqlalchemy.exc import OperationalError

from tests.service.alert_service import alerts, at, event, every_event_alerts, problem, send, service, topic, until
from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings
from weir.streams.service.app import create_app
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.service.store.projection import Projection

pytestmark = pytest.mark.anyio
ODD = "a/b:c %2F?#ü&=/verdict"
"""An id of a user that does everything to a path."""


async def test_a_verdict_becomes_a_label_an_example_and_a_version_of_the_model(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1), event("u1", 2), event("u2", 3))
        first, second = sorted(await alerts(client, 2), key=lambda alert: alert["entity_id"])
        assert (first["state"], first["event_ids"], first["version"]) == ("open", ["u1-1", "u1-2"], 0)
        answer = await client.post(
            at(first["alert_id"], "verdict"), json={"verdict": "confirmed", "reason": "stolen card", "note": "called"}
        )
        assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
        assert (answer.json()["state"], answer.json()["verdict_by"]) == ("resolved", "admin")
        learned = await until(
            client, at(first["alert_id"]), lambda body: any(change["kind"] == "learned" for change in body["history"])
        )
        (example, again) = await topic(client, "examples")
        assert (example["event_id"], example["value"], again["event_id"]) == ("u1-1", 1, "u1-2")
        assert learned["verdicts"][0]["learned_version"] == 1
        kinds = [change["kind"] for change in learned["history"] if change["kind"] != "learned"]
        assert kinds == ["status", "verdict", "status", "status"]
        (told,) = [event for event in await topic(client, "case-events") if event["action"] == "learned"]
        assert (told["by"], told["alert_id"], told["verdict"], told["version"]) == (
            "weir", first["alert_id"], "confirmed", 1,
        )  # fmt: skip
        assert learned["status"] == "resolved", "the label resolves the alert in the stream too"
        # The model that scores now has learned both labels: it is at the version that the last of them made.
        await send(client, event("u3", 9))
        assert (await topic(client, "predictions"))[-1]["model_version"] == 2
        assert [label["source"] for label in await topic(client, "labels")] == ["case:admin"] * 2
        # The same verdict again is the same labels, which nobody learns twice.
        await client.post(at(first["alert_id"], "verdict"), json={"verdict": "confirmed"})
        ids = [label["label_id"] for label in await topic(client, "labels")]
        assert (len(ids), len(set(ids)), len(await topic(client, "examples"))) == (4, 2, 2)
        # Who is unsure says nothing that could be learned, and leaves the alert as it is.
        answer = await client.post(at(second["alert_id"], "verdict"), json={"verdict": "unsure"})
        assert (answer.json()["state"], answer.json()["verdict"]) == ("open", "unsure")
        assert len(await topic(client, "labels")) == 4


async def test_undo_brings_the_alert_back_and_corrects_the_model(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1))
        (alert,) = await alerts(client, 1)
        path = alert["alert_id"]
        assert (await client.post(at(path, "undo"))).status_code == 409
        await client.post(at(path, "verdict"), json={"verdict": "false_alarm"})
        await client.post(at(path, "verdict"), json={"verdict": "confirmed"})
        back = (await client.post(at(path, "undo"))).json()
        assert (back["state"], back["verdict"]) == ("resolved", "false_alarm")
        gone = (await client.post(at(path, "undo"))).json()
        assert (gone["state"], gone["verdict"], len(gone["verdicts"])) == ("open", None, 2)
        assert (await client.post(at(path, "undo"))).status_code == 409
        again = (await client.post(at(path, "verdict"), json={"verdict": "false_alarm"})).json()
        assert again["state"] == "resolved"
        examples = [(e["value"], e.get("correction", False)) for e in await topic(client, "examples")]
        assert examples == [(0, False), (1, True), (0, True), (1, True), (0, True)]
        sources = {label["source"] for label in await topic(client, "labels")}
        assert sources == {"case:admin", "undo:admin"}


async def test_a_false_alarm_of_more_events_than_are_listed_resolves_in_the_stream(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, *(event("u1", n) for n in range(30)))
        worst = lambda body: body["alerts"] and body["alerts"][0]["severity"] == "critical"  # noqa: E731
        (alert,) = (await until(client, "/v1/alerts", worst))["alerts"]
        await client.post(at(alert["alert_id"], "verdict"), json={"verdict": "false_alarm"})
        await until(client, at(alert["alert_id"]), lambda body: body["status"] == "resolved")
        assert len(await topic(client, "examples")) == 20


async def test_a_reason_is_one_of_the_task_where_it_lists_some(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1))
        (alert,) = await alerts(client, 1)
        cases = client.store.cases  # type: ignore[attr-defined]
        document = every_event_alerts().model_dump() | {"alerts": {"verdict_reasons": ["stolen card"]}}
        cases._tasks = {"fraud": TaskSpec.model_validate(document)}
        said = {"verdict": "confirmed", "reason": "whim", "alert_ids": [alert["alert_id"]]}
        assert "give one of stolen card, or none" in await problem(
            await client.post("/v1/alerts/verdicts", json=said), 422
        )
        answer = await client.post("/v1/alerts/verdicts", json=said | {"reason": "stolen card"})
        assert answer.json()["results"][0]["status"] == "done"


async def test_many_verdicts_are_undone_at_once(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, *(event(f"u{n}", n) for n in range(5)))
        *ids, other = [alert["alert_id"] for alert in await alerts(client, 5)]
        await client.post("/v1/alerts/verdicts", json={"verdict": "false_alarm", "alert_ids": ids})
        answer = await client.post("/v1/alerts/undo", json={"alert_ids": [*ids, other, "none"]})
        statuses = [each["status"] for each in answer.json()["results"]]
        assert statuses == [*["done"] * 4, "refused", "unknown"]
        assert len(await alerts(client, 5, state="open", verdict="none")) == 5
        last = {example["event_id"]: example["value"] for example in await topic(client, "examples")}
        assert list(last.values()) == [1] * 4, "each is corrected"


@pytest.mark.parametrize("user", [ODD, "x/undo", "..", "/", "//"])
async def test_an_id_may_hold_anything(tmp_path: Path, user: str) -> None:
    async with service(tmp_path) as client:
        await send(client, event(user, 1))
        (alert,) = await alerts(client, 1)
        assert alert["entity_id"] == user
        for action, said in (
            ("notes", {"note": "a\nb"}),
            ("hold", {"for_s": "4h"}),
            ("verdict", {"verdict": "unsure"}),
        ):
            answer = await client.post(at(alert["alert_id"], action), json=said)
            assert answer.status_code == 200, answer.text
        answer = await client.post(at(alert["alert_id"], "undo"))
        assert (answer.json()["alert_id"], answer.json()["verdict"]) == (alert["alert_id"], None)
        assert [c["kind"] for c in answer.json()["history"]] == ["undo", "verdict", "hold", "note", "status"]


async def test_many_alerts_get_one_verdict(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, *(event(f"u{n}", n) for n in range(40)))
        ids = [alert["alert_id"] for alert in await alerts(client, 40)]
        answer = await client.post("/v1/alerts/verdicts", json={"verdict": "false_alarm", "alert_ids": [*ids, "none"]})
        results = {each["alert_id"]: each["status"] for each in answer.json()["results"]}
        assert results == {**dict.fromkeys(ids, "done"), "none": "unknown"}
        assert len(await alerts(client, 40, state="resolved", verdict="false_alarm")) == 40


async def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        assert "no alert nix" in await problem(await client.get("/v1/alerts/nix"), 404)
        assert "no alert nix" in await problem(await client.post("/v1/alerts/nix/undo"), 404)
        assert "cursor" in await problem(await client.get("/v1/alerts?cursor=%20x"), 422)
        assert "limit" in await problem(await client.get("/v1/alerts?limit=501"), 422)
        assert "sort" in await problem(await client.get("/v1/alerts?sort=x"), 422)
        await send(client, event("u1", 1))
        (alert,) = await alerts(client, 1)
        path = alert["alert_id"]
        assert "verdict" in await problem(await client.post(at(path, "verdict"), json={"verdict": "maybe"}), 422)
        assert "note" in await problem(await client.post(at(path, "notes"), json={"note": "\0"}), 422)
        assert "no alert" in await problem(await client.get("/v1/alerts/%00"), 404)
        assert "entity" in await problem(await client.get("/v1/alerts?entity=%00"), 422)
    other = Settings.model_validate({"serve": {"directory": str(tmp_path)}})
    made = embedded_service(other, [every_event_alerts()])
    made.store.cases._tasks = {}
    async with made, AsyncClient(transport=ASGITransport(create_app(made)), base_url="http://weir") as client:
        answer = await client.post(at(alert["alert_id"], "verdict"), json={"verdict": "confirmed"})
        assert "task fraud, which does not run here" in await problem(answer, 409)


async def test_alerts_are_there_after_a_restart_and_after_a_rebuild(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1), event("u2", 2))
        first, _ = await alerts(client, 2)
        await client.post(at(first["alert_id"], "verdict"), json={"verdict": "confirmed", "note": "n"})

        def told(body: dict[str, Any]) -> bool:
            return any(change["kind"] == "learned" for change in body["history"])

        before = await until(client, at(first["alert_id"]), told)
    for options in ({}, {"rebuild": True}):
        async with service(tmp_path, **options) as client:
            after = await until(
                client, at(first["alert_id"]), lambda b: b["verdicts"] and b["verdicts"][0]["learned_at"] and told(b)
            )
            assert after == before
            assert [e["action"] for e in await topic(client, "case-events")] == ["verdict", "learned"]  # told once


async def test_lists_are_sorted_filtered_searched_and_cut_into_pages(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, *(event(f"u{n}", n, amount=float(97 * n % 50 + 1)) for n in range(23)))
        everything = await alerts(client, 23, limit=100)
        keys = {"newest": "opened_at", "score": "score", "expected_loss": "expected_loss", "severity": "score"}
        for sort, key in keys.items():
            got: list[dict[str, Any]] = []
            cursor = ""
            while True:
                page = (await client.get(f"/v1/alerts?sort={sort}&limit=5{cursor}")).json()
                assert page["total"] == (None if cursor else 23)
                got += page["alerts"]
                if page["next"] is None:
                    break
                cursor = f"&cursor={page['next']}"
            assert len({alert["alert_id"] for alert in got}) == 23
            assert [a[key] for a in got] == sorted((a[key] for a in everything), reverse=True)
        assert [a["entity_id"] for a in await alerts(client, 1, q="u7")] == ["u7"]
        assert [a["entity_id"] for a in await alerts(client, 1, q="u7-7")] == ["u7"]
        middle = everything[11]["opened_at"]
        assert len(await alerts(client, 12, since=middle)) == 12
        assert len(await alerts(client, 11, until=middle)) == 11
        assert await alerts(client, 0, min_score=1.0) == []
        assert len(await alerts(client, 23, task="fraud", severity="low", verdict="none", limit=500)) == 23


async def test_a_list_that_is_not_whole_after_a_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1))
        await alerts(client, 1)
    for table in ("alerts.db", "alerts.db-wal", "alerts.db-shm"):
        (tmp_path / table).unlink(missing_ok=True)
    may, real = threading.Event(), Projection.write
    monkeypatch.setattr(Projection, "write", lambda *given: may.wait(10) and real(*given))
    async with service(tmp_path, whole=False) as client:
        answer = (await client.get("/v1/alerts")).json()
        assert answer["alerts"] == []
        assert answer["trouble"].endswith("the list is not whole yet")
        one = await client.get("/v1/alerts/fraud:u1:u1-1")
        assert (one.status_code, one.headers["Retry-After"]) == (503, "2")
        may.set()
        assert (await until(client, "/v1/alerts", lambda answer: answer["trouble"] is None))["total"] == 1


async def test_what_keeps_the_database_from_being_written_is_told_until_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(tmp_path) as client:
        projector = client.store.projector  # type: ignore[attr-defined]
        real, told = projector._projection.write, list[str | None]()

        def write(*given: Any) -> bool:
            told.append(projector.trouble)
            if len(told) < 4:
                raise OperationalError("INSERT", {}, sqlite3.OperationalError("disk I/O error"))
            return bool(real(*given))

        monkeypatch.setattr(projector._projection, "write", write)
        await send(client, event("u1", 1))
        await alerts(client, 1)
        assert told[0] is None
        assert told[2] == told[1]
        assert "alerts are not written to the database" in str(told[2])
        assert "disk I/O error" in str(told[2])
        await until(client, "/v1/alerts", lambda answer: answer["trouble"] is None)
    said = [record for record in caplog.records if record.name.endswith("projector")]
    assert [record.levelname for record in said] == ["WARNING", "WARNING"], "once when it begins, once when it is over"
    assert said[0].getMessage() == f"{told[1]}; trying again"
    assert "alerts are not written to the database: that is over; it failed 3 times" in said[1].getMessage()


async def test_what_nobody_thought_of_ends_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = embedded_service(Settings.model_validate({"serve": {"directory": str(tmp_path)}}), [every_event_alerts()])
    monkeypatch.setattr(made.store.projector, "catch_up", lambda: 1 / 0)
    async with made:
        running = made.store._running
        assert running is not None
        await asyncio.wait([running])
        assert made.fault == "alerts are not written any more: ZeroDivisionError: division by zero"
