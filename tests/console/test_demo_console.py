"""The console of ``weir demo``: what a visitor does is learned at once, survives a kill, and changes nothing else."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.e2e.demo_process import FULL_SPEED, DemoProcess, checkpoint_newer_than, records
from tests.integration.kafka_node import eventually
from weir.streams.client.client import Client, ServiceError
from weir.streams.demo.demo_console import PORTS, DemoEngine, bound_at
from weir.streams.errors import UsageError
from weir.streams.service.embedded.service_engine import Engine

pytestmark = pytest.mark.integration

LINK = re.compile(r"Console: (http://\S+)/\?token=(\S+)\n")
SIZE = ("--days", "9", "--events", "9000", "--seed", "11")
"""So many that alerts of machines are open in the end."""
SLOW = ("--seconds", "3600", "--checkpoint-every", "3600", "--port", "0")


def start(directory: Path, *options: str) -> DemoProcess:
    return DemoProcess(directory, *SIZE, *options)


class Visited:
    """A demo with its console, and a visitor of it."""

    def __init__(self, process: DemoProcess) -> None:
        self._process = process
        try:
            process.until(lambda: LINK.search(process.output))
        except BaseException:
            process.close()
            raise
        found = LINK.search(process.output)
        assert found is not None
        self.client, self.end = Client(found[1], found[2]), process.end

    def close(self) -> None:
        """End what is left."""
        self._process.close()
        self.client.close()


@contextmanager
def visited(directory: Path, *options: str) -> Iterator[Visited]:
    with closing(Visited(start(directory, *options))) as demo:
        yield demo


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a demo that has shown its first period."""
    directory = tmp_path_factory.mktemp("shown")
    code, output = start(directory, *FULL_SPEED).finish()
    assert code == 0, output
    assert "Console" not in output
    return directory


def listed(client: Client) -> set[str]:
    """The list of alerts, when it is whole."""
    eventually(lambda: client.get("/v1/alerts")["trouble"] is None, 20, "alerts of the log are listed")
    return {alert["alert_id"] for alert in client.alerts()}


def in_log(directory: Path) -> set[str]:
    return {orjson.loads(record.value)["alert_id"] for _, _, record in records(directory, "alerts")}


def judged(client: Client) -> dict[str, Any]:
    """An alert that somebody has confirmed, when the model has learned that.

    Several are judged: of one whose label the stream has brought already, nothing more is learned.
    """
    listed(client)
    found = [alert["alert_id"] for alert in islice(client.alerts(task="device_failure", state="open"), 5)]
    for alert_id in found:
        client.verdict(alert_id, "confirmed", note="a bearing was hot")

    def learned() -> dict[str, Any] | None:
        seen = map(client.alert, found)
        return next((alert for alert in seen if any(verdict["learned_at"] for verdict in alert["verdicts"])), None)

    eventually(learned, 60, "the verdict is learned")
    alert = learned()
    assert alert is not None
    return alert


def test_a_verdict_is_learned_in_event_time_and_survives_a_kill(shown: Path) -> None:
    with visited(shown, *SLOW) as demo:
        events = [r for _, _, r in records(shown, "user-events")]
        alert = judged(demo.client)
        with pytest.raises(ServiceError, match="weir serve"):
            demo.client.send_events([orjson.loads(events[0].value)])
        for note in ("the first", "the second"):  # the checkpoint after the second has begun behind the verdict
            kept = checkpoint_newer_than(shown, time.time())
            demo.client.post(f"/v1/alerts/{alert['alert_id']}/notes", note=note)
            eventually(kept, 20, "a checkpoint")
        assert demo.end(signal.SIGKILL) == -signal.SIGKILL
    labels = [r for _, _, r in records(shown, "labels") if b'"case:' in r.value]
    assert labels
    newest = max(event.ts for event in events)
    assert all(newest <= label.ts < newest + 86_400.0 for label in labels), (
        "a label of today, months ahead of its event"
    )

    with visited(shown, *SLOW) as demo:
        client = demo.client
        listed(client)
        assert client.alert(alert["alert_id"])["verdicts"] == alert["verdicts"]
        assert demo.end(signal.SIGINT) == 130

    code, output = start(shown, *FULL_SPEED, "--port", "0").finish()  # where nobody sits before it, it ends
    assert code == 0, output
    with visited(shown, *SLOW) as demo:
        eventually(lambda: listed(demo.client) == in_log(shown), 20, "the list is the log's")


def test_it_stays_open_before_a_terminal_until_ctrl_c(tmp_path: Path) -> None:
    terminal, its_end = os.openpty()
    command = [sys.executable, "-m", "weir.streams.cli.main", "demo", "--dir", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--days", "2", "--events", "500", "--full-speed"], stdout=its_end, stderr=its_end
    )
    os.close(its_end)
    try:
        said = b""
        while not (found := re.search(rb"stays open until Ctrl-C: (http://\S+)/\?token=\S+", said)):
            said += os.read(terminal, 65_536)
        assert httpx.get(f"{found[1].decode()}/ready").json()["ready"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def test_the_next_free_port_is_taken_unless_one_is_asked_for() -> None:
    with bound_at(None) as first:
        first.listen()
        with bound_at(None) as second:
            assert first.getsockname()[1] < second.getsockname()[1] <= PORTS[-1]
        with pytest.raises(UsageError, match="--port"):
            bound_at(first.getsockname()[1])


def test_the_service_can_ask_of_it_what_it_asks_of_its_own_engine() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(m).parameters) for name, m in methods if not name.startswith("_")}

    wanted, offered = public(Engine), public(DemoEngine)
    assert {name: offered.get(name) for name in wanted} == wanted
