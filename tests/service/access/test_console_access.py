"""A browser that nobody has signed on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.access.served import served

pytestmark = pytest.mark.anyio
PAGE = {"Accept": "text/html"}


async def test_who_is_not_known_sees_how_to_sign_on_and_a_program_sees_a_problem(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, client):
        page = await client.get("/console/alerts", headers=PAGE)
        program = await client.get("/console/alerts")
        entered = await client.get(f"/?token={service.access.token}", headers=PAGE, follow_redirects=True)
    assert page.status_code == program.status_code == 401
    assert "weir serve" in page.text
    assert program.headers["Content-Type"] == "application/problem+json"
    assert entered.url.path.startswith("/console/")
    assert entered.status_code == 200
