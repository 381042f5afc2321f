"""The audit: what people do is in it, its chain shows every change of it, and no secret is anywhere."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from httpx import AsyncClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from tests.service.access.served import EVENT, bearer, served
from tests.service.store_records import alert
from weir.streams.cli.operate.audit import audit_app
from weir.streams.cli.operate.keys import keys_app
from weir.streams.config import topics
from weir.streams.records import Record
from weir.streams.service.access.audit import audit_trail as audit
from weir.streams.service.access.audit.audit_chain import GENESIS, Link, chained, verify
from weir.streams.service.parts import OverloadError
from weir.streams.service.ports import every_record
from weir.streams.service.service import Service

pytestmark = pytest.mark.anyio


def chain(count: int, writer: str = "a:80", last: Link | None = None) -> list[bytes]:
    made = []
    for k in range(count):
        value, last = chained({"at": 1.7e9 + k, "action": "login", "who": {"name": "ána"}}, writer, last)
        made.append(value)
    return made


def places(values: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [(f"audit-0 at {k}", value) for k, value in enumerate(values)]


def links(values: Sequence[bytes]) -> list[Link]:
    return [Link(document["seq"], document["hash"]) for document in map(msgspec.json.decode, values)]


def test_a_whole_chain_is_whole_also_with_repeats_other_writers_and_an_end_that_was_kept() -> None:
    ours, theirs = chain(4), chain(2, "b:80")
    mixed = [ours[0], theirs[0], ours[1], ours[0], ours[1], theirs[1], ours[2], ours[3]]
    found = verify(places(mixed), {"a:80": links(ours)[3], "b:80": links(theirs)[1]})
    assert [(r.writer, r.records, r.fault) for r in found] == [("a:80", 4, ""), ("b:80", 2, "")]
    later = verify(places(ours[2:]))  # retention removed the first
    assert (later[0].fault, later[0].first) == ("", links(ours)[2])


@given(st.data())
def test_every_change_of_a_chain_is_found_and_named(data: st.DataObject) -> None:
    values = chain(6)
    anchor = {"a:80": links(values)[5]}
    k = data.draw(st.integers(0, 5))
    document: dict[str, Any] = msgspec.json.decode(values[k])
    how = data.draw(st.sampled_from(["change", "remove", "swap", "cut", "again"]))
    if how == "change":
        field = data.draw(st.sampled_from(sorted(document)))
        document[field] = data.draw(st.sampled_from(["x", 77, None, ["a"]]))
        values[k] = json.dumps(document).encode()
    elif how == "remove":
        if k == 0:  # as retention does: only the anchor of another writer could tell
            return
        del values[k]
    elif how == "swap":
        values[k], values[k - 5] = values[k - 5], values[k]
    elif how == "cut":
        values = values[:k]
    else:  # everything after record k is made anew, as who can write the topic could
        last = links(values)[k - 1] if k else None
        values = values[:k] + chain(6 - k, last=last)
        value, _ = chained({"action": "other"}, "a:80", last)
        values[k] = value
    faults = [r.fault for r in verify(places(values), anchor) if r.fault]
    assert faults, (how, k)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (lambda v: [v[0], v[2]], "audit-0 at 1: record 2 comes after 0: records between them were removed"),
        (lambda v: [v[0], v[1].replace(b"login", b"logon")], "audit-0 at 1: record 1 was changed"),
        (lambda v: v[:2], "it ends at record 1, and the database knows of 2: the end was removed"),
        (lambda v: v[:0], "no record is left, and the database knows of record 2"),
    ],
)
def test_the_first_broken_record_is_named(values: Any, fault: str) -> None:
    whole = chain(3)
    found = verify(places(values(whole)), {"a:80": links(whole)[2]})
    assert found[0].fault.startswith(fault)


async def audited(service: Service) -> list[dict[str, Any]]:
    """What the topic holds, once all that waited is written."""
    while service.access.audit._waiting:
        await asyncio.sleep(0)
    return [msgspec.json.decode(p.record.value) async for p in every_record(service.log, topics.AUDIT)]


async def sign_on(service: Service, client: AsyncClient) -> dict[str, str]:
    await client.get(f"/?token={service.access.token}")
    return {"x-csrf-token": (await client.get("/v1/me")).json()["csrf_token"]}


async def test_changes_and_looks_at_people_are_written_with_who_what_and_how_it_ended(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        csrf = await sign_on(service, client)
        answer = await client.get("/v1/entities/u1?task=fraud")
        await client.get("/v1/tasks")
        await client.get("/v1/alerts?entity=u%2F1&limit=1")
        await client.get("/v1/alerts?limit=1")
        viewer = service.access.keys.create("eve", role="viewer", by="test", now=1.0)[1]
        await client.get("/v1/entities/u1", headers=bearer(viewer))
        await client.post("/v1/logout", headers=csrf)
        found = await audited(service)
        assert found[0]["action"] == "audit.started"
        assert [(r["action"], r["who"]["name"], r.get("subject"), r["outcome"]) for r in found[1:]] == [
            ("login", "admin", None, 200),
            ("GET /entities/{entity}", "admin", "u1", 404),
            ("GET /alerts", "admin", "u/1", 200),
            ("GET /entities/{entity}", "eve", "u1", 403),
            ("POST /logout", "admin", None, 204),
        ]
        assert found[2]["request_id"] == answer.headers["x-request-id"]
        assert (found[2]["address"], found[2]["object"]) == ("127.0.0.1", "/v1/entities/u1")


async def test_nobody_looks_at_a_person_unseen_by_another_spelling_or_in_a_row(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        await sign_on(service, client)
        for address in (
            "/v1/alerts?%65ntity=a",
            "/console/alerts?limit=5&%65ntit%79=b",
            "/v1/feed.ndjson?once=1&entity=c",
        ):
            await client.get(address)
        await client.get("/v1/feed.ndjson?once=1&entity=d&entity=e&entity=d")
        await client.get("/v1/alerts?entity=&q=%20f%20"), await client.get("/v1/alerts?q=%20")
        await client.get("/console/alerts?show=all&entity=g&%71=u+1")
        found = await audited(service)
    assert [r["subject"] for r in found if "subject" in r] == ["a", "b", "c", "d", "e", "f", "g", "u 1"]
    assert len([r for r in found if r["action"].endswith("/alerts")]) == 5, "a list that names nobody is not a look"


async def test_a_claim_is_in_it_and_what_a_page_repeats_by_itself_is_not(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        headers, now = bearer(service.access.token), time.time()
        await service.log.append(topics.ALERTS, [alert(1, opened_at=now, updated_at=now)])
        claimed = None
        while claimed is None:
            wrote = service.store.projector.wrote
            claimed = (await client.post("/v1/alerts/next", headers=headers)).json()["alert"]
            if claimed is None:
                await wrote.wait()
        answer = await client.post(f"/v1/alerts/{claimed['alert_id']}/presence", headers=headers)
        assert answer.json() == {"others": []}
        assert [r["action"] for r in await audited(service) if r.get("subject") == "u1"] == ["POST /alerts/next"]


async def test_what_programs_send_is_counted(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        _, key = service.access.keys.create("shop", role="operator", by="test", now=1.0)
        for _ in range(3):
            await client.post("/v1/events", json=EVENT, headers=bearer(key))
        assert not await audited(service)
        service.access.audit._note_counts()
        service.access.audit._wake.set()
        found = await audited(service)
    assert [(r["action"], r["who"]["name"], r["requests"]) for r in found[1:]] == [
        ("sent", "shop", {"events:write": 3})
    ]


async def test_keys_made_beside_the_service_are_in_its_audit(tmp_path: Path) -> None:
    run, here = CliRunner(), ["--dir", str(tmp_path)]
    made = json.loads(run.invoke(keys_app, ["create", "shop", "--role", "viewer", "--json", *here]).stdout)["id"]
    run.invoke(keys_app, ["revoke", made, *here])
    async with served(tmp_path) as (service, client):
        await sign_on(service, client)
        found = await audited(service)
    told = [(r["action"], r["subject"]) for r in found if "subject" in r]
    assert told == [("weir keys create", f"key:{made}"), ("weir keys revoke", f"key:{made}")]


async def test_what_a_command_did_is_not_lost_where_the_service_ends_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, here = CliRunner(), ["--dir", str(tmp_path)]
    run.invoke(keys_app, ["create", "shop", "--role", "viewer", "--json", *here])
    with monkeypatch.context() as patch:
        patch.setattr(audit, "_LAST_S", 0.1)
        async with served(tmp_path) as (service, _):

            async def full(*_: object) -> None:
                raise OverloadError("too much waits")

            patch.setattr(service.log, "append", full)
            while not service.access.audit._waiting:
                await asyncio.sleep(0)
    for _ in range(2):  # and it is written once
        async with served(tmp_path) as (service, client):
            await sign_on(service, client)
            found = await audited(service)
    assert [r["action"] for r in found].count("weir keys create") == 1


async def test_a_service_that_ends_as_soon_as_it_runs_writes_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    monkeypatch.setattr(audit, "_left_in", lambda _: [asked.wait(60)][1:])

    async def stop() -> None:
        """It is asked to stop while it still looks for what commands did."""
        stopped = asyncio.ensure_future(ends())
        await asyncio.sleep(0)
        asked.set()
        await stopped

    async with served(tmp_path) as (service, _):
        ends = service.access.audit.stop
        monkeypatch.setattr(service.access.audit, "stop", stop)
        service.access.audit.note("login", None)
    (report,) = json.loads(CliRunner().invoke(audit_app, ["verify", "--json", "--dir", str(tmp_path)]).stdout)
    assert report["records"] == 2  # started, login


async def test_a_restart_goes_on_with_the_chain_and_the_command_verifies_it(tmp_path: Path) -> None:
    for _ in range(3):
        async with served(tmp_path) as (service, client):
            await sign_on(service, client)
    here = ["--dir", str(tmp_path)]
    checked = CliRunner().invoke(audit_app, ["verify", "--json", *here])
    assert checked.exit_code == 0, checked.output
    report = json.loads(checked.stdout)[0]
    assert (report["records"], report["first"]["seq"], report["last"]["seq"]) == (6, 0, 5)  # started, login; thrice
    shown = CliRunner().invoke(audit_app, ["show", "--who", "admin", "--json", *here]).stdout.splitlines()
    assert [json.loads(line)["action"] for line in shown] == ["login"] * 3
    assert json.loads(shown[0])["prev"] != GENESIS
    assert "login" in CliRunner().invoke(audit_app, ["show", *here]).stdout


async def test_a_chain_whose_records_are_no_longer_kept_goes_on(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        await sign_on(service, client)
        await audited(service)
    shutil.rmtree(tmp_path / "kept")
    shutil.rmtree(tmp_path / "outputs")
    shutil.rmtree(tmp_path / "state")
    async with served(tmp_path) as (service, client):
        await sign_on(service, client)
        assert [record["seq"] for record in await audited(service)] == [2, 3]
    assert CliRunner().invoke(audit_app, ["verify", "--dir", str(tmp_path)]).exit_code == 0


async def test_what_cannot_be_written_waits_and_is_then_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_RETRY_S", (0.0,))
    async with served(tmp_path) as (service, client):
        real, refused = service.log.append, 3

        async def append(topic: str, records: Sequence[Record], decoded: Any = None) -> Any:
            nonlocal refused
            if topic == topics.AUDIT and refused:
                refused -= 1
                raise OverloadError("too much waits")
            return await real(topic, records, decoded)

        monkeypatch.setattr(service.log, "append", append)
        await sign_on(service, client)
        found = await audited(service)
        assert [r["action"] for r in found] == ["audit.started", "login"]
        assert not refused


async def test_a_database_that_is_away_at_the_start_ends_no_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_RETRY_S", (0.0,))
    real, away = audit.anchors_in, 3

    def anchors_in(engine: Engine) -> dict[str, Link]:
        nonlocal away
        away -= 1
        if away >= 0:
            raise OperationalError("SELECT", None, ConnectionError("gone"))
        return real(engine)

    monkeypatch.setattr(audit, "anchors_in", anchors_in)
    async with served(tmp_path) as (service, client):
        await sign_on(service, client)
        async with asyncio.timeout(30):
            assert [r["action"] for r in await audited(service)] == ["audit.started", "login"]


async def test_nothing_is_done_that_cannot_be_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_MOST_WAITING", 0)
    async with served(tmp_path) as (service, client):
        token = bearer(service.access.token)
        refused = await client.get("/v1/tasks", headers=token)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert (await client.post("/v1/events", json=EVENT, headers=token)).status_code == 200


async def test_no_secret_is_in_a_log_a_topic_or_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = ["k" * 43]
    async with served(tmp_path) as (service, client):
        answers = []
        key, text = service.access.keys.create("shop", role="admin", by="test", now=1.0)
        csrf = await sign_on(service, client)
        secrets += [text.split("_", 2)[2], str(service.access.token), client.cookies["weir-8080"], *csrf.values()]
        for headers in (bearer(text), bearer(f"weir_{key.id}_{'k' * 43}"), bearer(service.access.token), csrf):
            answers += [
                await client.get(path, headers=headers) for path in ("/v1/tasks", "/v1/entities/u1", "/metrics")
            ]
            answers.append(await client.post("/v1/events", json=EVENT, headers=headers))
        answers.append(await client.get(f"/?token={'k' * 43}"))
        await audited(service)
    logged = "".join(record.getMessage() for record in caplog.records if record.name != "httpx")  # the client's own
    told = logged + "".join(f"{answer.headers}{answer.text}" for answer in answers)
    kept = b"".join(
        p.read_bytes() for folder in ("inputs", "outputs", "kept") for p in (tmp_path / folder).rglob("*.*")
    )
    assert b"audit.started" in kept
    for secret in secrets:
        assert secret not in told
        assert secret.encode() not in kept
