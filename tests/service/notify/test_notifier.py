"""The service tells of alerts: through the log, once, whatever dies in between."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from httpx import AsyncClient
from standardwebhooks import Webhook

from tests.service.alert_service import alerts, at, event, send, service, topic
from tests.service.notify.receiver import SECRET, Receiver, Request
from weir.streams.service.notify import notifier, notify_routes

pytestmark = pytest.mark.anyio


def notify(receiver: Receiver, *rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    hook = {"name": "hook", "kind": "webhook", "url": receiver.url, "secrets": [SECRET], "allow_private": True}
    made = rules or ({"name": "desk", "targets": ["hook"]},)
    return {"targets": [hook, *more.pop("targets", [])], "rules": list(made), **more}


async def got(receiver: Receiver, n: int) -> list[Any]:
    """What the first ``n`` requests say, verified as a receiver does."""
    found: list[Request] = await asyncio.to_thread(receiver.wait, n)
    return [Webhook(SECRET).verify(request.body, request.headers) for request in found]


async def ends(client: AsyncClient, status: str, n: int) -> list[dict[str, Any]]:
    """The newest messages, once so many have a status."""
    while True:
        wrote = client.store.projector.wrote  # type: ignore[attr-defined]
        found = (await client.get(f"/v1/notifications?status={status}")).json()["notifications"]
        if len(found) >= n:
            return list(found)
        await wrote.wait()


async def test_an_alert_is_told_and_a_verdict_follows_it_up(tmp_path: Path) -> None:
    with Receiver() as receiver:
        async with service(tmp_path, notify=notify(receiver)) as client:
            await send(client, event("u1", 1), event("u1", 2))
            (alert,) = await alerts(client, 1)
            (first,) = await got(receiver, 1)
            assert (first["type"], first["data"]["alert_id"]) == ("alert.opened", alert["alert_id"])
            await client.post(at(alert["alert_id"], "verdict"), json={"verdict": "confirmed"})
            _, second = await got(receiver, 2)
            assert (second["type"], second["data"]["verdict"], second["data"]["by"]) == (
                "alert.judged",
                "confirmed",
                "admin",
            )
            assert second["data"]["thread"] == first["data"]["id"]
            await client.post(at(alert["alert_id"], "undo"))
            assert (await got(receiver, 3))[2]["type"] == "alert.reopened"
            told = await ends(client, "sent", 3)
            assert [message["what"] for message in told] == ["reopened", "judged", "opened"]
            assert {message["answer"] for message in told} == {"HTTP 204 No Content"}
            exposition = (await client.get("/metrics")).text
            assert 'weir_notifications_sent_total{target="hook"} 3' in exposition


async def test_a_receiver_that_dies_gets_everything_once_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "_LONGEST_S", 0.1)
    with Receiver() as receiver:
        pass
    with Receiver() as other:
        healthy = {"name": "other", "kind": "webhook", "url": other.url, "secrets": [SECRET], "allow_private": True}
        rules = ({"name": "desk", "targets": ["hook", "other"]},)
        settings = notify(receiver, *rules, targets=[healthy])
        async with service(tmp_path, notify=settings) as client:
            await send(client, *(event(f"u{n}", n) for n in range(5)))
            assert len(await got(other, 5)) == 5, "a target that is down holds up another"
            await ends(client, "waiting", 5)
            await ends(client, "sent", 5)  # what is received and not yet known to be is sent again after a stop
            assert receiver.got == []
        async with service(tmp_path, notify=settings) as client:  # what waits is in the log
            with receiver:
                await got(receiver, 5)
                await ends(client, "sent", 10)
                await send(client, event("u9", 9))
                told = await got(receiver, 6)
                await ends(client, "sent", 12)
    assert len({each["data"]["id"] for each in told}) == len(receiver.got) == 6
    assert len(other.got) == 6, "what was sent before the restart was sent again"


async def test_alerts_of_before_are_no_news_and_a_rebuild_tells_nothing_again(tmp_path: Path) -> None:
    with Receiver() as receiver:
        async with service(tmp_path) as client:
            await send(client, event("u1", 1))
            await alerts(client, 1)
        async with service(tmp_path, notify=notify(receiver)) as client:
            while not await topic(client, "notifications"):
                await asyncio.sleep(0)
            await send(client, event("u2", 2))
            (told,) = await got(receiver, 1)
            assert told["data"]["entity_id"] == "u2"
            before = await ends(client, "sent", 1)
        async with service(tmp_path, notify=notify(receiver), rebuild=True) as client:
            assert await ends(client, "sent", 1) == before
            await send(client, event("u3", 3))
            assert (await got(receiver, 2))[1]["data"]["entity_id"] == "u3"
    assert len(receiver.got) == 2


async def test_a_history_that_is_loaded_is_no_news(tmp_path: Path) -> None:
    with Receiver() as receiver:
        async with service(tmp_path, notify=notify(receiver)) as client:
            await send(client, event("old", 1) | {"ts": time.time() - 30 * 86_400})
            await send(client, event("new", 2))
            (told,) = await got(receiver, 1)
            assert told["data"]["entity_id"] == "new"
            assert len((await client.get("/v1/notifications")).json()["notifications"]) == 1


async def test_what_a_target_refuses_is_given_up_told_and_sent_again_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, later_s = True, 0.0
    monkeypatch.setattr(notifier, "time", SimpleNamespace(time=lambda: time.time() + later_s))
    with Receiver(lambda _: 500 if broken else 200) as receiver:
        async with service(tmp_path, notify=notify(receiver, give_up=7200)) as client:
            await send(client, event("u1", 1))
            await asyncio.to_thread(receiver.wait, 1)
            later_s = 8000.0
            (failed,) = await ends(client, "failed", 1)
            assert failed["answer"] == "HTTP 500 Internal Server Error"
            broken = False
            assert (await client.post("/v1/notifications/none/retry")).status_code == 404
            answer = await client.post(f"/v1/notifications/{failed['id']}/retry")
            assert (answer.status_code, answer.json()["status"]) == (202, "waiting")
            (sent,) = await ends(client, "sent", 1)
            assert sent["id"] == failed["id"] == receiver.got[-1].headers["webhook-id"]


async def test_a_target_that_asks_to_be_left_alone_is_with_whatever_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slack and others limit what comes, and lock out who does not heed that."""
    later_s, status = 0.0, 429
    monkeypatch.setattr(notifier, "time", SimpleNamespace(time=lambda: time.time() + later_s))
    monkeypatch.setattr(notifier, "_PAUSE_S", 0.0)
    with Receiver(lambda _: status) as receiver, Receiver() as other:
        healthy = {"name": "other", "kind": "webhook", "url": other.url, "secrets": [SECRET], "allow_private": True}
        rules = ({"name": "desk", "targets": ["hook", "other"]},)
        async with service(tmp_path, notify=notify(receiver, *rules, targets=[healthy])) as client:
            await send(client, *(event(f"u{n}", n) for n in range(5)))
            await got(other, 5)
            await ends(client, "waiting", 5)
            for n in range(6, 16):  # each is a further round of the one that sends
                await send(client, event(f"u{n}", n))
                await ends(client, "sent", n)
            assert len(receiver.got) == 1, "another message is no other target"
            later_s, status = 8.0, 204
            await ends(client, "sent", 30)
    assert len(receiver.got) == 16


