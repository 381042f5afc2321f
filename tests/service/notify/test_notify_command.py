"""`weir notify` over a real socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from standardwebhooks import Webhook
from typer.testing import CliRunner

from tests.service.notify.receiver import SECRET, Receiver
from tests.service.running import listening, make_service
from weir.streams.cli.service.notify import notify_app

pytestmark = pytest.mark.anyio
SETTINGS = """
[[serve.notify.targets]]
name = "good"
kind = "webhook"
url = "{good}"
secrets = ["{secret}"]
allow_private = true

[[serve.notify.targets]]
name = "private"
kind = "alertmanager"
url = "{good}"
"""


def test_a_test_message_says_so_and_what_each_target_answered(tmp_path: Path) -> None:
    settings = tmp_path / "weir.toml"
    with Receiver() as receiver:
        settings.write_text(SETTINGS.format(good=receiver.url, secret=SECRET))
        one = CliRunner().invoke(notify_app, ["test", "--target", "good", "--config", str(settings)])
        assert (one.exit_code, one.stdout) == (0, "good: delivered: HTTP 204 No Content\n")
        every = CliRunner().invoke(notify_app, ["test", "--config", str(settings)])
        assert every.exit_code == 1
        assert "private: NOT delivered: 127.0.0.1 is a private address; set allow_private = true" in every.stdout
        first, second = receiver.wait(2)
    assert Webhook(SECRET).verify(first.body, first.headers)["type"] == "alert.test"
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    unknown = CliRunner().invoke(notify_app, ["test", "--target", "none", "--config", str(settings)])
    assert str(unknown.exception) == "no target none in [serve.notify]; there are: good, private"


async def test_the_list_has_rules_targets_and_what_was_told(tmp_path: Path) -> None:
    hook = {"name": "hook", "kind": "webhook", "url": "http://127.0.0.1:9/hush", "secrets": [SECRET]}
    notify = {"targets": [hook], "rules": [{"name": "desk", "targets": ["hook"], "paused": True}]}
    async with listening(make_service(tmp_path, serve={"notify": notify})) as port:
        asked = ["list", "--url", f"http://127.0.0.1:{port}"]
        shown = await asyncio.to_thread(CliRunner().invoke, notify_app, asked)
        assert shown.exit_code == 0, shown.output
        assert all(word in shown.stdout for word in ("desk", "paused", "hook", "webhook", "settings"))
        assert "hush" not in shown.stdout
        told = json.loads((await asyncio.to_thread(CliRunner().invoke, notify_app, [*asked, "--json"])).stdout)
        assert told["notifications"] == []
        assert told["targets"] == [{"name": "hook", "kind": "webhook"}]
