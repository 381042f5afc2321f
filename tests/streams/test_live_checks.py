"""``weir doctor --live``: what the metrics of running workers say of their data."""

from __future__ import annotations

import asyncio
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import orjson
import pytest

from tests.streams.score_lanes import NOW, Lanes
from weir.online.batch import EventBatch
from weir.online.task.spec import TaskSpec
from weir.streams.checks.findings import Check
from weir.streams.checks.live_checks import check_live, odd, samples_of
from weir.streams.config.settings import WorkerSettings
from weir.streams.ops.exposition import Exposition
from weir.streams.ops.instruments import Counter
from weir.streams.ops.metrics import Metrics
from weir.streams.ops.web import WebServer
from weir.streams.records import Record


def batch(n: int, amount: float = 5.0, country: str | None = "DE") -> EventBatch:
    return EventBatch(["e"] * n, np.ones(n), ["purchase"] * n, {"user_id": ["u"] * n},
                      {"amount": np.full(n, amount)}, {"country": [country] * n})  # fmt: skip


def worker(joined: int = 200) -> Metrics:
    metrics = Metrics()
    metrics.inc("weir_records_total", 1_000, topic="user-events")
    metrics.inc("weir_events_total", 1_000, topic="user-events")
    metrics.inc("weir_labels_total", joined, task="fraud", outcome="joined")
    return metrics


def warned(metrics: Metrics) -> dict[str, Check]:
    checks = list(odd(samples_of(Exposition(metrics).render().decode())))
    assert all(check.fix for check in checks if check.status != "OK")
    return {check.name: check for check in checks if check.status != "OK"}


def test_a_healthy_stream_has_no_warning() -> None:
    metrics = worker()
    metrics.inputs("fraud", batch(1_000))
    metrics.inc("weir_labels_total", 2, task="fraud", outcome="unmatched")
    assert warned(metrics) == {}


def test_each_kind_is_warned_of() -> None:
    metrics = worker(0)
    metrics.inc("weir_dead_letters_total", 100, topic="user-events", reason="invalid")
    metrics.inc("weir_duplicates_total", 300, topic="user-events")
    metrics.inc("weir_misplaced_total", 20, topic="user-events")
    metrics.inc("weir_unknown_task_total", 3, topic="labels")
    metrics.inc("weir_labels_total", 60, task="fraud", outcome="unmatched")
    metrics.set("weir_waiting_labels", 7, task="fraud")
    metrics.inputs("fraud", batch(600, np.nan))
    metrics.inputs("fraud", batch(400, country=None))
    assert warned(metrics).keys() == {
        "dead letters",
        "repeats",
        "misplaced",
        "labels",
        "fraud: labels",
        "fraud: amount",
    }
    assert warned(metrics)["fraud: labels"].found == "67 of 67 labels met no prediction; 7 of them wait for one"
    assert warned(metrics)["fraud: amount"].found == "600 of 1,000 events looked at have no value"


def test_events_of_no_type_of_a_task_are_warned_of() -> None:
    metrics = worker()
    metrics.inc("weir_passed_over_total", 1_000, task="fraud")
    assert warned(metrics)["fraud: events"].found == "1,000 of 1,000 are of other types or without a key"
    assert "events" in warned(Metrics())


async def test_it_asks_each_process_and_says_which_does_not_answer() -> None:
    async with WebServer("127.0.0.1", 0, Quiet(), worker(), {}) as server:
        settings = WorkerSettings(web_host="127.0.0.1", web_port=server.port)
        checks = await asyncio.to_thread(check_live, settings)
    assert [check.status for check in checks if check.name == "worker"] == ["OK"]
    assert {"dead letters", "fraud: labels"} <= {check.name for check in checks}
    (gone,) = await asyncio.to_thread(check_live, WorkerSettings(web_host="127.0.0.1", web_port=1))
    assert (gone.status, "does not answer" in gone.found) == ("FAIL", True)


async def test_workers_of_this_machine_are_not_asked_by_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would keep the environment of an earlier test
    async with WebServer("127.0.0.1", 0, Quiet(), worker(), {}) as server:
        settings = WorkerSettings(web_host="127.0.0.1", web_port=server.port)
        checks = await asyncio.to_thread(check_live, settings)
    assert [check.status for check in checks if check.name == "worker"] == ["OK"]


def test_another_service_at_the_port_is_no_traceback() -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"\xff\xfe\x00")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Other) as server, ThreadPoolExecutor(1) as threads:
        serving = threads.submit(server.handle_request)
        checks = check_live(WorkerSettings(web_host="127.0.0.1", web_port=server.server_port))
        serving.result()
    assert {check.name: check.status for check in checks if check.status != "OK"} == {"events": "WARN"}


@pytest.mark.parametrize("port", ["auto"])
def test_a_port_that_nobody_knows_is_a_failure_with_the_way_out(port: str) -> None:
    (check,) = check_live(WorkerSettings.model_validate({"web_port": port}))
    assert check.status == "FAIL"
    assert "web_port (a number, not 'auto')" in check.fix


TASK = """
name = "fraud"
entity = "user"
types = ["purchase"]
numbers = ["basket"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "seen", value = "amount", ops = ["count"], windows = ["1h"] }]
[model]
kind = "logistic"
"""


async def test_a_lane_counts_what_a_task_passes_over_and_which_inputs_are_missing() -> None:
    lanes = await Lanes([TaskSpec.from_toml(TASK)], 1).open()
    made = [{"v": 1, "event_id": f"e{i}", "type": ["purchase", "view"][i % 4 == 3], "user_id": "u",
             "ts": NOW - 9 + i, "amount": 5.0, "properties": {"basket": "12,50" if i % 2 else 3.5}}
            for i in range(8)]  # fmt: skip
    batch = lanes.batch(0, [Record(b"u", orjson.dumps(event), NOW) for event in made])
    await lanes.compute([batch])
    metrics = lanes.ctx.metrics
    assert metrics.counter("weir_passed_over_total", task="fraud").value == 2
    children = metrics.children("weir_inputs_total")
    found = {key[1:]: made.value for key, made in children.items() if isinstance(made, Counter)}
    assert found == {("amount", "known"): 6, ("basket", "known"): 4, ("basket", "missing"): 2, ("user_id", "known"): 6}


class Quiet:
    """A worker that is well."""

    def ready(self) -> list[str]:
        return []

    def describe(self) -> dict[str, object]:
        return {}