async def test_the_log_is_told_once_of_a_target_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not of each attempt with each message that waits."""
    monkeypatch.setattr(notifier, "_LONGEST_S", 0.0)
    caplog.set_level("INFO", "weir.streams.service.notify.notifier")
    broken = True
    with Receiver(lambda _: 500 if broken else 200) as receiver:
        async with service(tmp_path, notify=notify(receiver)) as client:
            await send(client, event("u1", 1), event("u2", 2))
            await asyncio.to_thread(receiver.wait, 3)
            broken = False
            await ends(client, "sent", 2)
    what = "target hook takes no messages (each is tried for 1d at most: [serve.notify] give_up)"
    first, last = [record.getMessage() for record in caplog.records if "target hook" in record.getMessage()]
    assert first == f"{what}: HTTP 500 Internal Server Error; trying again"
    assert re.fullmatch(rf"{re.escape(what)}: that is over; it failed \d+ times in \d+ s", last)


async def test_what_came_of_an_attempt_is_shown_while_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "_LONGEST_S", 0.0)
    broken = True

    async def shown() -> str:
        return (await client.get("/console/notifications", headers={"Accept": "text/html"})).text

    with Receiver(lambda _: 500 if broken else 200) as receiver:
        async with service(tmp_path, notify=notify(receiver)) as client:
            await send(client, *(event(f"u{n}", n) for n in range(3)))
            await asyncio.to_thread(receiver.wait, 2)
            words = re.compile(r"HTTP 500 Internal Server Error; tried [0-9]+ times, it is tried again")
            while not words.search(page := await shown()):
                await asyncio.sleep(0)
            assert 'hx-trigger="every 2s"' in page, "what comes next is seen without a reload"
            waiting = (await client.get("/v1/notifications?status=waiting")).json()["notifications"]
            assert all("HTTP 500 Internal Server Error" in message["answer"] for message in waiting)
            broken = False
            await ends(client, "sent", 3)
            page = await shown()
            assert "HTTP 200 OK" in page
            assert "tried" not in page
            assert 'hx-trigger="every 2s"' not in page


async def test_a_digest_gathers_what_comes_in_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later_s = -(time.time() % 60)  # at the beginning of a minute
    monkeypatch.setattr(notifier, "time", SimpleNamespace(time=lambda: time.time() + later_s))
    rule = {"name": "desk", "targets": ["hook"], "digest": "60s", "states": ["opened"]}
    with Receiver() as receiver:
        async with service(tmp_path, notify=notify(receiver, rule)) as client:
            await send(client, event("u0", 1))
            (alert,) = await alerts(client, 1)
            await ends(client, "waiting", 1)  # what is on hold before that is not told at all
            await client.post(at(alert["alert_id"], "hold"), json={"for_s": 3600})
            await send(client, event("u1", 2), event("u2", 3))
            waiting = await ends(client, "waiting", 3)
            assert {message["due"] % 60 for message in waiting} == {0.0}
            assert receiver.got == []
            later_s = 60.0
            (told,) = await got(receiver, 1)
            assert told["type"] == "alerts.digest"
            assert {each["data"]["entity_id"] for each in told["data"]["messages"]} == {"u0", "u1", "u2"}
            assert len({message["changed_at"] for message in await ends(client, "sent", 3)}) == 1
    assert len(receiver.got) == 1


async def test_people_make_rules_and_pause_those_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as receiver:
        async with service(tmp_path, notify=notify(receiver)) as client:
            (held,) = (await client.get("/v1/notify/rules")).json()["rules"]
            assert (held["name"], held["made_by"], held["paused"]) == ("desk", "settings", False)
            rule = {name: value for name, value in held.items() if name != "made_by"}
            assert (await client.post("/v1/notify/rules", json=rule | {"severity": "high"})).status_code == 409
            assert (await client.post("/v1/notify/rules", json=rule | {"paused": True})).status_code == 200
            mine = {"name": "mine", "targets": ["hook"], "states": ["opened"]}
            assert (await client.post("/v1/notify/rules", json=mine | {"targets": ["none"]})).status_code == 422
            assert (await client.post("/v1/notify/rules", json=mine | {"quiet": "25:00"})).status_code == 422
            # As JSON it would be kept as null, and no rule could be read any more.
            assert (await client.post("/v1/notify/rules", json=mine | {"min_loss": "inf"})).status_code == 422
            assert (await client.post("/v1/notify/rules", json=mine)).status_code == 200
            await send(client, event("u1", 1))
            (told,) = await got(receiver, 1)
            assert told["data"]["rule"] == "mine"
            listed = (await client.get("/v1/notify/rules")).text
            assert SECRET not in listed
            assert receiver.url not in listed
            monkeypatch.setattr(notify_routes, "_MOST", 2)
            assert (await client.post("/v1/notify/rules", json=mine)).status_code == 200
            assert (await client.post("/v1/notify/rules", json=mine | {"name": "third"})).status_code == 409
            assert (await client.delete("/v1/notify/rules/mine")).json() == {"removed": "mine"}
            assert (await client.delete("/v1/notify/rules/mine")).status_code == 404
            await client.delete("/v1/notify/rules/desk")
            await send(client, event("u2", 2))
            assert (await got(receiver, 2))[1]["data"]["rule"] == "desk"


async def test_alertmanager_is_told_again_what_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "STANDS_S", 0.3)
    with Receiver() as receiver:
        manager = {"name": "am", "kind": "alertmanager", "url": receiver.url, "allow_private": True}
        rules = {"targets": [manager], "rules": [{"name": "desk", "targets": ["am"]}]}
        async with service(tmp_path, notify=rules) as client:
            await send(client, event("u1", 1), event("u2", 2))
            one, two = await alerts(client, 2)
            while not any(len(request.json) == 2 for request in receiver.got):  # both at once: told again
                await asyncio.to_thread(receiver.wait, len(receiver.got) + 1)
            await client.post(at(one["alert_id"], "verdict"), json={"verdict": "false_alarm"})
            await ends(client, "sent", 3)
            seen = len(receiver.got)
            last = (await asyncio.to_thread(receiver.wait, seen + 2))[-1]
            assert [alert["labels"]["alert_id"] for alert in last.json] == [two["alert_id"]]


async def test_a_process_that_does_not_write_the_tables_tells_nothing(tmp_path: Path) -> None:
    with Receiver() as receiver:
        async with service(tmp_path, notify=notify(receiver)) as client:
            projector = client.store.projector  # type: ignore[attr-defined]
            type(projector).leads, held = property(lambda _: False), type(projector).leads
            try:
                await send(client, event("u1", 1))
                await alerts(client, 1)
                wrote = projector.wrote
                await client.post(at((await alerts(client, 1))[0]["alert_id"], "notes"), json={"note": "x"})
                await wrote.wait()
                assert [
                    entry["messages"] for entry in await topic(client, "notifications") if "messages" in entry
                ] == []
            finally:
                type(projector).leads = held
            assert (await got(receiver, 1))[0]["data"]["entity_id"] == "u1"


async def test_the_page_shows_rules_and_messages_and_people_change_them(tmp_path: Path) -> None:
    with Receiver(lambda _: 500) as receiver:
        async with service(tmp_path, notify=notify(receiver)) as client:
            await send(client, event("<b>u1", 1))
            await ends(client, "waiting", 1)
            page = (await client.get("/console/notifications")).text
            assert "desk" in page
            assert "fraud:&lt;b&gt;u1" in page
            assert "<b>u1" not in page
            assert receiver.url not in page
            form = "name=mine&targets=hook&states=opened&severity=high&digest=1h&quiet=&time_zone=&urgent=critical"
            made = await client.post("/console/notifications/rules", content=form)
            assert (made.status_code, made.headers["hx-trigger"]) == (
                204, '{"toast": {"text": "Rule mine is made."}, "changed": {}}',
            )  # fmt: skip
            for name in ("desk", "mine"):
                assert (await client.post(f"/console/notifications/rules/{name}/pause")).status_code == 204
            rules = (await client.get("/v1/notify/rules")).json()["rules"]
            assert [(r["name"], r["paused"], r["digest"]) for r in rules] == [
                ("desk", True, None),
                ("mine", True, 3600.0),
            ]
            assert (await client.post("/console/notifications/rules/none/pause")).status_code == 404
            assert (await client.post("/console/notifications/rules/mine/remove")).status_code == 204
            assert (await client.post("/console/notifications/none/retry")).status_code == 404
            assert "Tell" in (await client.get("/console/notifications/rules/new")).text
            assert "No message is like that" in (await client.get("/console/notifications?status=sent")).text
