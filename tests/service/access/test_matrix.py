"""Every route of the service, and every kind of caller: made from the routes, so that a new one has to be in it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from starlette.requests import Request

from tests.service.access.served import bearer, served
from weir.streams.service.access import access as recently_read
from weir.streams.service.access.access import Access
from weir.streams.service.access.roles import ROLES, SCOPES
from weir.streams.service.access.scopes import Caller
from weir.streams.service.app import create_app
from weir.streams.service.parts import Problem
from weir.streams.service.service import Service

pytestmark = pytest.mark.anyio
PUBLIC = {
    "/",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/v1/login",
    "/v1/login/callback",
    "/console/assets/{version}/{name:path}",
}
"""Routes for everybody: they tell nothing of anybody, and are how somebody becomes known."""
ALLOWED = 418


class Place(NamedTuple):
    method: str
    path: str
    scopes: tuple[str, ...]


def places(app: FastAPI) -> Iterator[Place]:
    """Every route with the scopes that its dependencies name."""
    for found, prefix in within(app.routes, ""):
        dependant: Any = getattr(found, "dependant", None)
        asked = [] if dependant is None else dependant.dependencies
        scopes = tuple(d.call.scope for d in asked if hasattr(d.call, "scope"))
        for method in sorted(found.methods - ({"HEAD"} if "GET" in found.methods else set())):
            yield Place(method, prefix + found.path, scopes)


def within(routes: Sequence[Any], prefix: str) -> Iterator[tuple[Any, str]]:
    """Routes with what stands before their paths, those of included routers too."""
    for route in routes:
        if (router := getattr(route, "original_router", None)) is None:
            yield route, prefix
        else:
            yield from within(router.routes, prefix + route.include_context.prefix)


async def status_of(client: AsyncClient, place: Place, headers: dict[str, str]) -> int:
    return (
        await client.request(place.method, re.sub(r"\{[^}]*\}", "1", place.path), headers=headers, json={})
    ).status_code


@pytest.fixture
def allowed_goes_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who passes the check is answered 418: nothing is changed, and no feed runs on."""
    real = Access.check

    async def check(self: Access, request: Request, scope: str) -> Caller:
        caller = await real(self, request, scope)
        raise Problem(ALLOWED, "Allowed", caller.name)

    monkeypatch.setattr(Access, "check", check)


def keys_of(service: Service) -> dict[str, str]:
    """A key of each role, and keys that no longer are."""
    now, create = time.time(), service.access.keys.create
    keys = {role: create(role, role=role, by="test", now=now)[1] for role in ROLES}
    keys["expired"] = create("expired", role="admin", expires_at=now - 1.0, by="test", now=now - 2.0)[1]
    revoked, keys["revoked"] = create("revoked", role="admin", by="test", now=now)
    service.access.keys.revoke(revoked.id, now)
    return keys


async def test_every_route_asks_for_a_scope_that_somebody_has(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, _):
        found = list(places(create_app(service)))
    assert len(found) > 10
    for place in found:
        if place.path in PUBLIC:
            assert not place.scopes, place
            continue
        assert len(place.scopes) == 1, f"{place}: give the route needs(...), or put it into PUBLIC here and say why"
        assert place.scopes[0] in {*SCOPES, ""}
        if place.method not in ("GET", "HEAD"):
            assert not place.scopes[0].endswith(":read"), f"{place} changes something, and its scope says that it reads"


@pytest.mark.usefixtures("allowed_goes_no_further")
async def test_every_route_and_every_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"requests_per_s": 1e6}
    async with served(tmp_path, access=limits) as (service, client):
        keys = keys_of(service)
        monkeypatch.setattr(service.access._failed, "allow", lambda _: None)  # wrong on purpose
        for place in places(create_app(service)):
            if place.path in PUBLIC:
                assert await status_of(client, place, {}) not in (401, 403, ALLOWED), place
                continue
            scope = place.scopes[0]
            assert await status_of(client, place, {}) == 401, place
            for name in ("expired", "revoked"):
                assert await status_of(client, place, bearer(keys[name])) == 401, (place, name)
            for role, has in ROLES.items():
                wanted = ALLOWED if not scope or scope in has else 403
                assert await status_of(client, place, bearer(keys[role])) == wanted, (place, role)


async def test_a_caller_of_another_task_sees_and_changes_nothing_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recently_read, "BELIEVED_S", 3600.0)
    async with served(tmp_path) as (service, client):
        key = service.access.keys.create("other", role="admin", tasks=["other"], by="test", now=time.time())[1]
        of_a_task = [p for p in places(create_app(service)) if "{task}" in p.path]
        assert of_a_task
        for place in of_a_task:
            path = re.sub(r"\{[^}]*\}", "1", place.path.replace("{task}", "fraud"))
            answer = await client.request(place.method, path, headers=bearer(key), json={"by": "x", "reason": "x"})
            assert answer.status_code in (403, 404), (place, answer.text)
        for path in ("/v1/dead-letters", "/v1/dead-letters/0-1"):  # of no task: nobody with a limit sees them
            assert (await client.get(path, headers=bearer(key))).status_code == 403
        snooze = {"task": "fraud", "kind": "entity", "of": "u1", "for_s": "1h"}
        assert (await client.post("/v1/snoozes", json=snooze, headers=bearer(key))).status_code == 403
        assert (await client.post("/v1/snoozes", json=snooze, headers=bearer(service.access.token))).status_code == 200
        for path in ("/v1/tasks", "/v1/models", "/v1/drift", "/v1/retraining", "/v1/snoozes"):
            assert "fraud" not in (await client.get(path, headers=bearer(key))).text, path


def test_each_role_has_what_the_one_before_it_has() -> None:
    roles = list(ROLES.values())
    assert all(before < after for before, after in pairwise(roles))
    assert roles[-1] == set(SCOPES)
