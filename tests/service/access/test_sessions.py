"""The link of loopback, sessions in cookies, and what browsers are kept from."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from tests.service.access.served import EVENT, bearer, served
from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError
from weir.streams.service.access import access as recently_read
from weir.streams.service.access.access import Access

pytestmark = pytest.mark.anyio


async def test_the_link_becomes_a_session_and_the_token_leaves_the_address(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        link = service.access.link()
        assert link == f"http://127.0.0.1:8080/?token={service.access.token}"
        answer = await client.get(f"/some/page?a=1&token={service.access.token}&b=2")
        assert (answer.status_code, answer.headers["location"]) == (303, "/some/page?a=1&b=2")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("weir-8080=")
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert str(service.access.token) not in cookie
        me = (await client.get("/v1/me")).json()
        assert (me["name"], me["via"]) == ("admin", "session")


async def test_who_follows_the_link_is_signed_on(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        answer = await client.get(service.access.link(), follow_redirects=True)
        assert str(answer.url) == "http://127.0.0.1:8080/"  # without the token
        assert (await client.get("/v1/me")).json()["name"] == "admin"


async def test_a_link_never_leads_to_another_site(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        answer = await client.get(f"http://127.0.0.1:8080//evil.example/?token={service.access.token}")
        assert answer.headers["location"] == "/evil.example/"


async def test_a_wrong_token_makes_no_session(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, client):
        answer = await client.get("/?token=wrong")
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


async def test_a_change_by_a_browser_needs_the_token_of_our_page(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        await client.get(f"/?token={service.access.token}")
        assert (await client.post("/v1/events", json=EVENT)).status_code == 403
        assert (await client.post("/v1/events", json=EVENT, headers={"x-csrf-token": "x"})).status_code == 403
        csrf = (await client.get("/v1/me")).json()["csrf_token"]
        assert (await client.post("/v1/events", json=EVENT, headers={"x-csrf-token": csrf})).status_code == 200


async def test_sessions_survive_a_restart_and_end_with_the_token(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        await client.get(f"/?token={service.access.token}")
        cookies = dict(client.cookies)
    async with served(tmp_path) as (_, client):
        client.cookies.update(cookies)
        assert (await client.get("/v1/me")).status_code == 200
    (tmp_path / "token").unlink()
    async with served(tmp_path) as (_, client):
        client.cookies.update(cookies)
        assert (await client.get("/v1/me")).status_code == 401


async def test_a_login_makes_a_new_cookie_and_the_old_one_ends(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        await client.get(f"/?token={service.access.token}")
        first = client.cookies["weir-8080"]
        await client.get(f"/?token={service.access.token}")
        second = client.cookies["weir-8080"]
        assert first != second
        client.cookies.clear()
        assert (await client.get("/v1/me", headers={"cookie": f"weir-8080={first}"})).status_code == 401
        assert (await client.get("/v1/me", headers={"cookie": f"weir-8080={second}"})).status_code == 200


async def test_who_logs_out_is_out(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        await client.get(f"/?token={service.access.token}")
        kept = client.cookies["weir-8080"]
        csrf = (await client.get("/v1/me")).json()["csrf_token"]
        assert (await client.post("/v1/logout", headers={"x-csrf-token": csrf})).status_code == 204
        assert "weir-8080" not in client.cookies
        assert (await client.get("/v1/me", headers={"cookie": f"weir-8080={kept}"})).status_code == 401


async def test_a_session_ends_at_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path, access={"session_age": "1m"}) as (service, client):
        await client.get(f"/?token={service.access.token}")
        later = time.time() + 61.0
        monkeypatch.setattr(time, "time", lambda: later)
        monkeypatch.setattr(recently_read, "BELIEVED_S", 0.0)
        kept = next(iter(client.cookies.jar)).value
        assert (await client.get("/v1/me", headers={"cookie": f"weir-8080={kept}"})).status_code == 401


async def test_over_https_the_cookie_is_of_this_host_alone(tmp_path: Path) -> None:
    async with served(tmp_path, "https://127.0.0.1:8080") as (service, client):
        answer = await client.get(f"/?token={service.access.token}")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-weir=")
        assert all(word in cookie for word in ("Secure", "HttpOnly", "SameSite=lax", "Path=/"))
        assert "Domain" not in cookie
        assert answer.headers["strict-transport-security"].startswith("max-age=31536000")


async def test_nobody_signs_on_over_a_network_in_clear(tmp_path: Path) -> None:
    given: dict[str, Any] = {"host": "0.0.0.0", "access": {"token": "t" * 40}}
    async with served(tmp_path, "http://weir.example:8080", **given) as (_, client):
        answer = await client.get(f"/?token={'t' * 40}")
        assert (answer.status_code, answer.json()["title"]) == (403, "Not encrypted")
        assert "set-cookie" not in answer.headers
        assert (await client.get("/v1/me", headers=bearer("t" * 40))).status_code == 200


async def test_a_name_that_was_pointed_at_this_machine_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        headers = bearer(service.access.token)
        for host, status in (
            ("evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("[::", 403),
            ("", 403),
            ("localhost:9", 200),
            ("[::1]:8080", 200),
            ("127.0.0.1", 200),
        ):
            assert (await client.get("/v1/me", headers={**headers, "host": host})).status_code == status, host
    async with served(tmp_path, public_url="https://weir.example.com") as (service, client):
        answer = await client.get("/v1/me", headers={**bearer(service.access.token), "host": "weir.example.com"})
        assert answer.status_code == 200


async def test_where_all_is_open_a_page_of_another_site_changes_nothing(tmp_path: Path) -> None:
    async with served(tmp_path, access={"open": True}, host="10.0.0.5") as (service, client):
        assert service.access.token is None
        assert (await client.post("/v1/events", json=EVENT)).status_code == 200
        refused = await client.post("/v1/events", json=EVENT, headers={"sec-fetch-site": "cross-site"})
        assert refused.status_code == 403
        # As browsers ask over plain http, where they say the origin alone.
        form = {"content-type": "application/x-www-form-urlencoded", "host": "10.0.0.5:8080"}
        for origin, status in (
            ("http://evil.example", 403), ("null", 403), ("http://10.0.0.5", 403), ("http://10.0.0.5:8080", 204)
        ):  # fmt: skip
            answer = await client.post("/v1/logout", headers=form | {"origin": origin})
            assert answer.status_code == status, origin


def access_of(directory: Path, **serve: Any) -> Access:
    settings = Settings.model_validate({"serve": {"directory": str(directory), **serve}})
    return Access(cast(Any, SimpleNamespace(settings=settings)))


def test_what_the_network_reaches_needs_users(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match=r"host = '0\.0\.0\.0' can be reached .* no users: make a key \(weir keys"):
        access_of(tmp_path, host="0.0.0.0")
    assert not caplog.records
    access_of(tmp_path, host="0.0.0.0", access={"open": True})
    assert "ANYONE who reaches 0.0.0.0:8080 may read and change everything" in caplog.text
    keys = access_of(tmp_path, host="0.0.0.0", access={"token": "t" * 32}).keys
    key, _ = keys.create("shop", role="viewer", by="test", now=time.time())
    access_of(tmp_path, host="0.0.0.0")
    keys.revoke(key.id, time.time())
    with pytest.raises(UsageError, match="there are no users"):
        access_of(tmp_path, host="0.0.0.0")


def test_the_token_is_of_this_user_alone_and_kept(tmp_path: Path) -> None:
    first = access_of(tmp_path).token
    file = tmp_path / "token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert access_of(tmp_path).token == first
    file.chmod(0o644)
    with pytest.raises(UsageError, match="others may read this token"):
        access_of(tmp_path)


def test_a_token_that_was_set_is_in_no_link(tmp_path: Path) -> None:
    assert access_of(tmp_path, access={"token": "t" * 32}).link(9000) == "http://127.0.0.1:9000/"


async def test_every_answer_binds_the_browser(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, client):
        for path in ("/health", "/v1/me", "/v1/nothing", "/?token=wrong"):
            headers = (await client.get(path)).headers
            assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "strict-transport-security" not in headers


async def test_a_database_that_is_away_is_told_and_asked_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("SELECT", None, ConnectionError("gone"))

    async with served(tmp_path) as (service, client):
        monkeypatch.setattr(service.access.sessions, "begin", away)
        monkeypatch.setattr(service.access.keys, "all", away)
        entering = await client.get(f"/?token={service.access.token}")
        listing = await client.get("/v1/keys", headers=bearer(service.access.token))
    for answer in (entering, listing):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["title"] == "Database away"
        assert "content-security-policy" in answer.headers


async def test_nobody_fills_memory_before_it_is_known_who_sends(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        for path, sender, status in (
            ("/v1/keys", {}, 413),
            ("/v1/alerts/verdicts", {}, 413),
            ("/v1/alerts/verdicts", bearer(service.access.token), 413),
            ("/console/keys", {}, 401),
            ("/v1/events", {}, 401),
        ):
            read = 0

            async def body() -> AsyncIterator[bytes]:
                nonlocal read
                for _ in range(64):
                    read += 1
                    yield b" " * (1 << 18)

            headers = {"content-type": "application/json", **sender}
            answer = await client.post(path, content=body(), headers=headers)
            assert (answer.status_code, read <= 5) == (status, True), path
        large = await client.post("/v1/events", content=b" " * (2 << 20) + b"{}", headers=bearer(service.access.token))
        assert large.status_code == 422, "events are bounded by [serve.intake] alone"
