"""Routes that are asked often answer as FastAPI would, with less work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.dependencies import utils
from httpx import ASGITransport, AsyncClient

from tests.service.running import EVENT, make_service
from weir.streams.service.app import QuickRoute, create_app

pytestmark = pytest.mark.anyio
QUERIES = (
    "", "stream=user-events", "stream=nothing", "stream=", "each=true", "each=perhaps", "deadline=5", "&&",
    "deadline_ms=60000&explain=false", "deadline_ms=0", "deadline_ms=x", "deadline_ms=1&deadline_ms=50000",
    "%64eadline_ms=900", "a=" + "b" * 300,
)  # fmt: skip


def shown(answer: Any) -> tuple[int, Any, set[str]]:
    """What a caller sees; a repeat that is learned in between is not looked at."""
    document = answer.json()
    return answer.status_code, {k: v for k, v in document.items() if k not in ("results", "repeats", "accepted")}, {
        *answer.headers} - {"x-request-id"}  # fmt: skip


async def test_any_query_is_answered_as_fastapi_does(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    quick, usual = create_app(service), create_app(service)
    usual.router.routes[:] = [route for route in usual.router.routes if not isinstance(route, QuickRoute)]
    assert len(quick.router.routes) - len(usual.router.routes) == 3
    clients = [AsyncClient(transport=ASGITransport(app), base_url="http://127.0.0.1:8080") for app in (quick, usual)]
    async with service:
        for route in ("events", "labels", "decisions"):
            for query in QUERIES:
                told = [shown(await client.post(f"/v1/{route}?{query}", json=EVENT)) for client in clients]
                assert told[0] == told[1], (route, query)
            told = [shown(await client.put(f"/v1/{route}", json=EVENT)) for client in clients]
            assert told[0] == told[1], route
            assert told[0][0] == 405
    for client in clients:
        await client.aclose()
    assert quick.openapi() == usual.openapi()


async def test_parameters_are_worked_out_once_for_each_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worked_out: list[Any] = []
    real = utils.request_params_to_args

    def counted(fields: Any, given: Any) -> Any:
        worked_out.append(dict(given))
        return real(fields, given)

    monkeypatch.setattr(utils, "request_params_to_args", counted)
    monkeypatch.setattr("fastapi.routing.solve_dependencies", None)  # what FastAPI does for each request
    service = make_service(tmp_path)
    transport = ASGITransport(create_app(service))
    async with service, AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        for n in range(6):
            answer = await client.post(f"/v1/events?each={n % 2}", json={**EVENT, "event_id": f"e{n}"})
            assert answer.json()["accepted"] == 1
    assert worked_out == [{"each": "0"}, {"each": "1"}]
