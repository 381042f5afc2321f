"""Who works on which alert, over HTTP: claims, the queue, what is snoozed, views, and who is there."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.service.alert_service import (
    alerts,
    at,
    event,
    person,
    problem,
    send,
    service,
    topic,
)
from tests.service.store_records import alert
from weir.streams.config import topics
from weir.streams.service.access.scopes import Caller
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.aside_routes import (
    PRESENT_S,
    ViewSaid,
    be_present,
    delete_view,
    save_view,
    views_of,
)
from weir.streams.service.store.case_rules import VALUES

pytestmark = pytest.mark.anyio


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
        (counts,) = [VALUES[each["verdict"]] for each, answer in zip(said, answers, strict=True) if answer.is_success]
        sent = await topic(client, "labels")
        # Whoever asks sends all that is owed of the alert: the same labels may go out twice, under the same ids.
        assert {label["value"] for label in sent} == {counts}, "labels of the one that counts alone"
        assert len({label["label_id"] for label in sent}) == (1 if counts else 2)
        assert (await client.post(path, json=said[0], headers={"If-Match": "x"})).status_code == 422
