"""The pages of one alert and of one entity, and the score behind an alert."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from tests.service.alert_service import event, every_event_alerts, send, until
from tests.service.console_service import alert, desk
from tests.service.running import running
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.records import Record
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


def learned(body: Any) -> bool:
    return any(change["kind"] == "learned" for change in body["history"])


async def judge(client: Any, row: Any, verdict: str) -> None:
    """Give a verdict, and wait until the model has learned it."""
    path = f"/v1/alerts/{row.alert_id}"
    assert (await client.post(f"{path}/verdict", json={"verdict": verdict})).status_code == 200
    await until(client, path, learned)


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
        assert (rebuilt.explained.equal, rebuilt.explained.version, rebuilt.start) == (True, 1, 0)
        assert rebuilt.explained.again == row.score
        now = await scores.now(row)
        assert now.version == 2
        assert now.score > now.before == row.score, "confirmed twice, the model finds it more likely"


async def test_why_a_score_is_not_to_be_had_is_said(tmp_path: Path) -> None:
    async with alerting(tmp_path, event("u1", 1)) as (service, client):
        row = await alert_of(service, client, "u1")
        row.score += 0.01
        with pytest.raises(UsageError, match="retention deleted it"):
            await AlertScores(service).now(row)


def part(row: Any, name: str) -> str:
    """The address of a part of a page of an alert."""
    return f"/console/alert/{name}/{quote(row.alert_id, safe='')}"


async def text(client: Any, path: str) -> str:
    """What a page says, without its elements."""
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return " ".join(re.sub(r"<[^>]*>", " ", answer.text).split())


async def test_a_verdict_is_given_on_the_page_which_then_tells_what_it_did(tmp_path: Path) -> None:
    async with alerting(tmp_path, *(event(f"u{n}", n, amount=10.0 * n) for n in range(4))) as (service, client):
        row = await alert_of(service, client, "u2")
        assert await text(client, part(row, "effect")) == ""
        # Another verdict is learned before: what this one changes is told beside the newest score without it.
        await judge(client, await alert_of(service, client, "u1"), "false_alarm")
        assert await text(client, part(row, "effect")) == ""
        form = {"alert_ids": row.alert_id, "verdict": "confirmed", "reason": "", "note": "called"}
        assert (await client.post("/console/alerts/verdict", data=form)).status_code == 200
        case = await client.get(part(row, "case"))
        assert "Confirmed" in case.text
        assert 'hx-swap-oob="outerMorph"' in case.text, "the head says it too"
        await until(client, f"/v1/alerts/{row.alert_id}", learned)
        effect = await client.get(part(row, "effect"))
        assert "at version <strong>2</strong>" in effect.text
        before, now = (float(n) for n in re.findall(r'id="score-\w+" title="([\d.]+)"', effect.text))
        assert now > before != row.score
        assert " → " in effect.text
        page = await text(client, f"/console/alerts/{row.alert_id}")
        assert all(words in page for words in ("admin : confirmed", "The model learned it at version 2", "called"))
        await client.post("/console/alerts/undo", data={"alert_ids": row.alert_id})
        assert "took the verdict back" in await text(client, part(row, "case"))
        assert await text(client, part(row, "effect")) == ""
        again = await text(client, part(row, "again"))
        assert "Equal, bit for bit" in again


async def test_an_alert_is_shown_with_what_is_around_it(tmp_path: Path) -> None:
    async with alerting(tmp_path, *(event("u1", n) for n in range(5))) as (service, client):
        row = await alert_of(service, client, "u1")
        assert "No feature raised the score" in await text(client, part(row, "reasons")), "of an empty model"
        assert (await client.get(part(row, "case"))).text.count("The stream:") == 1, "four events changed nothing"
        await judge(client, row, "confirmed")
        timeline = await client.get(part(row, "timeline"))
        data = re.search(r'id="timeline-data">(.*?)</script>', timeline.text)
        assert data is not None
        chart = json.loads(data[1])
        assert len(chart["x"]) == 5 == len([value for value in chart["series"][0]["values"] if value is not None])
        assert [mark["label"] for mark in chart["marks"]] == ["this alert: confirmed", "label 1"], "each once"


async def test_reasons_and_similar_alerts_say_what_is_usual(tmp_path: Path) -> None:
    async with desk(tmp_path, 4) as of:
        features: list[dict[str, float | None]] = [{"amount": float(n)} for n in range(100)]
        features += [{"amount": None, "user.tx_count_1h": 1.0}]
        told = [{"task": task, "features": each} for task in ("fraud", "churn") for each in features]
        of.log.add(topics.PREDICTIONS, [Record(b"u", msgspec.json.encode(each), 1.7e9) for each in told])
        ana, path = of.person("ana"), "fraud:user-3:e3"
        page = await of.client.get(f"/console/alerts/{path}", headers=ana)
        assert 'id="reasons" class="card" aria-labelledby="reasons-title" hx-get' in page.text, (
            "it comes after the page"
        )
        await of.client.get(f"/console/alert/reasons/{path}", headers=ana)
        page = await of.client.get(f"/console/alerts/{path}", headers=ana)
        shown = " ".join(re.sub(r"<[^>]*>", " ", page.text).split())
        assert "higher than 4 % of recent ones typical 49.5 (4.95 to 94)" in shown
        assert "higher than 100 % of recent ones typical 1 (1 to 1)" in shown
        for n, verdict in enumerate(("confirmed", "false_alarm", "confirmed")):
            said = {"alert_ids": f"fraud:user-{n}:e{n}", "verdict": verdict}
            await of.client.post("/console/alerts/verdict", headers=ana, data=said)
        similar = await of.client.get(f"/console/alert/similar/{path}", headers=ana)
        assert "Of 3 like this, <strong>2 were confirmed</strong> and 1 was a false alarm; nobody" in similar.text


async def test_reasons_of_the_task_are_chosen_by_keys(tmp_path: Path) -> None:
    listed = tuple(f"reason {n}" for n in range(8))
    async with desk(tmp_path, 1) as of:
        task = of.service.tasks[0]
        alerts = task.alerts.model_copy(update={"verdict_reasons": listed})
        of.service.tasks = [task.model_copy(update={"alerts": alerts})]
        page = await of.client.get("/console/alerts/fraud:user-0:e0", headers=of.person("ana"))
    keys = re.findall(r'name="reason" id="reason-\d" value="([^"]+)" data-key="(\d)"', page.text)
    assert keys == [(f"reason {n}", str(n + 4)) for n in range(6)], "others are chosen by hand"
    assert page.text.count('name="reason"') == len(listed)


async def test_why_a_verdict_is_not_learned_is_said(tmp_path: Path) -> None:
    async with desk(tmp_path, 1) as of:
        ana, told = of.person("ana"), {"alert_ids": "fraud:user-0:e0", "verdict": "false_alarm"}
        assert (await of.client.post("/console/alerts/verdict", headers=ana, data=told)).status_code == 200
        effect = await of.client.get("/console/alert/effect/fraud:user-0:e0", headers=ana)
        assert "not learned it yet" in effect.text
        task = of.service.tasks[0]
        few = task.labels.model_copy(update={"negative_rate": 0.1})
        of.service.tasks = [task.model_copy(update={"labels": few})]
        effect = await of.client.get("/console/alert/effect/fraud:user-0:e0", headers=ana)
        assert "this task learns 10 %" in effect.text


async def test_two_people_do_not_work_on_one_alert(tmp_path: Path) -> None:
    async with desk(tmp_path, 1) as of:
        ana, ben, eve = of.person("ana"), of.person("ben"), of.person("eve", "viewer")
        path = "fraud:user-0:e0"

        async def does(who: dict[str, str], action: str, **more: str) -> str:
            """What the page of the alert says after somebody did something."""
            await of.client.post(
                "/console/alerts/work", headers=who, data={"alert_ids": path, "action": action, **more}
            )
            return (await of.client.get(f"/console/alert/case/{path}", headers=who)).text

        assert "Release" in await does(ana, "claim")
        assert "ana has claimed it" in await does(ben, "claim"), "what did not count is in the history"
        assert "handed it to" in await does(ana, "hand_over", assignee="ben")
        assert "Assign to me" in await does(ben, "release")
        assert "held until" in await does(ben, "hold", hold_s="4h")
        assert 'class="chip">escalated' in await does(ben, "escalate", note="look")
        noted = await of.client.post(f"/console/alert/note/{path}", headers=ana, data={"note": "waits"})
        assert "waits" in noted.text
        there = await of.client.post(f"/console/alert/presence/{path}", headers=ben)
        assert "open" not in there.text
        assert "ben</bdi> has it open" in (await of.client.post(f"/console/alert/presence/{path}", headers=ana)).text
        refused = await of.client.post(f"/console/alert/note/{path}", headers=eve, data={"note": "waits"})
        assert refused.status_code == 403
        page = await of.client.get(f"/console/alerts/{path}", headers=eve)
        assert page.status_code == 200
        assert 'name="verdict"' not in page.text
        assert "/console/entities/" not in page.text


HOSTILE = "<script>alert(1)</script>&\"'/..%2F"


async def test_what_others_wrote_is_text(tmp_path: Path) -> None:
    async with desk(tmp_path) as of:
        alert_id = f"fraud:{HOSTILE}:{'e' * 200}"
        entity = HOSTILE.ljust(64, "x")
        await of.arrive([alert(1, alert_id=alert_id, entity_id=entity)])
        note = "\u202e" + "<b>w</b>" * 240
        at, ana = quote(alert_id, safe=""), of.person("ana")
        noted = await of.client.post(f"/console/alert/note/{at}", headers=ana, data={"note": note})
        assert noted.status_code == 200
        for path in (f"/console/alerts/{at}", f"/console/entities/{quote(entity, safe='')}"):
            page = await of.client.get(path, headers=ana)
            assert page.status_code == 200
            assert "<script>alert" not in page.text
            assert "&lt;script&gt;alert(1)" in page.text
            assert "<b>w" not in page.text
        for name in ("reasons", "timeline", "similar", "again", "effect", "case"):
            found = await of.client.get(f"/console/alert/{name}/{at}", headers=ana)
            assert (found.status_code, "<script>alert" in found.text) == (200, False), name
        assert "retention deleted it" in (await of.client.get(f"/console/alert/again/{at}", headers=ana)).text
        missing = await of.client.get("/console/alerts/none", headers=ana | {"Accept": "text/html"})
        assert (missing.status_code, "no alert none" in missing.text) == (404, True)


async def test_an_entity_and_a_device_show_what_is_known(tmp_path: Path) -> None:
    readings = [
        {"v": 1, "event_id": f"r{n}", "device_id": "m1", "ts": time.time() - 5_000 + 60 * n,
         "metrics": {"vibration": 9.0 if n == 39 else 2.0 + n % 2 / 10, "load": None if n % 3 else 50.0}}
        for n in range(40)
    ]  # fmt: skip
    async with running(tmp_path, "device_failure", "fraud") as (service, client):
        await client.post("/v1/events", json=readings)
        await client.post("/v1/events", json=[event("u1", n) for n in range(3)])
        page = await client.get("/console/entities/m1")
        assert "No alerts." in page.text
        device = await client.get("/console/entity/device/m1")
        assert re.findall(r"<bdi>(vibration|load)</bdi> <span[^>]*>(\w+) outside", device.text) == [
            ("vibration", "1"), ("load", "none"),
        ]  # fmt: skip
        assert 'class="nothing"' in (await client.get("/console/entity/device/u1")).text
        key = service.access.keys.create("ana", role="analyst", tasks=["fraud"], by="test", now=time.time())[1]
        of_fraud = {"authorization": f"Bearer {key}"}
        assert 'class="nothing"' in (await client.get("/console/entity/device/m1", headers=of_fraud)).text
        assert "device-events" not in (await client.get("/console/entity/events/m1", headers=of_fraud)).text
        features = await text(client, "/console/entity/features/u1")
        assert "user.spent_count_1d 3" in features
        assert "No task remembers anything" in await text(client, "/console/entity/features/nobody")
        events = await client.get("/console/entity/events/u1")
        assert events.text.count("<details>") == 3
        # As a producer that counts in milliseconds writes to Kafka itself: a dead letter, and shown as it was sent.
        raw = b'{"event_id":"late","ts":1700000000000}'
        await service.log.append(topics.USER_EVENTS, [Record(b"u1", raw, time.time())])
        assert "1,700,000,000,000 late user-events" in await text(client, "/console/entity/events/u1")
        scores = await client.get("/console/entity/scores/u1")
        assert '"label": "fraud"' in scores.text
        assert "None of the newest" in await text(client, "/console/entity/scores/nobody")
