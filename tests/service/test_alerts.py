"""Alerts over HTTP on the embedded service: what people do with them, and what the model makes of it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from httpx import ASGITransport, AsyncClient, Response
from sqlalchemy.exc import OperationalError

from tests.service.store_records import alert
from tests.service.test_thin import TASK
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.records import RecordBatch
from weir.streams.service.access.caller import Caller
from weir.streams.service.app import create_app
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_requests import name_of
from weir.streams.service.store.aside_routes import (
    PRESENT_S,
    ViewSaid,
    be_present,
    delete_view,
    save_view,
    views_of,
)
from weir.streams.service.store.projection import Projection
from weir.streams.task_files import load_task

pytestmark = pytest.mark.anyio
ODD = "a/b:c %2F?#ü&=/verdict"
"""An id of a user that does everything to a path."""


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


async def test_who_has_claimed_an_alert_is_told_to_others(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1))
        (alert,) = await alerts(client, 1)
        path = at(alert["alert_id"], "assign")
        claimed = (await client.post(path, json={"assignee": "ben", "for_s": "1h"})).json()
        assert (claimed["assignee"], claimed["claimed_until"] > time.time() + 3500) == ("ben", True)
        answer = await client.post(path, json={})
        assert (answer.status_code, answer.json()["changed_by"]) == (409, "admin")
        assert "ben has claimed it" in answer.json()["detail"]
        assert [a["entity_id"] for a in await alerts(client, 1, assignee="ben")] == ["u1"]
        assert await alerts(client, 0, assignee="") == []


@contextmanager
def person(client: AsyncClient, name: str) -> Iterator[None]:
    """What the client asks is asked by somebody else."""
    app = client._transport.app  # type: ignore[attr-defined]
    app.dependency_overrides[name_of] = lambda: name
    yield
    app.dependency_overrides.clear()


async def test_two_people_never_get_the_same_alert(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, *(event(f"u{n}", n) for n in range(8)))
        await alerts(client, 8)
        cases = client.store.cases  # type: ignore[attr-defined]
        got = await asyncio.gather(*(cases.claim_next(AlertFilter(), f"p{n % 5}", 60.0) for n in range(10)))
        assert len({alert_id for alert_id in got if alert_id}) == 8
        assert got.count(None) == 2
        claims = {alert["alert_id"]: alert["assignee"] for alert in await alerts(client, 8)}
        assert claims == {alert_id: f"p{n % 5}" for n, alert_id in enumerate(got) if alert_id}
        assert (await client.post("/v1/alerts/next")).json() == {"alert": None}


async def test_the_queue_is_what_waits_for_one_person(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, *(event(f"u{n}", n) for n in range(6)))
        everything = {alert["entity_id"]: alert["alert_id"] for alert in await alerts(client, 6)}
        ids = [everything[f"u{n}"] for n in range(6)]
        await client.post(at(ids[0], "hold"), json={"for_s": "1h"})
        await client.post(at(ids[1], "assign"), json={"assignee": "ben"})
        await client.post(at(ids[2], "assign"), json={})
        raised = (await client.post(at(ids[3], "escalate"), json={"note": "look"})).json()
        assert (raised["state"], raised["history"][0]["details"]) == ("escalated", {"note": "look"})
        await client.post(at(ids[4], "verdict"), json={"verdict": "confirmed"})
        assert "has judged it" in await problem(await client.post(at(ids[4], "escalate")), 409)
        waits = (await client.get("/v1/alerts?queue=true&facets=true")).json()
        assert {alert["entity_id"] for alert in waits["alerts"]} == {"u2", "u3", "u5"}
        losses = [alert["expected_loss"] for alert in waits["alerts"]]
        assert losses == sorted(losses, reverse=True)
        assert waits["facets"]["state"] == {"open": 2, "escalated": 1}
        assert waits["facets"]["assignee"] == {"": 2, "admin": 1}
        assert waits["budget"] == {"left": {}, "line": None}, "its threshold is no budget"
        assert {a["entity_id"] for a in await alerts(client, 1, queue="true", held="only")} == {"u0"}
        # Who has escalated an alert does not get it back, and another person does.
        assert (await client.post("/v1/alerts/next?state=escalated")).json() == {"alert": None}
        assert (await client.post("/v1/alerts/next")).json()["alert"]["entity_id"] == "u5"
        with person(client, "cleo"):
            got = (await client.post("/v1/alerts/next", json={"for_s": 60})).json()["alert"]
        assert (got["entity_id"], got["assignee"]) == ("u3", "cleo")
        # A claim is handed over by who holds it, and by nobody else.
        with person(client, "ben"):
            assert (await client.post(at(ids[1], "assign"), json={"assignee": "cleo"})).status_code == 200
            assert (await client.post(at(ids[1], "assign"), json={})).status_code == 409


async def test_what_is_snoozed_waits_for_nobody_and_what_that_hides_is_told(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        when: dict[str, Any] = {"opened_at": time.time() - 60.0, "updated_at": time.time()}
        made = [alert(n, **when) for n in (1, 2, 4, 5)]
        await client.log.append(topics.ALERTS, made)  # type: ignore[attr-defined]
        (first, *_) = found = await alerts(client, 4)
        await client.post(at(first["alert_id"], "verdict"), json={"verdict": "confirmed"})
        entity, feature = found[1]["entity_id"], found[2]["reasons"][0]["feature"]
        said = {"task": "fraud", "kind": "entity", "of": entity, "for_s": "1h", "note": "a test account"}
        (snooze,) = (await client.post("/v1/snoozes", json=said)).json()["snoozes"]
        assert (snooze["by"], snooze["note"], snooze["running"], snooze["entity_id"]) == (
            "admin", "a test account", True, entity,
        )  # fmt: skip
        assert {a["entity_id"] for a in await alerts(client, 1, queue="true", snoozed="only")} == {entity}
        assert entity not in {a["entity_id"] for a in await alerts(client, 2, queue="true")}
        assert len(await alerts(client, 4)) == 4, "only the queue is without it"
        await client.post("/v1/snoozes", json=said | {"kind": "reason", "of": feature})
        assert await alerts(client, 0, queue="true") == []
        assert (await client.post("/v1/alerts/next")).json() == {"alert": None}
        reason = (await client.get("/v1/snoozes")).json()["snoozes"][0]
        assert (reason["feature"], reason["last_30_days"]) == (feature, {"alerts": 4, "confirmed": 1, "false_alarm": 0})
        assert reason["hides"]["alerts"] == 0, "none has opened since"
        ends = said | {"for_s": 0}
        after = (await client.post("/v1/snoozes", json=ends)).json()["snoozes"]
        assert [(s["running"], s["ended_by"]) for s in after] == [(True, None), (False, "admin")]
        assert "it is not snoozed" in await problem(await client.post("/v1/snoozes", json=ends), 409)


async def test_views_are_of_who_saved_them_unless_they_are_shared(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        view = {"name": "large", "query": "queue=true&severity=high"}
        await client.post("/v1/views", json=view)
        (saved,) = (await client.post("/v1/views", json=view | {"query": "q=x"})).json()["views"]
        assert saved == {"name": "large", "query": "q=x", "by": "admin", "shared": False, "own": True}
        ask = client.store.cases.ask  # type: ignore[attr-defined]
        await ask(save_view, ViewSaid(name="mine", query=""), "person:ben", "ben")
        await ask(save_view, ViewSaid(name="ours", query="", shared=True), "person:ben", "ben")
        assert [(v["name"], v["own"]) for v in (await client.get("/v1/views")).json()["views"]] == [
            ("large", True), ("ours", False),
        ]  # fmt: skip
        assert "you have no view" in await problem(await client.delete("/v1/views/ours"), 404)
        for name, query in (
            ("fraud", "task=fraud"),
            ("churn", "task=churn&entity=user-7"),
            ("both", "q=user-7"),
        ):
            await ask(save_view, ViewSaid(name=name, query=query, shared=True), "person:ben", "ben")
        of_fraud = Caller("ana", "ana", "key", frozenset(), frozenset({"fraud"}))
        await ask(save_view, ViewSaid(name="own", query="q=x"), of_fraud.id, "ana")
        assert [view["name"] for view in await ask(views_of, of_fraud)] == ["fraud", "own"]
        for name in ("fraud", "churn", "both"):
            await ask(delete_view, "person:ben", name)
    async with service(tmp_path, rebuild=True) as client:
        assert len((await client.get("/v1/views")).json()["views"]) == 2, "no record makes them: a rebuild keeps them"
        assert len((await client.delete("/v1/views/large")).json()["views"]) == 1


async def test_who_has_an_alert_open_is_told_for_half_a_minute(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1))
        (alert,) = await alerts(client, 1)
        assert (await client.post(at(alert["alert_id"], "presence"))).json() == {"others": []}
        with person(client, "cleo"):
            assert (await client.post(at(alert["alert_id"], "presence"))).json() == {"others": ["admin"]}
        ask = client.store.cases.ask  # type: ignore[attr-defined]
        later = time.time() + PRESENT_S + 1.0
        assert await ask(be_present, alert["alert_id"], "ben", later) == []


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


async def test_of_two_who_saw_the_same_version_one_is_told_of_the_other(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1))
        (alert,) = await alerts(client, 1)
        path, seen = at(alert["alert_id"], "verdict"), {"If-Match": '"0"'}
        said = [{"verdict": "confirmed"}, {"verdict": "false_alarm"}]
        answers = await asyncio.gather(*(client.post(path, json=each, headers=seen) for each in said))
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        (refused,) = [answer.json() for answer in answers if answer.status_code == 409]
        assert (refused["changed_by"], refused["version"]) == ("admin", 1)
        assert "admin has changed it: it is at version 1, not 0" in refused["detail"]
        assert len(await topic(client, "labels")) in (1, 2), "labels of the one that counts alone"
        assert (await client.post(path, json=said[0], headers={"If-Match": "x"})).status_code == 422


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


async def problem(answer: Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    detail: str = answer.json()["detail"]
    return detail


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as client:
        projector = client.store.projector  # type: ignore[attr-defined]
        real, told = projector._projection.write, list[str | None]()

        def write(*given: Any) -> bool:
            told.append(projector.trouble)
            if len(told) < 3:
                raise OperationalError("INSERT", {}, sqlite3.OperationalError("disk I/O error"))
            return bool(real(*given))

        monkeypatch.setattr(projector._projection, "write", write)
        await send(client, event("u1", 1))
        await alerts(client, 1)
        assert told[0] is None
        assert told[2] == told[1]
        assert "alerts are not written to the database" in str(told[2])
        assert "disk I/O error" in str(told[2])


async def test_what_nobody_thought_of_ends_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = embedded_service(Settings.model_validate({"serve": {"directory": str(tmp_path)}}), [every_event_alerts()])
    monkeypatch.setattr(made.store.projector, "catch_up", lambda: 1 / 0)
    async with made:
        running = made.store._running
        assert running is not None
        await asyncio.wait([running])
        assert made.fault == "alerts are not written any more: ZeroDivisionError: division by zero"
