"""``weir serve`` under load over HTTP, killed with -9 at random moments: what it acknowledged is there, once.

A client of the feed that resumes sees every alert once, and the tables of alerts are those that a rebuild makes.
``WEIR_KILL_S`` says for how long, 15 seconds without.
"""

from __future__ import annotations

import os
import queue
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.integration.kafka_broker import eventually
from tests.integration.serve_process import TOKEN, Served
from tests.streams.host_runs import CHURN, FRAUD, tasks
from weir.streams.client.calls import FeedEvent
from weir.streams.client.client import Client
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import READ, EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch, read_directory
from weir.streams.records import Record
from weir.streams.service.store.database import SQLITE_FILE
from weir.streams.service.store.tables import PROJECTED
from weir.streams.simulate import SimulationConfig, simulate

pytestmark = pytest.mark.integration
RUNS_S = float(os.environ.get("WEIR_KILL_S", "15"))
ENOUGH = 200
"""Payments that are acknowledged before it ends, however slow the machine is."""
OUTPUTS = (*topics.OUTPUTS, topics.DECISIONS)
BODY = 40
"""Records of one request."""


class Load:
    """Clients that send until each of their requests was answered, and note what was acknowledged."""

    def __init__(self, served: Served) -> None:
        self._served, self._waiting = served, queue.Queue[tuple[str, list[bytes]]](maxsize=8)
        self._over = threading.Event()
        self.acknowledged: dict[str, list[bytes]] = {"events": [], "labels": []}
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._feed), *(threading.Thread(target=self._run) for _ in range(3))]

    def _feed(self) -> None:
        seed = 0
        while True:
            seed += 1
            # No dead letters: that they are made again alike is for the equality below, which a few late ones show.
            config = SimulationConfig(
                seed=seed, events=20_000, days=20, users=300, merchants=20, devices=0, malformed_share=0.0,
                fraud_share=0.05, label_delay_days=0.5, start_ts=1_767_571_200.0 + 20 * 86_400 * seed,
            )  # fmt: skip
            for block in simulate(config):
                for topic, records in block.topics.items():
                    values = [r[1].replace(b'"event_id":"', b'"event_id":"%d-' % seed) for r in records]
                    for start in range(0, len(values), BODY):
                        if self._over.is_set():
                            return
                        self._waiting.put((topic, values[start : start + BODY]))

    def _run(self) -> None:
        try:
            with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20) as client:
                while not (self._over.is_set() and self._waiting.empty()):
                    try:
                        topic, values = self._waiting.get(timeout=0.2)
                    except queue.Empty:
                        continue
                    route = "labels" if topic == topics.LABELS else "events"
                    answer = self._send(client, route, values)
                    kept = {each["index"] for each in answer["results"] if each["status"] != "refused"}
                    self.acknowledged[route] += [value for i, value in enumerate(values) if i in kept]
        except BaseException as error:
            self.errors.append(error)
            raise

    def _send(self, client: httpx.Client, route: str, values: list[bytes]) -> Any:
        """The answer, however often the service dies before it gives one."""
        while True:
            self._served.up.wait(60)
            try:
                answer = client.post(
                    f"{self._served.url}/v1/{route}?each=true", content=b"\n".join(values),
                    headers={"Content-Type": "application/x-ndjson"},
                )  # fmt: skip
            except httpx.TransportError:
                continue  # it was killed: nobody knows whether it took them
            if answer.status_code in (500, 503):
                continue
            assert answer.status_code in (200, 422), answer.text
            return answer.json()

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(60)


def purchases(load: Load) -> set[str]:
    """Ids of the payments that were acknowledged."""
    told = [msgspec.json.decode(value) for value in list(load.acknowledged["events"])]
    return {event["event_id"] for event in told if event["type"] == "purchase"}


def made(batches: Iterator[LoggedBatch]) -> dict[str, list[tuple[int, Record]]]:
    found: dict[str, list[tuple[int, Record]]] = {topic: [] for topic in OUTPUTS}
    for batch in batches:
        found[batch.topic] += [(batch.offset_of(i), record) for i, record in enumerate(batch.records)]
    return found


