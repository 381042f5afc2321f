"""A worker's web server: health, readiness and metrics over HTTP; an address that it cannot have is said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import aiohttp
import numpy as np
import orjson
import pytest

from weir.streams.errors import UsageError
from weir.streams.ops.metrics import Metrics
from weir.streams.ops.web import WebServer


class FakeStatus:
    """A worker that says what a test wants it to."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def ready(self) -> list[str]:
        return list(self.reasons)

    def describe(self) -> Mapping[str, object]:
        return {"lanes": ["user-events-0"], "models": {"fraud": np.int64(7)}}


Served = tuple[str, FakeStatus, Metrics]
"""Where a server is, and what it tells of."""


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    status, metrics = FakeStatus(), Metrics()
    async with WebServer("127.0.0.1", 0, status, metrics, {"role": "score", "worker": "w-1"}) as server:
        yield server.url, status, metrics


async def get(url: str) -> tuple[int, bytes, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.read(), answer.headers["Content-Type"]


async def test_health_answers_whatever_the_worker_does(served: Served) -> None:
    url, status, _ = served
    status.reasons = ["no partitions"]
    code, body, kind = await get(f"{url}/health")
    document = orjson.loads(body)
    assert (code, kind) == (200, "application/json")
    assert (document["status"], document["role"], document["worker"]) == ("alive", "score", "w-1")
    assert document["uptime_s"] >= 0
    assert document["version"]


async def test_ready_is_200_only_while_nothing_speaks_against_it(served: Served) -> None:
    url, status, metrics = served
    code, body, _ = await get(f"{url}/ready")
    assert (code, orjson.loads(body)["models"]) == (200, {"fraud": 7})
    status.reasons = ["the model of task fraud is 40 examples behind"]
    code, body, _ = await get(f"{url}/ready")
    assert (code, orjson.loads(body)["reasons"]) == (503, status.reasons)
    assert metrics.gauge("weir_ready").value == 0


async def test_metrics_are_prometheus_text_with_what_was_counted(served: Served) -> None:
    url, _, metrics = served
    metrics.inc("weir_batches_total", 3, topic="labels")
    code, body, kind = await get(f"{url}/metrics")
    assert (code, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'weir_batches_total{topic="labels"} 3.0' in body
    assert b"weir_ready 1.0" in body
    assert b'role="score"' in body


async def test_a_port_in_use_is_named_with_its_setting(served: Served) -> None:
    url, status, metrics = served
    port = int(url.rpartition(":")[2])
    second = WebServer("127.0.0.1", port, status, metrics)
    with pytest.raises(UsageError, match=rf"web_port = {port}: the port is in use"):
        await second.start()
    await second.stop()
    assert (await get(f"{url}/health"))[0] == 200, "the first goes on"


async def test_an_address_of_another_machine_is_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match=r"web_host = '203\.0\.113\.9'.*0\.0\.0\.0"):
        await WebServer("203.0.113.9", 8090, FakeStatus(), Metrics()).start()
