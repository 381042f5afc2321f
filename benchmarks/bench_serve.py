"""``weir serve`` over a real socket, its client in this process: decisions one by one, and NDJSON in bodies of 500.

Beside it, in the same run and by turns: the embedded host fed the same batches without HTTP, and the peer of
``benchmarks/peers/fastapi_river``. Weir is durable (fsync) in all of it, the peer is not.

Run: ``python -m benchmarks.bench_serve [--only decisions,ingest] [--repeats 2]``. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from benchmarks.bench_embedded import TASK, workload

RATE: Final = 300
BODY: Final = 500
CONNECTIONS: Final = 8
"""Of the sender in bulk: with fewer, the door and the tasks wait for each other in turn."""
TOKEN: Final = "benchmark-" * 4
LATENESS: Final = "60d"
"""Bodies on several connections overtake each other, and an hour of the workload is a second of the run."""
P50_TARGET, P99_TARGET, INGEST_TARGET = 8.0, 30.0, 0.8
HOST: Final = """
import sys, time
from pathlib import Path
from benchmarks.bench_serve import bodies_of
from benchmarks.bench_embedded import TASK
from weir.online.intake_policy import IntakePolicy
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.records import Record

inputs, outputs = (EmbeddedLog(directory=Path(sys.argv[1]) / name) for name in ("inputs", "outputs"))
policy = IntakePolicy(allowed_lateness=sys.argv[3])
host = EmbeddedHost([TaskSpec.from_toml(TASK)], inputs, outputs, intake=policy, decisions=True)
batches = [[Record(b"u", line, time.time()) for line in body.split(b"\\n")] for body in bodies_of(int(sys.argv[2]))]
began = 0.0
for i, batch in enumerate(batches):
    if i == len(batches) // 10:  # the first batches compile, or load what was compiled
        began, warm = time.perf_counter(), i
    for logged in inputs.append(topics.USER_EVENTS, batch):
        host.process(logged)
inputs.sync()
print((len(batches) - warm) * len(batches[0]) / (time.perf_counter() - began))
"""


def events_of(count: int, seed: int = 7) -> list[bytes]:
    """The workload's events, one JSON object each."""
    return [record.value for batch in workload(count, seed)[0] for record in batch]


def bodies_of(count: int) -> list[bytes]:
    """The workload as NDJSON bodies."""
    events = events_of(count)
    return [b"\n".join(events[start : start + BODY]) for start in range(0, count, BODY)]


class Connection:
    """One connection that is kept alive, with as little work for the client as can be."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, path: str, body: bytes, kind: str = "application/json") -> bytes:
        """The answer's body; ends the benchmark where the status is not 200."""
        self._writer.write(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        answer = await self._reader.readexactly(length)
        if b" 200 " not in head[:16]:
            raise SystemExit(f"error: {path}: {head[:40]!r} {answer[:400]!r}")
        return answer

    def close(self) -> None:
        """End it."""
        self._writer.close()


async def decisions_one_by_one(port: int, events: Sequence[bytes], rate: float) -> list[float]:
    """Seconds from the moment that each event was due until its decision, at a fixed rate whatever the answers do."""
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    took: list[float] = []
    clock = asyncio.get_running_loop().time
    start = clock() + 0.1

    async def ask(i: int, event: bytes) -> None:
        due = start + i / rate
        await asyncio.sleep(due - clock())
        connection = await Connection.open(port) if free.empty() else free.get_nowait()
        try:
            await connection.post("/v1/decisions?deadline_ms=5000", event)
        except asyncio.IncompleteReadError:  # it was idle for so long that the server closed it
            connection = await Connection.open(port)
            await connection.post("/v1/decisions?deadline_ms=5000", event)
        took.append(clock() - due)
        free.put_nowait(connection)

    await asyncio.gather(*(ask(i, event) for i, event in enumerate(events)))
    while not free.empty():
        free.get_nowait().close()
    return took


async def ingest(port: int, bodies: Sequence[bytes]) -> float:
    """Events a second, by a few connections that each send the next body when the last was taken."""
    left = iter(bodies)

    async def send() -> None:
        connection = await Connection.open(port)
        for body in left:
            await connection.post("/v1/events", body, "application/x-ndjson")
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(CONNECTIONS)))
    return len(bodies) * BODY / (time.perf_counter() - began)


