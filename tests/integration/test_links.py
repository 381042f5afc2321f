"""The transport over bad links: slow, cut, half-open, a broker that is away; one of three killed: test_kill_loop.py.

Nothing may be lost; what was in work when a link went may come twice. ``WEIR_LONG=1`` makes the troubles longer. Run
with ``-s`` to see what was measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.copying import (
    PARTITIONS,
    Load,
    Worker,
    check_nothing_lost,
    copiers,
    flowing_since,
    make_topics,
    produce,
    read,
    wait_copied,
)
from tests.integration.kafka_broker import Broker, NoKafka, find_jars, free_ports, unavailable
from tests.integration.kafka_node import JavaBroker
from tests.integration.proxy import Proxy
from weir.streams.kafka.reachable import EVERY_S
from weir.streams.records import Record

pytestmark = pytest.mark.integration
LONG = os.environ.get("WEIR_LONG") == "1"
AWAY_S, CUT_S, HALF_OPEN_S = (30, 30, 20) if LONG else (EVERY_S + 2, 3, 7)
IN_FLIGHT = PARTITIONS * 500 * 3
"""Records that are in work at most: batches of 500, three a partition. As many may repeat each time a link breaks."""


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[JavaBroker, Proxy]]:
    """A broker that clients reach through a proxy only, and the tests directly."""
    try:
        libs = find_jars()
    except NoKafka as reason:
        unavailable(str(reason))
    (port,) = free_ports(1)
    broker = JavaBroker(libs, tmp_path_factory.mktemp("linked") / "broker", advertised=port, quick=True)
    broker.start()
    with Proxy(broker.port, port) as proxy:
        yield broker, proxy
    broker.stop()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    with copiers(tmp_path) as start:
        yield start


class Link:
    """A worker that copies over a link, under load; what it copied when the link is well again."""

    def __init__(self, name: str, linked: tuple[JavaBroker, Proxy], start: Callable[..., Worker]) -> None:
        self.broker, self.proxy = linked
        self.proxy.heal()
        self.direct = Broker(self.broker.direct, "its own door")
        self.source, self.target = f"source-{name}", f"target-{name}"
        make_topics(self.direct, self.source, self.target)
        self.worker = start(self.broker, self.source, self.target)

    def load(self) -> Load:
        return Load(self.direct, self.source)

    def flows(self) -> None:
        since = time.time()
        self.worker.until(lambda: flowing_since([self.worker], since), "batches of all partitions")

    def stands(self, seconds: float) -> None:
        """Wait, and see that the worker lives."""
        until = time.monotonic() + seconds
        self.worker.until(lambda: time.monotonic() > until, "alive meanwhile", seconds + 20)

    def check(self, trouble: str, troubles: int) -> None:
        wait_copied(self.direct, self.source, self.target, self.worker)
        repeats = check_nothing_lost(self.direct, self.source, self.target)
        told = log_lines(self.worker)
        print(f"\n{trouble}: {repeats} repeats; {len(told)} lines of log")
        assert len(told) < 60, "a log that nobody reads"
        assert repeats <= troubles * IN_FLIGHT
        assert self.worker.end() == 0


def log_lines(worker: Worker) -> list[str]:
    """What the worker's log has beside its own output."""
    return [line for line in worker.log.splitlines() if '"t": ' not in line and "[" in line]


def test_a_slow_link_delays_and_loses_nothing(
    linked: tuple[JavaBroker, Proxy], start_worker: Callable[..., Worker]
) -> None:
    link = Link("slow", linked, start_worker)
    link.proxy.delay(there_ms=50, back_ms=50, jitter_ms=20)
    with link.load():
        link.flows()
        link.stands(1.5)
    link.check("100 ms a round trip", 0)


def test_a_link_that_is_cut_every_second(linked: tuple[JavaBroker, Proxy], start_worker: Callable[..., Worker]) -> None:
    link, cuts = Link("cut", linked, start_worker), 0
    with link.load():
        link.flows()
        for _ in range(CUT_S):
            link.stands(1)
            cuts += link.proxy.cut()
        link.flows()
    assert cuts >= CUT_S, "there was nothing to cut"
    link.check(f"{cuts} connections cut", CUT_S)


def test_a_half_open_link(linked: tuple[JavaBroker, Proxy], start_worker: Callable[..., Worker]) -> None:
    link = Link("half-open", linked, start_worker)
    with link.load():
        link.flows()
        link.proxy.hold()
        link.stands(HALF_OPEN_S)
        link.proxy.heal()
        over = time.time()
        link.flows()
    resumed = min(s["t"] for s in link.worker.batches() if s["t"] > over) - over
    link.check(f"half-open for {HALF_OPEN_S} s, first batch {resumed:.1f} s after", 1)


def test_a_broker_that_is_away(linked: tuple[JavaBroker, Proxy], start_worker: Callable[..., Worker]) -> None:
    link = Link("away", linked, start_worker)
    produce(link.direct, link.source, [Record(b"k%d" % i, b"v", time.time()) for i in range(20_000)])
    link.flows()
    link.broker.stop()
    link.stands(AWAY_S)
    link.broker.start()
    over = time.time()
    with link.load():
        link.flows()
    resumed = min(s["t"] for s in link.worker.batches() if s["t"] > over) - over
    # The first is told at once, those behind it are counted, and told with the first that comes EVERY_S later.
    assert any("Unable connect to node" in line and "more like it since" in line for line in log_lines(link.worker))
    link.check(f"away for {AWAY_S} s, first batch {resumed:.1f} s after", 1)


def test_a_large_record_passes(linked: tuple[JavaBroker, Proxy], start_worker: Callable[..., Worker]) -> None:
    link = Link("large", linked, start_worker)
    produce(link.direct, link.source, [Record(b"k", bytes(900_000), time.time())])
    wait_copied(link.direct, link.source, link.target, link.worker)
    assert [len(r.value.split(b":", 3)[3]) for r in read(link.direct, link.target)] == [900_000]
    assert link.worker.end() == 0
