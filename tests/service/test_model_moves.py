"""A move of a full model that the workers were not told of: it is said, shown, told later, and not made twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from httpx import AsyncClient

from tests.models.registering import register
from tests.service.engine_runs import rows
from tests.service.running import running
from weir.models.registry.registry import Registry
from weir.streams.config import topics
from weir.streams.errors import BrokerError
from weir.streams.records import Record
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog
from weir.streams.service.service import Service

pytestmark = pytest.mark.anyio


@contextmanager
def away(service: Service) -> Iterator[None]:
    """Brokers that take no update of a model."""
    append = service.log.append

    async def lost(topic: str, records: Sequence[Record], decoded: Any = None) -> Any:
        if topic == topics.MODEL_UPDATES:
            raise BrokerError("the brokers did not acknowledge within 10 s")
        return await append(topic, records, decoded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.log, "append", lost)
        yield


async def told(service: Service) -> list[tuple[str, str]]:
    assert isinstance(service.log, EmbeddedServiceLog)
    found = [msgspec.json.decode(record.value) for _, record in await rows(service.log, topics.MODEL_UPDATES)]
    return [(update["action"], update["version"]) for update in found]


async def page(client: AsyncClient) -> str:
    return (await client.get("/console/models", headers={"Accept": "text/html"})).text


async def test_a_rollback_that_was_not_told_goes_back_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        registry = Registry(service.settings.models.registry)
        for seed in range(3):
            register(registry, seed=seed)
            await client.post(f"/v1/models/fraud/{seed + 1}/stage", json={"to": "champion"})
        with away(service):
            refused = await client.post("/v1/models/fraud/rollback", json={"why": "worse"})
        assert (refused.status_code, refused.json()["title"]) == (503, "Workers not told")
        assert "the stage is changed" in refused.json()["detail"]
        assert registry.champion("fraud") == 2
        assert "workers not told" in await page(client)
        again = await client.post("/v1/models/fraud/rollback", json={"why": "worse"})
        assert (again.status_code, again.json()["champion"]) == (200, 2), "the same once more, and not one more"
        assert (await told(service))[3:] == [("rollback", "2")]
        assert "workers not told" not in await page(client)
        another = await client.post("/v1/models/fraud/rollback", json={})
        assert another.json()["champion"] == 1


@contextmanager
def late(service: Service) -> Iterator[None]:
    """Brokers that take what they are given, and say so too late."""
    append = service.log.append

    async def slow(topic: str, records: Sequence[Record], decoded: Any = None) -> Any:
        done = await append(topic, records, decoded)
        if topic == topics.MODEL_UPDATES:
            raise BrokerError("the brokers did not acknowledge within 10 s")
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.log, "append", slow)
        yield


async def serving(client: AsyncClient, service: Service, versions: int) -> Registry:
    registry = Registry(service.settings.models.registry)
    for seed in range(versions):
        register(registry, seed=seed)
        await client.post(f"/v1/models/fraud/{seed + 1}/stage", json={"to": "champion"})
    return registry


async def test_a_rollback_that_was_taken_late_and_asked_for_again_goes_back_once(tmp_path: Path) -> None:
    """Whoever gets 503, or no answer at all as the service was killed, does not know what became of it."""
    async with running(tmp_path) as (service, client):
        registry = await serving(client, service, 3)
        order = {"champion": 3, "why": "worse"}
        with late(service):
            refused = await client.post("/v1/models/fraud/rollback", json={"why": "worse"})
        assert refused.status_code == 503
        assert '"champion": 3' in refused.json()["fix"], "by it the same request is known again"
        for _ in range(2):
            again = await client.post("/v1/models/fraud/rollback", json=order)
            assert (again.status_code, again.json()["champion"]) == (200, 2)
        assert (await told(service))[3:] == [("rollback", "2")], "they knew it already"
        stale = await client.post("/v1/models/fraud/rollback", json={"champion": 1})
        assert (stale.status_code, registry.champion("fraud")) == (409, 2)
        form = (await client.get("/console/models/fraud/rollback?champion=2", headers={"Accept": "text/html"})).text
        assert 'name="champion" value="2"' in form
        assert "rollback?champion=2" in await page(client), "the button says what it saw"
        for _ in range(2):
            await client.post("/console/models/fraud/rollback", data={"champion": "2", "to": "", "why": ""})
        assert registry.champion("fraud") == 1


async def test_a_shadow_that_came_after_a_rollback_changes_nothing_of_that(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        registry = await serving(client, service, 3)
        register(registry, seed=3)
        with away(service):
            await client.post("/v1/models/fraud/rollback", json={})
        await client.post("/v1/models/fraud/4/stage", json={"to": "shadow"})
        again = await client.post("/v1/models/fraud/rollback", json={})
        assert again.json() == {"task": "fraud", "champion": 2, "shadow": 4}
        assert (await told(service))[4:] == [("rollback", "2"), ("shadow", "4")], "workers drop it with a rollback"


async def test_a_rollback_that_is_told_by_a_promotion_leaves_no_shadow(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        await serving(client, service, 2)
        with away(service):
            await client.post("/v1/models/fraud/rollback", json={})
        await client.post("/v1/models/fraud/1/stage", json={"to": "champion"})
        assert (await told(service))[2:] == [("rollback", "1")]


async def test_a_promotion_that_was_not_told_is_shown_and_can_be_told(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        registry = Registry(service.settings.models.registry)
        register(registry)
        with away(service):
            await client.post("/v1/models/fraud/1/stage", json={"to": "champion"})
        (model,) = (await client.get("/v1/models")).json()["models"]
        assert (model["stage"], model["told"]) == ("champion", False)
        assert 'id="champion-fraud-1"' in await page(client), "there is a button that tells them"
        await client.post("/console/models/fraud/1/stage", data={"to": "champion"})
        (model,) = (await client.get("/v1/models")).json()["models"]
        assert (model["stage"], model["told"]) == ("champion", True)
        assert 'id="champion-fraud-1"' not in await page(client)
        assert await told(service) == [("promote", "1")]