@contextmanager
def started(command: Callable[[int, Path], list[str]]) -> Iterator[int]:
    """A server in a process of its own, in a fresh directory; its port, once it is ready."""
    with tempfile.TemporaryDirectory(prefix="weir-bench-serve-") as folder:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = subprocess.Popen(command(port, Path(folder)), env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            _wait_until_ready(server, port)
            yield port
        finally:
            server.terminate()
            server.wait(30)


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as link:
                link.sendall(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if b" 200 " in link.recv(16):
                    return
        except OSError:
            pass
        if server.poll() is not None or time.monotonic() > until:
            raise SystemExit("error: the server did not start")
        time.sleep(0.05)


def weir(port: int, folder: Path) -> list[str]:
    """``weir serve``, durable."""
    (folder / "task.toml").write_text(TASK)
    (folder / "weir.toml").write_text(
        f'[serve]\ndirectory = "{folder}/data"\n[serve.access]\ntoken = "{TOKEN}"\nrecords_per_s = 1e9\n'
        f'requests_per_s = 1e9\n[worker.intake]\nallowed_lateness = "{LATENESS}"\n'
    )
    serve = [sys.executable, "-m", "weir.streams.cli.main", "serve", str(folder / "task.toml")]
    return [*serve, "--config", str(folder / "weir.toml"), "--port", str(port), "--log-level", "warning"]


def peer(port: int, folder: Path) -> list[str]:
    """FastAPI, River and dicts."""
    return [sys.executable, "-m", "benchmarks.peers.fastapi_river.service", str(port), str(folder / "events.jsonl")]


def host_rate(count: int) -> float:
    """Events a second of the embedded host without HTTP, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="weir-bench-host-") as folder:
        command = [sys.executable, "-c", HOST, folder, str(count), LATENESS]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def bench_decisions(seconds: float, repeats: int) -> dict[str, Any]:
    """Latency of decisions asked one by one, by turns with the peer's; quantiles of all repeats together."""
    warm, count = RATE * 3, round(RATE * seconds)
    events = events_of(warm + count)
    took: dict[str, list[float]] = {"weir": [], "peer": []}
    for _ in range(repeats):
        for name, command in (("weir", weir), ("peer", peer)):
            with started(command) as port:
                asyncio.run(decisions_one_by_one(port, events[:warm], RATE))
                took[name] += asyncio.run(decisions_one_by_one(port, events[warm:], RATE))
    found = {}
    for name, seconds_each in took.items():
        p50, p99, worst = (float(q) for q in np.quantile(seconds_each, (0.5, 0.99, 1.0)) * 1e3)
        found[name] = {"p50_ms": p50, "p99_ms": p99, "max_ms": worst}
        goal = f"   (goals {P50_TARGET:g} and {P99_TARGET:g} ms)" if name == "weir" else ""
        print(f"decisions at {RATE}/s   {name:<6} p50 {p50:7.2f} ms   p99 {p99:7.2f} ms   max {worst:7.1f} ms{goal}")
    return found


def bench_ingest(count: int, repeats: int) -> dict[str, Any]:
    """Events a second in NDJSON bodies, by turns with the host alone and the peer; medians."""
    bodies = bodies_of(count)
    warm = len(bodies) // 10
    rates: dict[str, list[float]] = {"host": [], "weir": [], "peer": []}
    for _ in range(repeats):
        rates["host"].append(host_rate(count))
        for name, command in (("weir", weir), ("peer", peer)):
            with started(command) as port:
                asyncio.run(ingest(port, bodies[:warm]))
                rates[name].append(asyncio.run(ingest(port, bodies[warm:])))
    found = {name: median(of) for name, of in rates.items()}
    share = found["weir"] / found["host"]
    for name, rate in found.items():
        print(f"bodies of {BODY}       {name:<6} {rate:10,.0f} events/s   {[round(each) for each in rates[name]]}")
    print(f"weir serve takes {share:.0%} of the rate of the host without HTTP (goal {INGEST_TARGET:.0%})")
    return {**found, "share": share}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="decisions,ingest", help="parts, by commas")
    parser.add_argument("--seconds", type=float, default=20.0, help="of decisions, each time")
    parser.add_argument("--events", type=int, default=100_000, help="in bodies, each time")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "decisions": lambda: bench_decisions(args.seconds, args.repeats),
        "ingest": lambda: bench_ingest(args.events, args.repeats),
    }
    result = {name: parts[name]() for name in args.only.split(",")}
    print(json.dumps({"benchmark": "serve", "rate": RATE, "body": BODY, **result}))


if __name__ == "__main__":
    main()
