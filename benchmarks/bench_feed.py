"""How soon the live feed tells thousands of clients, and what one that does not read changes for the others.

Run: ``python -m benchmarks.bench_feed [--clients 2000] [--rate 200] [--seconds 15] [--rounds 2]``. A server process
has the feed behind uvicorn, on a log in memory that gets ``rate`` alerts a second; the clients are raw sockets in
another process. Rounds without and with a stalled client alternate. The delay counts from the time at which an alert
was due, so that a server that is late does not look fast. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import resource
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

import numpy as np
import psutil
import uvicorn
import uvloop
from rich.console import Console
from rich.table import Table

from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.ops.metric_registry import Registry
from weir.streams.records import Record, RecordBatch
from weir.streams.service.access.scopes import Caller, administrator
from weir.streams.service.app import create_app
from weir.streams.service.feed.feed_routes import Feed
from weir.streams.service.ports import Decoded, Listener, Outcome, Span
from weir.streams.service.service import Service

P99_MS, RSS_MB = 250, 400
"""Goals: with 2,000 clients at 200 alerts a second."""
SAMPLED: Final = 20
"""One client in so many notes the delay of each of its events; the others know the last one they got."""
_REASON: Final = {"feature": "user.spend_count_1h", "value": 17.0, "contribution": 2.1, "text": "17 in 1 h (usually 2)"}
_DUE: Final = re.compile(rb'"ts":([0-9.e+]+),"record"')
_OFFSET: Final = b'"offset":'


class OneBatch(NamedTuple):
    """One alert."""

    base_offset: int
    records: Sequence[Record]
    topic: str = topics.ALERTS
    partition: int = 0

    @property
    def next_offset(self) -> int:
        """Offset of the next one."""
        return self.base_offset + 1

    def offset_of(self, index: int) -> int:
        """Offset of the alert."""
        return self.base_offset + index


class AlertLog:
    """A ``ServiceLog`` that makes alerts and keeps none of them: clients begin now."""

    epoch = "bench"

    def __init__(self) -> None:
        self._listener: Listener = print
        self._end = 0

    async def make(self, rate: float) -> None:
        """``rate`` alerts a second for ever, each stamped with the time at which it was due."""
        due = time.time()
        while True:
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.time()))
            alert = {
                "v": 1, "alert_id": f"fraud:user-{self._end}:pay-{self._end}", "task": "fraud",
                "entity_id": f"user-{self._end}", "status": "open", "severity": "high", "score": 0.93,
                "threshold": 0.81, "reasons": [_REASON, _REASON], "opened_at": due, "updated_at": due,
                "event_ids": [f"pay-{self._end}"],
            }  # fmt: skip
            self._listener(OneBatch(self._end, (Record(b"user", json.dumps(alert).encode(), due),)))
            self._end += 1

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def append(self, topic: str, records: Sequence[Record], decoded: Decoded | None = None) -> list[Outcome]:
        """Nobody does."""
        raise NotImplementedError

    def subscribe(self, topics: Sequence[str], listener: Listener) -> Callable[[], None]:  # noqa: ARG002
        """The feed is the only listener."""
        self._listener = listener
        return lambda: None

    async def spans(self, topic: str) -> Mapping[int, Span]:
        """Nothing is kept."""
        return {0: Span(self._end, self._end)} if topic == topics.ALERTS else {}

    async def offsets_at(self, topic: str, ts: float) -> Mapping[int, int]:  # noqa: ARG002
        """Nothing is kept."""
        return {}

    async def read(self, *_: object, **__: object) -> Sequence[RecordBatch]:
        """Nothing is kept."""
        return []


class Everyone:
    """Lets everyone follow."""

    async def check(self, *_: object) -> Caller:
        """An administrator."""
        return administrator("open")

    async def identify(self, *_: object) -> Caller:
        """An administrator."""
        return administrator("open")

    def visited(self, *_: object) -> None:
        """Nobody notes it."""


def serve(rate: float, bound: socket.socket) -> None:
    """The server process."""
    log = AlertLog()
    settings = Settings.model_validate({})
    service: Any = SimpleNamespace(
        settings=settings,
        tasks=[],
        log=log,
        access=Everyone(),
        metrics=Registry(),
        routers=[],
        often=[],
        console=None,
    )
    feed = Feed(cast(Service, service))
    service.routers.append(feed.router)

    async def run() -> None:
        await feed.start()
        making = asyncio.create_task(log.make(rate))
        app = create_app(cast(Service, service))
        await uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off")).serve([bound])
        making.cancel()

    uvloop.run(run())


class FeedSocket(asyncio.BufferedProtocol):
    """One client, as cheap as can be: on two cores it takes the time of the server that it measures.

    Parameters
    ----------
    delays : where each event's delay is noted, seconds; without it the client only knows the last event it has.
    stalled : it asks, and never reads.
    """

    _buffer = bytearray(1 << 18)  # of all clients: each uses it up before the next one reads

    def __init__(self, delays: list[float] | None = None, stalled: bool = False) -> None:
        self._delays, self._stalled = delays, stalled
        self._rest = b""
        self.connected, self.newest = False, -1

    def connection_made(self, transport: Any) -> None:
        """Ask for the feed."""
        self.transport = transport
        transport.write(b"GET /v1/feed?type=alert HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        if self._stalled:
            transport.pause_reading()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where to read to."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Note what came."""
        self.connected = True
        if self._delays is not None:
            now, data = time.time(), self._rest + self._buffer[:nbytes]
            last = 0
            for found in _DUE.finditer(data):
                self._delays.append(now - float(found[1]))
                last = found.end()
            self._rest = data[last:]
        start = self._buffer.rfind(_OFFSET, 0, nbytes - 20)
        if start >= 0:
            digits = self._buffer[start + len(_OFFSET) : start + len(_OFFSET) + 12]
            self.newest = int(digits.split(b",")[0])


