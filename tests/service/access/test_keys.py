"""Keys: made once, refused when wrong, expired or revoked, and limited in what and how much."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from tests.service.access.served import EVENT, bearer, served
from weir.streams.cli.operate.keys import keys_app
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.errors import UsageError
from weir.streams.service.access import access as recently_read
from weir.streams.service.access.access import Access
from weir.streams.service.access.api_keys import KeyStore
from weir.streams.service.access.rates import FailedLogins, Rates
from weir.streams.service.access.roles import ROLES
from weir.streams.service.access.scopes import administrator
from weir.streams.service.parts import Problem
from weir.streams.service.store.database import access_database

pytestmark = pytest.mark.anyio


def key_of(access: Access, **given: object) -> str:
    options = {"role": "operator", "by": "test", "now": time.time(), **given}
    return access.keys.create("shop", **options)[1]  # type: ignore[arg-type]


async def test_a_key_opens_what_its_role_allows_and_nothing_else(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        operator, viewer = key_of(service.access), key_of(service.access, role="viewer")
        assert (await client.post("/v1/events", json=EVENT, headers=bearer(operator))).status_code == 200
        refused = await client.post("/v1/events", json=EVENT, headers=bearer(viewer))
        assert (refused.status_code, refused.json()["scope"]) == (403, "events:write")
        me = (await client.get("/v1/me", headers=bearer(viewer))).json()
        assert (me["name"], me["via"], me["tasks"]) == ("shop", "key", None)
        assert set(me["scopes"]) == ROLES["viewer"]


async def test_scopes_instead_of_a_role(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        key = key_of(service.access, role=None, scopes=["events:write"], tasks=["fraud"])
        me = (await client.get("/v1/me", headers=bearer(key))).json()
        assert (me["scopes"], me["tasks"]) == (["events:write"], ["fraud"])


async def test_nobody_and_whoever_has_a_wrong_key_is_told_how_to_get_one(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        key = key_of(service.access)
        wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
        other = f"weir_{'0' * 12}_{'s' * 43}"
        asked = [{}, bearer(wrong), bearer(other), bearer("nonsense"), {"authorization": "Basic YTpi"}]
        for headers in asked:
            answer = await client.post("/v1/events", json=EVENT, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), headers
            assert answer.headers["content-type"] == "application/problem+json"


async def test_a_key_ends_at_its_time_and_when_it_is_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path) as (service, client):
        short = key_of(service.access, expires_at=time.time() + 1e-3, now=time.time() - 1.0)
        long = key_of(service.access)
        assert (await client.get("/v1/me", headers=bearer(long))).status_code == 200
        expired = await client.get("/v1/me", headers=bearer(short))
        assert expired.status_code == 401
        service.access.keys.revoke(long.split("_")[1], time.time())  # as weir keys does, in another process
        monkeypatch.setattr(recently_read, "BELIEVED_S", 0.0)  # so much later, at most 5 s
        assert (await client.get("/v1/me", headers=bearer(long))).status_code == 401


def test_what_is_believed_of_a_key_is_younger_than_promised() -> None:
    assert recently_read.BELIEVED_S < 5.0


def test_the_database_holds_no_secret(tmp_path: Path) -> None:
    engine = access_database(ServeSettings(directory=tmp_path))
    _, key = KeyStore(engine).create("shop", role="admin", by="me", now=1.0)
    with engine.connect() as connection:
        held = repr(connection.execute(text("select * from api_keys")).all())
    assert key.split("_", 2)[2] not in held
    assert key.split("_", 2)[2].encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert not (tmp_path / "alerts.db").stat().st_mode & 0o077
    engine.dispose()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"role": "admin", "name": "a\nb"}, r"name 'a\\\\x0ab': give 1 to 64 characters"),
        ({"role": "boss"}, "role 'boss': give viewer, analyst, operator, admin"),
        ({"role": None, "scopes": ["alerts:raed"]}, "scope 'alerts:raed': give some of"),
        ({"role": None}, "a key has a role, or scopes"),
        ({"role": "admin", "scopes": ["feed:read"]}, "a key has a role, or scopes"),
        ({"role": "admin", "expires_at": 1.0}, "would have expired already"),
    ],
)
def test_a_key_that_cannot_be_is_refused_in_words(tmp_path: Path, given: dict[str, object], words: str) -> None:
    engine = access_database(ServeSettings(directory=tmp_path))
    with pytest.raises(UsageError, match=words):
        KeyStore(engine).create(**{"name": "shop", "by": "me", "now": 2.0, **given})  # type: ignore[arg-type]
    engine.dispose()


def test_weir_keys_makes_lists_and_revokes(tmp_path: Path) -> None:
    here = ["--dir", str(tmp_path)]
    run = CliRunner()
    for command in (["list"], ["revoke", "1f2e3d4c5b6a"]):  # a slip in the directory must not make another one
        wrong = run.invoke(keys_app, [*command, "--dir", str(tmp_path / "typo")])
        assert isinstance(wrong.exception, UsageError)
        assert "give its directory by --dir" in str(wrong.exception)
    assert not (tmp_path / "typo").exists()
    first = run.invoke(keys_app, ["create", "shop", "--role", "operator", "--task", "fraud", "--json", *here])
    made = json.loads(first.stdout)
    assert made["key"].startswith(f"weir_{made['id']}_")
    plain = run.invoke(keys_app, ["create", "desk", "--scope", "feed:read", "--expires", "90d", *here])
    assert plain.stdout.startswith("weir_")
    assert run.invoke(keys_app, ["revoke", made["id"], *here]).exit_code == 0
    listed = json.loads(run.invoke(keys_app, ["list", "--json", *here]).stdout)
    assert [(key["name"], key["state"], key["tasks"]) for key in listed] == [
        ("shop", "revoked", ["fraud"]),
        ("desk", "active", None),
    ]
    shown = run.invoke(keys_app, ["list", *here]).stdout
    assert "feed:read" in shown
    assert made["key"].split("_", 2)[2] not in shown


async def test_administrators_make_and_end_keys_over_http_and_the_audit_tells_it_without_the_key(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (service, client):
        token = bearer(service.access.token)
        made = (await client.post("/v1/keys", json={"name": "desk", "role": "analyst"}, headers=token)).json()
        assert (await client.get("/v1/me", headers=bearer(made["key"]))).json()["name"] == "desk"
        listed = (await client.get("/v1/keys", headers=token)).json()["keys"]
        assert [(key["id"], key["state"], key["created_by"]) for key in listed] == [(made["id"], "active", "admin")]
        assert "key" not in listed[0]
        ended = await client.delete(f"/v1/keys/{made['id']}", headers=token)
        assert ended.json()["state"] == "revoked"
        assert (await client.delete("/v1/keys/none", headers=token)).status_code == 422
        assert (await client.post("/v1/keys", json={"name": "x"}, headers=token)).status_code == 422
        while service.access.audit._waiting:
            await asyncio.sleep(0)
        answer = await client.get("/v1/audit?limit=100", headers=token)
        told = [(r["action"], r.get("subject"), r.get("outcome")) for r in answer.json()["records"]]
        assert ("POST /keys", f"key:{made['id']}", 201) in told
        assert ("DELETE /keys/{key_id}", None, 200) in told
        assert made["key"].split("_", 2)[2] not in answer.text


async def test_nobody_gives_what_they_may_not_do(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        maker = bearer(key_of(service.access, role=None, scopes=["keys:write", "feed:read"]))
        refused = await client.post("/v1/keys", json={"name": "x", "role": "admin"}, headers=maker)
        assert (refused.status_code, "alerts:write" in refused.json()["value"]) == (403, True)
        made = await client.post("/v1/keys", json={"name": "x", "scopes": ["feed:read"]}, headers=maker)
        assert made.status_code == 201


async def test_rates_are_of_each_caller_and_say_when_to_come_again(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        slow, other = key_of(service.access, requests_per_s=1.0), key_of(service.access)
        answers = [await client.get("/v1/me", headers=bearer(slow)) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert answers[-1].headers["retry-after"] == "1"
        assert (await client.get("/v1/me", headers=bearer(other))).status_code == 200


def test_a_large_body_is_taken_once_and_paid_for_by_the_next() -> None:
    now = [0.0]
    settings = ServeSettings.model_validate({"access": {"records_per_s": 100}}).access
    rates = Rates(settings, lambda: now[0])
    caller = administrator("token")
    rates.take_records(caller, 1_000)
    for at, free in ((1.0, False), (7.9, False), (8.1, True)):
        now[0] = at
        if free:
            rates.take_records(caller, 1)
            continue
        with pytest.raises(Problem, match="may send 100 records a second") as refused:
            rates.take_records(caller, 1)
        assert int(refused.value.headers["Retry-After"]) >= 1


def test_wrong_secrets_slow_their_address_down_alone() -> None:
    now = [0.0]
    failed = FailedLogins(lambda: now[0])
    for _ in range(6):
        failed.allow("10.0.0.1")
        failed.failed("10.0.0.1")
    with pytest.raises(Problem, match=r"10\.0\.0\.1 sent wrong secrets; wait 2 s"):
        failed.allow("10.0.0.1")
    failed.allow("10.0.0.2")
    now[0] = 2.1
    failed.allow("10.0.0.1")
    failed.failed("2001:db8::1")
    for _ in range(5):
        failed.failed("2001:db8::2")  # of the same customer
    with pytest.raises(Problem):
        failed.allow("2001:db8::3")


def test_a_program_that_tries_a_wrong_key_for_days_waits_as_long_each_time() -> None:
    now = [0.0]
    failed = FailedLogins(lambda: now[0])
    for _ in range(1_100):  # two to the power of so many is no float any more
        now[0] += 300.0
        failed.allow("10.0.0.1")
        failed.failed("10.0.0.1")
    with pytest.raises(Problem, match="wait 300 s"):
        failed.allow("10.0.0.1")


async def test_guesses_are_answered_429_and_a_known_key_of_the_address_still_works(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        key = key_of(service.access)
        assert (await client.get("/v1/me", headers=bearer(key))).status_code == 200
        answers = [(await client.get("/v1/me", headers=bearer("x" * 50))).status_code for _ in range(8)]
        assert answers == [401] * 6 + [429] * 2
        assert (await client.get("/v1/me", headers=bearer(key))).status_code == 200
