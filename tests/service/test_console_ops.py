"""Pages of who runs the service: dead letters, audit and keys, with nothing, one and many, and for each role."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient

from tests.models.registering import register
from tests.service.access.served import bearer, served
from tests.service.access.test_audit import audited
from tests.service.running import running
from weir.models.registry.registry import Registry, open_files
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import RetrainRequest
from weir.streams.outputs import dead_letter
from weir.streams.records import Record, RefusedRecord
from weir.streams.service.access.scopes import administrator
from weir.streams.service.service import Service
from weir.streams.trainer.state_journal import FilesJournal
from weir.streams.trainer.task_state import Job, RetrainAsk, Stage, TaskState, encode
from weir.streams.trainer.task_supervisor import TaskSupervisor

pytestmark = pytest.mark.anyio
PAGE = {"Accept": "text/html"}
NOW = time.time()
HOSTILE = "<script>alert(1)</script>'\""


async def refuse(service: Service, *reasons: str, raw: bytes = b'{"a":1}') -> None:
    letters = [RefusedRecord(n, reason, Record(b"u9", raw, NOW)) for n, reason in enumerate(reasons)]
    made = [dead_letter("user-events", 0, letter, NOW, 1 << 20) for letter in letters]
    await service.log.append("dead-letters", made)


async def page(client: AsyncClient, path: str, **more: Any) -> str:
    answer = await client.get(path, headers=PAGE, **more)
    assert answer.status_code == 200, (path, answer.status_code, answer.text)
    return answer.text


def toast(answer: Any) -> str:
    assert answer.status_code == 204, answer.text
    said: str = json.loads(answer.headers["HX-Trigger"])["toast"]["text"]
    return said


async def test_dead_letters_with_none_one_and_many(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        assert "every record could be used" in await page(client, "/console/dead-letters")
        await refuse(service, f"{HOSTILE}\u202e")
        one = await page(client, "/console/dead-letters")
        assert "1 record open" in one
        assert "<script>alert" not in one
        await refuse(service, *(f"amount: got '{n},5'; give a number without quotes, as 12.5" for n in range(150)))
        many = await page(client, "/console/dead-letters")
        assert "151 records open" in many
        assert "Newest 100 of 151" in many
        assert (
            many.count("amount: got ...; give a number") == 3
        )  # one group: its reason, and in the names of its buttons


async def test_a_group_is_sent_again_or_dropped_after_a_question(tmp_path: Path) -> None:
    kind = "amount: got ...; give a number without quotes, as ..."
    async with running(tmp_path) as (service, client):
        await refuse(
            service, *(f"amount: got '{n},5'; give a number without quotes, as 12.5" for n in range(3)), "late"
        )
        asked = await page(client, "/console/dead-letters/ask/drop", params={"kind": kind})
        assert "Drop 3 records?" in asked
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', asked))
        assert toast(await client.post("/console/dead-letters/drop", data=fields)) == "3 records dropped."
        assert "1 record open" in await page(client, "/console/dead-letters")
        told = toast(await client.post("/console/dead-letters/replay", data={"ids": "0-3"}))
        assert told.startswith("1 record sent again.")
        assert "5 records" in await page(
            client, "/console/dead-letters?done=true"
        )  # what was sent again was refused again
        again = await client.post("/console/dead-letters/replay", data={"ids": "0-3"})
        assert (again.status_code, again.headers["Content-Type"]) == (404, "application/problem+json")


async def test_a_record_that_is_no_text_is_shown_byte_by_byte(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        await refuse(service, "not JSON", raw=bytes(range(256)))
        await refuse(service, "late", raw=b'{"a":"\xc3\xa9"}')
        dumped = await page(client, "/console/dead-letters/0-0")
        assert "0000  00 01 02 03" in dumped
        assert "00f0  f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 fa fb fc fd fe ff" in dumped
        text = await page(client, "/console/dead-letters/0-1")
        assert "é" in text
        assert "hexadecimal" not in text


async def test_a_key_is_shown_once_and_revoked(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        assert "No program has a key yet" in await page(client, "/console/keys")
        assert "Make the key" in await page(client, "/console/keys/new")
        made = await client.post(
            "/console/keys", data={"name": HOSTILE, "role": "viewer", "tasks": ["fraud"], "expires_at": ""}
        )
        (secret,) = re.findall(r"weir_([0-9a-f]{12})_[\w-]{43}", made.text)
        listed = await page(client, "/console/keys")
        assert "<script>alert" not in made.text + listed
        assert "active" in listed
        assert not re.search(r"weir_[0-9a-f]{12}_[\w-]{43}", listed)
        assert "Revoke key" in await page(client, f"/console/keys/{secret}/revoke")
        assert "is revoked" in toast(await client.post(f"/console/keys/{secret}/revoke"))
        assert "revoked" in await page(client, "/console/keys")
        assert (await client.post("/console/keys", data={"name": ""})).status_code == 422


async def test_the_audit_is_listed_filtered_and_verified(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        service.access.audit.note("POST /console/keys", administrator("token"), outcome=200)
        service.access.audit.note("look", None, subject=HOSTILE, reason="asked")
        await audited(service)
        listed = await page(client, "/console/audit")
        assert "POST /console/keys" in listed
        assert "<script>alert" not in listed
        assert "POST /console/keys" not in await page(client, "/console/audit?action=look")
        assert "No record is like that" in await page(client, "/console/audit?who=nobody")
        assert "no record was changed" in await page(client, "/console/audit/verify")
        assert (await client.get("/v1/audit/verify")).json()["whole"]


PLACES = {
    "viewer": {"models", "drift", "feed"},
    "analyst": {"models", "drift", "feed"},
    "operator": {"models", "drift", "feed", "dead-letters"},
    "admin": {"models", "drift", "feed", "dead-letters", "audit", "keys"},
}


async def test_a_page_that_one_may_not_see_is_not_in_the_navigation_and_says_so(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        for role, seen in PLACES.items():
            key = service.access.keys.create(role, role=role, by="test", now=NOW)[1]
            headers = {**PAGE, **bearer(key)}
            alerts = (await client.get("/console/alerts", headers=headers)).text
            for place in PLACES["admin"]:
                assert (f'href="/console/{place}"' in alerts) == (place in seen), (role, place)
                answer = await client.get(f"/console/{place}", headers=headers)
                assert answer.status_code == (200 if place in seen else 403)
                assert answer.headers["Content-Type"].startswith("text/html")


async def test_models_with_none_one_and_many(tmp_path: Path) -> None:
    async with running(tmp_path, "fraud", "churn") as (service, client):
        none = await page(client, "/console/models")
        assert "none yet: the first is trained when labels allow it" in none
        assert "has learned nothing yet" in none
        registry = Registry(service.settings.models.registry)
        for seed in range(12):
            register(registry, seed=seed, metrics={"gate_metric": 0.5})
        many = await page(client, "/console/models?task=fraud")
        assert "12 versions" in many
        assert many.index(">v12<") < many.index(">v2<") < many.index(">v1<")
        assert ">churn</h2>" not in many.partition('id="models"')[2]
        one = await page(client, "/console/models/fraud/12")
        assert "10, " in one
        assert (await client.get("/console/models/fraud/13", headers=PAGE)).status_code == 404


async def test_a_damaged_log_of_stages_hides_no_other_task(tmp_path: Path) -> None:
    async with running(tmp_path, "fraud", "churn") as (service, client):
        registry = Registry(service.settings.models.registry)
        for task in ("churn", "fraud"):
            register(registry, task=task)
            registry.set_stage(task, 1, "champion", at=NOW)
        next(Path(service.settings.models.registry).glob("fraud/stages/*.json")).write_text("{")
        told = {model["task"]: model for model in (await client.get("/v1/models")).json()["models"]}
        assert told["churn"]["stage"] == "champion"
        assert "not a stage entry" in told["fraud"]["unusable"]
        assert "not a stage entry" in await page(client, "/console/models")
        assert "not known: see Models" in await page(client, "/console/")


async def test_a_version_is_moved_after_a_question_that_says_what_it_does(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        registry = Registry(service.settings.models.registry)
        for seed in range(2):
            register(registry, seed=seed)
        asked = await page(client, "/console/models/fraud/1/ask/champion")
        assert "No full model serves now" in asked
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', asked))
        told = toast(await client.post("/console/models/fraud/1/stage", data={**fields, "why": "<b>"}))
        assert told.startswith("fraud v1 is champion now.")
        toast(await client.post("/console/models/fraud/2/stage", data={"to": "champion"}))
        assert "the one that served before it serves again" in await page(client, "/console/models/fraud/rollback")
        assert "Version 1 serves" in toast(await client.post("/console/models/fraud/rollback", data={"why": ""}))
        assert "Its files stay" in await page(client, "/console/models/fraud/1/ask/archived")
        toast(await client.post("/console/models/fraud/2/stage", data={"to": "champion"}))
        registry.set_stage("fraud", 1, "archived", at=NOW)
        refused = await client.post("/console/models/fraud/rollback", data={"to": "", "why": ""})
        assert (refused.status_code, "v1 was retired since it served" in refused.text) == (422, True)
        toast(await client.post("/console/models/fraud/1/stage", data={"to": "champion"}))
        toast(await client.post("/console/models/fraud/2/stage", data={"to": "champion"}))
        assert "Version 1 serves" in toast(await client.post("/console/models/fraud/rollback", data={"to": "1"}))
        shown = await page(client, "/console/models/fraud/1")
        assert "&lt;b&gt;" in shown
        assert "<b>" not in shown
        assert (await client.post("/console/models/fraud/9/stage", data={"to": "shadow"})).status_code == 422
        assert registry.stages("fraud").champion == 1


def job(n: int, stage: Stage, **more: Any) -> Job:
    asked = RetrainAsk(f"r{n}", "drift", NOW - 900, HOSTILE)
    return Job(f"fraud-{n}", asked, NOW, NOW - 600 + n, stage, **more)


async def test_trainings_show_their_progress_log_and_end(tmp_path: Path) -> None:
    async with running(tmp_path, "fraud") as (service, client):
        assert "No training yet" in await page(client, "/console/drift")
        ended = job(
            1, "rejected", ended_at=NOW, version=0, chosen="trees", verdict="worse: by far", reason="too few labels"
        )
        at_work = job(2, "data")
        journal = FilesJournal(open_files(service.settings.models.registry))
        state = TaskState("fraud", owner="another", lease_until=NOW + 3600, job=at_work, ended=(ended,))
        assert journal.append("fraud", 1, encode(state))
        folder = service.settings.serve.directory / "work" / "fraud" / "fraud-2" / "trees"
        folder.mkdir(parents=True)
        (folder / "output.log").write_text("epoch 3\n")
        service.metrics.set("weir_trainer_progress", 0.25, task="fraud", part="trees")
        shown = await page(client, "/console/drift")
        for words in ("25 %", "epoch 3", "training", "worse: by far", "too few labels", "every 2s"):
            assert words in shown
        assert "<script>alert" not in shown


async def test_somebody_asks_for_a_new_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskSupervisor, "start", lambda _: None)  # nobody trains
    async with running(tmp_path) as (_, client):
        assert "within the task" in await page(client, "/console/retrain?task=fraud")
        told = toast(await client.post("/console/retrain", data={"task": "fraud", "reason": HOSTILE, "force": "true"}))
        assert told.startswith("Asked for a new model of fraud")
        shown = await page(client, "/console/drift")
        assert "&lt;script&gt;" in shown
        assert "by a person" in shown
        assert (await client.post("/console/retrain", data={"task": "nothing"})).status_code == 404


async def test_the_column_that_drifted_is_shown_before_and_after(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        asked = RetrainRequest(
            request_id="fraud-1-5",
            task="fraud",
            cause="drift",
            requested_at=NOW,
            text="amount: mean moved from 3 to 12",
        )
        await service.log.append("retrain-requests", [Record(b"fraud", encode_model(asked), NOW)])
        few = await page(client, "/console/drift/change/fraud-1-5")
        assert "Too few of the events" in few
        amounts = [float(n % 7) + (9 if n >= 640 else 0) for n in range(960)]
        scored = [
            {"task": "fraud", "ts": NOW - 960 + n, "score": 0.1, "features": {}, "watched": [amount, 0, 0]}
            for n, amount in enumerate(amounts)
        ]
        await service.log.append("predictions", [Record(b"u", json.dumps(each).encode(), NOW) for each in scored])
        shown = await page(client, "/console/drift/change/fraud-1-5")
        assert "640 events before and 320 after" in shown
        assert "<svg" in shown
        assert "Before and after" in await page(client, "/console/drift")
        assert (await client.get("/console/drift/change/other", headers=PAGE)).status_code == 404


async def test_the_filters_of_the_feed_are_in_its_address(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        shown = await page(client, "/console/feed?type=alert&type=drift&task=fraud&min_score=&severity=high&since=2h")
        for chosen in (
            'value="alert" checked',
            'value="drift" checked',
            "<option selected>fraud",
            "<option selected>high",
        ):
            assert chosen in shown
        assert 'value="retrain" checked' not in shown
        assert (await client.get("/console/feed?severity=much", headers=PAGE)).status_code == 422