def follow(port: int, clients: int, pipe: Connection) -> None:
    """The process of the clients: each message is the seconds of a round, and whether it has a stalled client."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        delays: list[float] = []
        made = []
        for n in range(clients):
            note = delays if n % SAMPLED == 0 else None
            made.append((await loop.create_connection(partial(FeedSocket, note), "127.0.0.1", port))[1])
        while not all(client.connected for client in made):
            await asyncio.sleep(0.05)
        pipe.send(len(made))
        while (order := await asyncio.to_thread(pipe.recv)) is not None:
            seconds, stalled = order
            stuck = None
            if stalled:
                raw = socket.socket()
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                raw.connect(("127.0.0.1", port))
                stuck, _ = await loop.create_connection(partial(FeedSocket, stalled=True), sock=raw)
            delays.clear()
            before, busy = sum(client.newest for client in made), time.process_time()
            await asyncio.sleep(seconds)
            cpu = (time.process_time() - busy) / seconds
            pipe.send((sum(client.newest for client in made) - before, np.array(delays), cpu))
            if stuck is not None:
                stuck.close()
        pipe.send([client.newest for client in made])

    uvloop.run(run())


def main() -> None:
    """Measure, and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=200.0, help="alerts a second")
    parser.add_argument("--seconds", type=float, default=15.0, help="of one round")
    parser.add_argument("--rounds", type=int, default=2, help="of each kind")
    given = parser.parse_args()
    needed = given.clients + 200
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        raise SystemExit(f"{given.clients} clients need {needed} open files, allowed {hard}; raise it: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    bound = socket.create_server(("127.0.0.1", 0), backlog=1024)
    # Small enough that a client that does not read is told within a round: the kernel would take megabytes for it.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    server = context.Process(target=serve, args=(given.rate, bound), daemon=True)
    server.start()
    port = bound.getsockname()[1]
    bound.close()
    client = context.Process(target=follow, args=(port, given.clients, theirs), daemon=True)
    client.start()
    ours.recv()
    process = psutil.Process(server.pid)
    table = Table("stalled client", "events a client", "p50 ms", "p99 ms", "max ms", "CPU", "CPU of clients", "RSS MB")
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for number in range(2 * given.rounds):
        stalled = number % 2 == 1
        busy = sum(process.cpu_times()[:2])
        ours.send((given.seconds, stalled))
        events, delays, of_clients = ours.recv()
        cpu = (sum(process.cpu_times()[:2]) - busy) / given.seconds
        p50, p99, most = (float(np.quantile(delays, q)) * 1e3 for q in (0.5, 0.99, 1.0))
        row = {
            "events": events / given.clients,
            "p50_ms": p50,
            "p99_ms": p99,
            "max_ms": most,
            "cpu": cpu,
            "clients_cpu": of_clients,
        }
        found[stalled].append(row | {"rss_mb": process.memory_info().rss / 1e6})
        table.add_row("yes" if stalled else "no", *(f"{value:.1f}" for value in found[stalled][-1].values()))
    ours.send(None)
    newest = ours.recv()
    server.terminate()
    Console().print(table)
    result = {
        "benchmark": "feed", "clients": given.clients, "rate": given.rate, "cores": os.cpu_count(),
        "load": os.getloadavg()[0], "goals": {"p99_ms": P99_MS, "rss_mb": RSS_MB},
        "spread_of_events": max(newest) - min(newest),
        "alone": found[False], "beside_a_stalled_client": found[True],
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
