"""Sign-on against a real provider over real sockets, and everything that must not sign anybody on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from httpx import AsyncClient, Response
from joserfc.jwk import ECKey

from tests.service.access.oidc_provider import CLIENT, SECRET, Provider, provider
from tests.service.running import listening, make_service
from weir.streams.config.serve_settings import Grant, OidcSettings
from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError
from weir.streams.service.access.access import Access
from weir.streams.service.access.login.oidc import SignOn
from weir.streams.service.access.roles import OF_ALL_TASKS, ROLES
from weir.streams.service.parts import Problem
from weir.streams.service.service import Service

pytestmark = pytest.mark.anyio
GROUPS = {
    "fraud desk": {"role": "analyst", "tasks": ["fraud"]},
    "everyone": {"role": "viewer"},
    "ops": {"role": "operator", "tasks": ["churn"]},
    "chiefs": {"role": "admin"},
}


@asynccontextmanager
async def signing_on(directory: Path, **oidc: Any) -> AsyncIterator[tuple[Provider, Service, AsyncClient]]:
    """A provider, a service that listens, and a browser that has been nowhere."""
    async with provider() as there:
        given = {"issuer": there.issuer, "client_id": CLIENT, "client_secret": SECRET, "groups": GROUPS, **oidc}
        service = make_service(directory, serve={"access": {"oidc": given}})
        async with listening(service) as port, AsyncClient(base_url=f"http://127.0.0.1:{port}") as browser:
            yield there, service, browser


async def through(browser: AsyncClient, page: str = "/alerts?a=1") -> Response:
    """What the browser is answered when it comes back from the provider."""
    answer = await browser.get("/v1/login", params={"next": page})
    assert answer.status_code == 303, answer.text
    return await browser.get((await browser.get(answer.headers["location"])).headers["location"])


async def test_a_person_signs_on_and_may_do_what_the_group_may(tmp_path: Path) -> None:
    async with signing_on(tmp_path) as (_, service, browser):
        assert service.access.token is None  # who has users needs no link
        assert service.access.link().endswith("/")
        assert (await browser.get("/v1/me")).status_code == 401
        answer = await through(browser)
        assert (answer.status_code, answer.headers["location"]) == (303, "/alerts?a=1")
        assert [cookie.name for cookie in browser.cookies.jar if "login" in cookie.name] == []
        me = (await browser.get("/v1/me")).json()
        assert (me["id"], me["name"], me["via"], me["tasks"]) == ("person:7", "ana", "session", ["fraud"])
        assert set(me["scopes"]) == ROLES["analyst"]
        assert me["expires_at"] > time.time()
        csrf = {"x-csrf-token": me["csrf_token"]}
        assert (await browser.post("/v1/logout", headers=csrf)).status_code == 204
        assert (await browser.get("/v1/me")).status_code == 401


@pytest.mark.parametrize(
    ("groups", "role", "tasks"),
    [
        (["everyone", "fraud desk"], "analyst", ["fraud"]),
        (["ops", "fraud desk"], "operator", ["churn"]),  # not operator of fraud: no group says so
        (["chiefs", "ops"], "admin", None),
        ("chiefs", "admin", None),
    ],
)
async def test_of_several_groups_the_strongest_counts(
    tmp_path: Path, groups: Any, role: str, tasks: list[str] | None
) -> None:
    async with signing_on(tmp_path) as (there, _, browser):
        there.claims["groups"] = groups
        await through(browser)
        me = (await browser.get("/v1/me")).json()
        assert set(me["scopes"]) == ROLES[role] - (OF_ALL_TASKS if tasks else set())
        assert me["tasks"] == tasks


@pytest.mark.parametrize("groups", [[], ["cooks"], None])
async def test_who_is_in_no_group_may_not_enter(tmp_path: Path, groups: Any) -> None:
    async with signing_on(tmp_path) as (there, _, browser):
        there.claims["groups"] = groups
        answer = await through(browser)
        assert (answer.status_code, answer.json()["title"]) == (403, "Not allowed")
        assert (await browser.get("/v1/me")).status_code == 401


CHANGES: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "http://evil.example"},
    "for another client": {"aud": "another"},
    "for two clients": {"aud": [CLIENT, "another"], "azp": "another"},
    "past its time": {"exp": 1_000_000_000},
    "not yet": {"nbf": 4_000_000_000},
    "of another sign-on": {"nonce": "another"},
    "without a nonce": {"nonce": None},
    "of nobody": {"sub": None},
    "of another access token": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
}


@pytest.mark.parametrize("what", CHANGES)
async def test_a_false_token_signs_nobody_on(tmp_path: Path, what: str) -> None:
    async with signing_on(tmp_path) as (there, _, browser):
        there.changes = CHANGES[what]
        answer = await through(browser)
        assert (answer.status_code, answer.json()["title"]) == (401, "Not believed"), answer.text
        assert (await browser.get("/v1/me")).status_code == 401


async def test_a_token_signed_by_another_key_signs_nobody_on_and_a_new_key_of_the_provider_does(tmp_path: Path) -> None:
    async with signing_on(tmp_path) as (there, _, browser):
        there.signs_with = ECKey.generate_key("P-256", {"kid": "1", "use": "sig"})  # not the one that it publishes
        assert (await through(browser)).status_code == 401
        there.signs_with = there.key = ECKey.generate_key("P-256", {"kid": "2", "use": "sig"})
        assert (await through(browser)).status_code == 303


async def test_state_and_code_are_of_one_browser_and_good_once(tmp_path: Path) -> None:
    async with signing_on(tmp_path) as (there, _, browser):
        away = (await browser.get("/v1/login")).headers["location"]
        back = (await browser.get(away)).headers["location"]
        async with AsyncClient(base_url=browser.base_url) as other:
            assert (await other.get(back)).status_code == 400  # a link that somebody else sends signs nobody on
            await other.get("/v1/login")
            assert (await other.get(back)).json()["title"] == "Sign on again"
        assert not there.tokens
        forged = back.replace(parse_qs(urlsplit(back).query)["state"][0], "forged")
        assert (await browser.get(forged)).status_code == 400
        assert (await browser.get(back)).status_code == 303
        assert (await browser.get(back)).status_code == 400  # the cookie is gone


async def test_a_refusal_of_the_provider_is_told(tmp_path: Path) -> None:
    async with signing_on(tmp_path) as (_, _, browser):
        await browser.get("/v1/login")
        answer = await browser.get("/v1/login/callback?error=access_denied&state=x")
        assert (answer.status_code, "access_denied" in answer.text) == (401, True)


async def test_a_provider_that_wants_the_secret_in_the_form(tmp_path: Path) -> None:
    async with signing_on(tmp_path) as (there, _, browser):
        there.methods = ["client_secret_post"]
        assert (await through(browser)).status_code == 303


async def test_a_wrong_client_secret_is_told(tmp_path: Path) -> None:
    async with signing_on(tmp_path, client_secret="another") as (_, _, browser):
        answer = await through(browser)
        assert (answer.status_code, "invalid_grant" in answer.text) == (401, True)


async def test_a_provider_that_is_away_is_told(tmp_path: Path) -> None:
    async with signing_on(tmp_path, issuer="http://127.0.0.1:9") as (_, _, browser):
        answer = await browser.get("/v1/login")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_sign_on_leads_to_no_other_site(tmp_path: Path) -> None:
    async with signing_on(tmp_path) as (_, _, browser):
        assert (await through(browser, "//evil.example/x")).headers["location"] == "/"
        assert (await through(browser, "/" + "x" * 5_000)).headers["location"] == "/"  # no cookie would hold it


async def test_a_group_that_loses_its_role_is_out_though_it_signed_on(tmp_path: Path) -> None:
    async with signing_on(tmp_path) as (_, service, browser):
        await through(browser)
        service.access._settings.oidc.groups.pop("fraud desk")
        assert (await browser.get("/v1/me")).status_code == 401


def test_what_the_network_reaches_has_to_know_where_to_come_back_to(tmp_path: Path) -> None:
    serve = {"directory": str(tmp_path), "host": "0.0.0.0"}
    given = {"issuer": "https://id.example", "groups": GROUPS}
    settings = Settings.model_validate({"serve": {**serve, "access": {"oidc": given}}})
    with pytest.raises(UsageError, match="public_url is not: sign-on has to know where to come back"):
        Access(cast(Any, SimpleNamespace(settings=settings)))


@pytest.mark.parametrize(
    ("url", "document", "words"),
    [
        ("openid-configuration", [], "answers 200 with no JSON object"),
        ("openid-configuration", {"issuer": "https://id.example"}, "its configuration has no authorization_endpoint"),
        ("jwks", {"keys": [{"kty": "EC"}]}, "https://id.example/jwks holds no keys"),
    ],
)
async def test_a_provider_that_is_none_is_told(url: str, document: Any, words: str) -> None:
    ends = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    found = {"issuer": "https://id.example", **dict.fromkeys(ends, "https://id.example/jwks")}

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=document if request.url.path.endswith(url) else found)

    settings = OidcSettings(issuer="https://id.example", groups={"desk": Grant(role="viewer")})
    sign_on = SignOn(settings, httpx.MockTransport(answer))
    with pytest.raises(Problem, match=words) as away:
        await sign_on.begin("https://weir.example/v1/login/callback", "/")
    assert away.value.status == 503
    await sign_on.close()