def undisturbed(directory: Path) -> dict[str, list[tuple[int, Record]]]:
    """What one run that nothing disturbs makes of the inputs in a directory."""
    outputs = EmbeddedLog()
    with EmbeddedLog(directory=directory / "inputs") as inputs:
        host = EmbeddedHost(tasks(CHURN, FRAUD), inputs, outputs, decisions=True)
        for batch in inputs.read(READ, 0):
            host.process(batch)
    return made(outputs.read(OUTPUTS, 0))


class Follower:
    """Follows the feed of alerts over every kill."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.seen: list[FeedEvent] = []
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with Client(self._served.url, TOKEN) as client:
            for event in client.feed(since="1h", type="alert"):
                self.seen.append(event)


def tables(directory: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything that the projection holds."""
    with closing(sqlite3.connect(directory / SQLITE_FILE)) as held:
        return {table.name: sorted(held.execute(f"SELECT * FROM {table.name}"), key=repr) for table in PROJECTED}


def until_projected(served: Served) -> None:
    """Wait until the tables are at the end of the log."""
    ends = Counter[str]()
    for batch in read_directory(served.directory / "outputs"):
        ends[batch.topic] = batch.next_offset
    wanted = {topic: ends[topic] for topic in (topics.ALERTS, topics.EXAMPLES, topics.RETRAIN_REQUESTS) if ends[topic]}
    eventually(
        lambda: {topic: at for topic, _, at in tables(served.directory)["positions"]} == wanted, 30, "the projection"
    )


def test_what_was_acknowledged_survives_kills_once(tmp_path: Path) -> None:
    with Served(tmp_path, {"fraud": FRAUD, "churn": CHURN}) as served:
        survives(served)


def test_a_stop_says_what_is_stored_and_how_to_go_on(tmp_path: Path) -> None:
    with Served(tmp_path, {"fraud": FRAUD}) as served:
        for number, events, signal_, status in (
            (1, "1 event is", signal.SIGINT, 130), (2, "2 events are", signal.SIGTERM, 0)
        ):  # fmt: skip
            served.start()
            with Client(served.url, TOKEN) as client:
                told = client.send_events(
                    [{"v": 1, "event_id": f"e{number}", "type": "purchase", "user_id": "u1", "ts": 1.7e9}]
                )
            assert told.accepted == 1
            assert served.end(signal_) == status
            last = served.log.read_text().splitlines()[-1]
            assert last.startswith(f"stopped: {events} stored in {served.directory}; the same command")


def survives(served: Served) -> None:
    served.start()
    chance, load, follower, end = random.Random(7), Load(served), Follower(served), time.monotonic() + RUNS_S
    follower.thread.start()
    with load.running():
        while (now := time.monotonic()) < end or (len(purchases(load)) <= ENOUGH and now < end + 120):
            time.sleep(chance.uniform(0.05, 2.5))  # under load: there is nothing to wait for but the moment
            assert served.end(signal.SIGKILL) == -signal.SIGKILL
            served.start()
    assert not load.errors
    until_projected(served)
    opened = len(made(read_directory(served.directory / "outputs"))[topics.ALERTS])
    eventually(lambda: len(follower.seen) >= opened, 30, "the feed")
    assert served.end(signal.SIGTERM) == 0
    held = made(read_directory(served.directory / "outputs"))
    assert held == undisturbed(served.directory)

    told = purchases(load)
    scored = Counter(
        prediction["event_id"]
        for _, record in held[topics.PREDICTIONS]
        if (prediction := msgspec.json.decode(record.value))["task"] == "fraud"
    )
    assert len(told) > ENOUGH
    assert told <= set(scored), "an acknowledged event has no prediction"
    assert set(scored.values()) == {1}, "an event was counted twice"
    alerts = [(offset, msgspec.json.decode(record.value)) for offset, record in held[topics.ALERTS]]
    assert [(event.offset, event.record) for event in follower.seen] == alerts, "the feed has a gap or a repeat"

    kept = Counter(r.value for b in read_directory(served.directory / "inputs") for r in b.records)
    assert set(load.acknowledged["labels"]) <= set(kept)
    projected = tables(served.directory)
    served.start("--rebuild")
    eventually(lambda: "alerts are made anew" in served.log.read_text(), 30, "the rebuild")
    until_projected(served)
    served.end(signal.SIGTERM)
    assert tables(served.directory) == projected
    print(f"{served.starts} starts, {len(told)} purchases and {len(load.acknowledged['labels'])} labels acknowledged")
