"""A verdict that counts gets its labels, wherever whoever gave it fails; one that does not count gets none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient

from tests.service.alert_service import alerts, at, event, problem, send, service, topic
from weir.streams.config import topics
from weir.streams.errors import BrokerError
from weir.streams.records import Record
from weir.streams.service.store import cases, owed_labels

pytestmark = pytest.mark.anyio


def no_labels(client: AsyncClient) -> Callable[[], None]:
    """Brokers that take everything but labels, as where one partition has no leader, until what is given is called."""
    log = client.log  # type: ignore[attr-defined]
    append = log.append

    async def lost(topic: str, records: Sequence[Record], decoded: Any = None) -> Any:
        if topic == topics.LABELS:
            raise BrokerError("the brokers did not acknowledge within 10 s")
        return await append(topic, records, decoded)

    log.append = lost

    def taken() -> None:
        log.append = append

    return taken


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left behind is looked for at once."""
    monkeypatch.setattr(cases, "_LOOK_FOR_OWED_S", 0.02)
    monkeypatch.setattr(owed_labels, "WAIT_S", -60.0)


async def values(client: AsyncClient, n: int) -> list[int]:
    """Of the labels, once there are ``n`` of them."""
    came = asyncio.Event()
    end = client.log.subscribe([topics.LABELS], lambda _: came.set())  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        while len(found := await topic(client, "labels")) < n:
            await came.wait()
            came.clear()
    end()
    return [label["value"] for label in found if label.get("event_id")]


async def owed(client: AsyncClient) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owed_labels, "WAIT_S", -100.0)
        return await client.store.cases.ask(owed_labels.left_behind)  # type: ignore[attr-defined]


async def judged(client: AsyncClient, alert: dict[str, Any], verdict: str, **headers: str) -> Any:
    return await client.post(at(alert["alert_id"], "verdict"), json={"verdict": verdict}, headers=headers)


@pytest.mark.usefixtures("soon")
async def test_labels_that_brokers_did_not_take_are_sent_later_also_by_another_process(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1))
        (alert,) = await alerts(client, 1)
        no_labels(client)
        await problem(await judged(client, alert, "confirmed"), 503)
        shown = (await client.get(at(alert["alert_id"]))).json()
        assert shown["verdict"] == "confirmed", "it is shown, so it has to be learned"
        assert await topic(client, "labels") == []
    async with service(tmp_path) as client:
        assert await values(client, 1) == [1]
        async with asyncio.timeout(30):
            while await owed(client) != ([], []):
                pass
        assert len(await topic(client, "labels")) == 1, "what is sent is not owed any more"


async def test_those_of_the_newest_verdict_come_last(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1))
        (alert,) = await alerts(client, 1)
        taken = no_labels(client)
        await problem(await judged(client, alert, "confirmed"), 503)
        taken()
        assert (await judged(client, alert, "false_alarm")).status_code == 200
        assert await values(client, 3) == [1, 0]
        taken = no_labels(client)
        await problem(await client.post(at(alert["alert_id"], "undo")), 503)
        taken()
        assert (await judged(client, alert, "false_alarm")).status_code == 200
        assert await values(client, 6) == [1, 0, 1, 0]


async def test_one_that_does_not_count_gets_none(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        await send(client, event("u1", 1), event("u2", 2))
        first, second = await alerts(client, 2)
        assert (await judged(client, first, "confirmed")).status_code == 200
        refused = await judged(client, first, "false_alarm", **{"If-Match": '"0"'})
        assert refused.status_code == 409
        assert (await judged(client, second, "confirmed")).status_code == 200
        assert await values(client, 2) == [1, 1]
        assert await owed(client) == ([], [])
