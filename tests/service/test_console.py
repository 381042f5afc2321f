"""The frame of every page: policy, assets, who is shown what, problems as pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.service.access.served import served
from tests.service.running import running
from weir.streams.service.console.assets import Assets

pytestmark = pytest.mark.anyio
PAGE = {"Accept": "text/html"}


async def test_a_page_runs_no_script_but_its_own(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        page = await client.get("/console/alerts", headers=PAGE)
        policy = page.headers["Content-Security-Policy"]
    nonce = re.search(r"'nonce-([^']+)'", policy)
    assert nonce is not None
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    scripts = re.findall(r"<script[^>]*>", page.text)
    assert scripts
    assert all(f'nonce="{nonce[1]}"' in script for script in scripts)
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", page.text)


async def test_assets_are_kept_under_the_name_of_their_version_only(tmp_path: Path) -> None:
    assets = Assets()
    async with running(tmp_path) as (_, client):
        kept = await client.get(assets.address("console.css"))
        other = await client.get("/console/assets/of-before/console.css")
        none = await client.get(f"/console/assets/{assets.version}/../console.py")
    assert "immutable" in kept.headers["Cache-Control"]
    assert kept.headers["Content-Type"].startswith("text/css")
    assert other.headers["Cache-Control"] == "no-cache"
    assert none.status_code == 404


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
