"""The frame of every page: its policy, and the files that it needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.service.running import running
from weir.streams.service.console.rendering import Assets

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
        none = await client.get(f"/console/assets/{assets.version}/..%2Fconsole.py")
    assert "immutable" in kept.headers["Cache-Control"]
    assert kept.headers["Content-Type"].startswith("text/css")
    assert other.headers["Cache-Control"] == "no-cache"
    assert none.status_code == 404


async def test_fragments_are_compressed_and_pages_that_hold_a_token_are_not(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        page = await client.get("/console/alerts", headers=PAGE)
        fragment = await client.get("/console/alerts", headers=PAGE | {"HX-Request": "true"})
        plain = await client.get("/console/alerts", headers=PAGE | {"HX-Request": "true", "Accept-Encoding": "br"})
    assert "Content-Encoding" not in page.headers
    assert (fragment.headers["Content-Encoding"], fragment.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert int(fragment.headers["Content-Length"]) < len(fragment.text) / 2
    assert "Content-Encoding" not in plain.headers


@pytest.mark.parametrize("form", ["note=" + "n" * 300_000, "&".join(f"f{n}=" for n in range(25_000)), "a&" * 100_000])
async def test_a_form_of_no_page_is_refused_before_it_costs_time(tmp_path: Path, form: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with running(tmp_path) as (_, client):
        answer = await client.post("/console/views", content=form, headers=headers)
    assert (answer.status_code, "a form has at most" in answer.text) == (413, True)
