"""``weir serve`` is killed with -9 while it tells of alerts, and its receiver is away at times: each is told once."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import msgspec
import pytest
from standardwebhooks import Webhook

from tests.integration.kafka_broker import eventually
from tests.integration.serve_process import TOKEN, Served
from tests.service.notify.receiver import SECRET, Receiver
from tests.service.test_thin import TASK
from weir.streams.config import topics
from weir.streams.embedded.embedded_log import read_directory

pytestmark = pytest.mark.integration
KILLS = 4
EVENTS = 25
"""Between two kills."""
SETTINGS = """
[[serve.notify.targets]]
name = "hook"
kind = "webhook"
url = "{url}"
secrets = ["{secret}"]
allow_private = true

[[serve.notify.rules]]
name = "desk"
targets = ["hook"]
"""


def events(run: int) -> list[dict[str, object]]:
    about = {"v": 1, "type": "purchase", "ts": time.time(), "amount": 10.0, "merchant_id": "m"}
    return [about | {"event_id": f"e{run}-{n}", "user_id": f"u{run}-{n}"} for n in range(EVENTS)]


def told(receiver: Receiver) -> list[tuple[str, str]]:
    """Ids of messages with their alerts, as a receiver believes them."""
    found = []
    for request in list(receiver.got):
        document = Webhook(SECRET).verify(request.body, request.headers)
        assert request.headers["webhook-id"] == document["data"]["id"]
        found.append((document["data"]["id"], document["data"]["alert_id"]))
    return found


def test_every_alert_is_told_once_over_kills(tmp_path: Path) -> None:
    chance = random.Random(7)
    task = TASK.read_text()
    assert 'kind = "budget"' in task
    head, _, tail = task.partition("[threshold]")
    task = f'{head}[threshold]\nkind = "fixed"\nvalue = 0.0\n{tail[tail.index("[", 1) :]}'
    with Receiver() as receiver:
        pass
    (tmp_path / "weir.toml").write_text(SETTINGS.format(url=receiver.url, secret=SECRET))
    with (
        Served(tmp_path, {"fraud": task}) as served,
        httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        for run in range(KILLS):
            served.start()
            there = run % 3 != 1  # at times only the service is up
            if there:
                receiver.__enter__()
            before = len(receiver.got)
            assert client.post("/v1/events", json=events(run)).json()["accepted"] == EVENTS
            if there:  # in the middle of its messages: there is nothing else to wait for
                some = chance.randrange(EVENTS)
                eventually(lambda: len(receiver.got) > before + some, 60, "some messages")  # noqa: B023
            served.end(signal.SIGKILL)
            if there:
                receiver.__exit__(None, None, None)
        with receiver:
            served.start()
            eventually(lambda: len(dict(told(receiver))) == KILLS * EVENTS, 90, "what was left")
            assert served.end(signal.SIGTERM) == 0
    alerts = {
        msgspec.json.decode(record.value)["alert_id"]
        for batch in read_directory(served.directory / "outputs")
        if batch.topic == topics.ALERTS
        for record in batch.records
    }
    assert Counter(dict(told(receiver)).values()) == dict.fromkeys(alerts, 1)
    repeats = len(receiver.got) - len(alerts)
    assert repeats <= KILLS, "more than what was under way at a kill came twice"
    print(f"{len(alerts)} alerts, {repeats} messages came again under their ids")
