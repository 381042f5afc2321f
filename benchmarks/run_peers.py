"""Weir and its peers on the same work: throughput, latency at a steady rate, start-up, CPU of each of Weir's stages.

Everyone runs one process first; then those that keep up best run ``--processes`` of it (Kafka Streams: threads).

Run: ``make bench-peers`` or ``python -m benchmarks.run_peers [--peers handwritten,kafka_streams,quix,faust]``. The
work and the peers are those of ``peers/`` in the shared folder (``--shared``), run by its ``run_all.py``; Weir is
``benchmarks/peers/weir``. The broker and two Redis servers are started here, on ports of their own: a plain one for the
peers, and one with AOF for Weir, whose window state must survive a crash (the peers' does not). The peers' Python
environments are ``--python`` and ``--quix-python``; ``--setup`` makes them with pip under ``benchmarks/out/peers``.
``--also old=OTHER/benchmarks/peers/weir`` measures another checkout of Weir in the same rounds.
Prints tables and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.scrape import Scraper, stage_costs
from benchmarks.servers import start_broker, start_redis
from tests.integration.kafka_broker import REPOSITORY, free_ports, shared_folder

PEERS = "handwritten,kafka_streams,quix,faust"
GOALS = {"kafka_streams": 2.0, "handwritten": 3.5, "quix": 20.0, "faust": 60.0}
"""Times each peer's throughput that Weir is to reach."""
STEADY = ("handwritten", "kafka_streams")
"""Peers that can keep up with the steady rate."""
WEIR = REPOSITORY / "benchmarks" / "peers" / "weir"
ENVIRONMENTS = REPOSITORY / "benchmarks" / "out" / "peers"
PACKAGES = {
    "main": ["confluent-kafka", "faust-streaming", "river", "redis", "hiredis", "pydantic", "orjson", "numpy"],
    "quix": ["quixstreams", "river", "redis", "pydantic", "orjson"],
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where things are for one benchmark."""

    run_all: Path
    python: str
    quix_python: str
    address: str
    peers_redis: str
    weir_redis: str

    def run(self, args: Sequence[str], topics: str, redis_url: str, **environment: str) -> list[Row]:
        """One call of run_all.py; its output goes to our standard error, its rows come back."""
        env = os.environ | {
            "BOOTSTRAP": self.address, "REDIS_URL": redis_url, "EVENTS": f"{topics}-events",
            "LABELS": f"{topics}-labels", **environment,
        }  # fmt: skip
        command = [self.python, str(self.run_all), "--quix-python", self.quix_python, *args]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                last = line
                if not line.startswith("["):
                    print(line, end="", file=sys.stderr, flush=True)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        rows: list[Row] = json.loads(last)
        return rows

    def weir(self, args: Sequence[str], topics: str) -> tuple[Row, dict[str, tuple[float, float]]]:
        """Run Weir alone; its row, and seconds and batches of each stage."""
        (port,) = free_ports(1)
        with Scraper(f"http://127.0.0.1:{port}/metrics") as scraper:
            (row,) = self.also("weir", str(WEIR), args, topics, self.weir_redis, WEIR_WORKER__WEB_PORT=str(port))
        return row, stage_costs(scraper.last)

    def also(
        self, name: str, command: str, args: Sequence[str], topics: str, redis_url: str, **environment: str
    ) -> list[Row]:
        """Run one more command as a peer."""
        return self.run(["--peers", "", "--also", f"{name}={command}", *args], topics, redis_url, **environment)

    def several(self, peer: str, count: int, args: Sequence[str], topics: str) -> list[Row]:
        """Run so many processes of Weir or of a peer; without CPU, as it would be that of whoever started them."""
        if peer == "weir":
            set_to = {"WEIR_WORKER__PROCESSES": str(count), "WEIR_WORKER__WEB_PORT": "0"}
            rows = self.also("weir", str(WEIR), args, topics, self.weir_redis, **set_to)
        elif peer == "kafka_streams":
            rows = self.run(["--peers", peer, *args], topics, self.peers_redis, THREADS=str(count))
        else:
            script = self.run_all.with_name(f"{peer}.py")
            command = f"{sys.executable} -m benchmarks.several {count} {self.python} {script}"
            rows = self.also(peer, command, args, topics, self.peers_redis)
        return [row | {"peer": f"{peer} x{count}", "cpu_s": None} for row in rows]


def find_python(name: str, named: str | None, setup: bool) -> str:
    """The Python that was named, else one with a peer's packages under benchmarks/out, made there if ``setup``."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if named is not None:
        return named
    if not python.exists():
        if not setup:
            raise SystemExit(f"no Python with {', '.join(PACKAGES[name])}: name one (see --help), or add --setup")
        print(f"making {folder} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *PACKAGES[name]], check=True)
    return str(python)


def throughput(bench: Bench, args: argparse.Namespace) -> tuple[list[Row], dict[str, tuple[float, float]]]:
    """Everyone on the same filled topics, in turn; the median of the rounds for each."""
    rounds: list[list[Row]] = []
    limits = ["--no-produce", "--events", str(args.events), "--timeout", str(args.timeout)]
    bench.run(["--events", str(args.events), "--peers", ""], "full", bench.peers_redis)
    for _ in range(args.rounds):
        rows = bench.run(["--peers", args.peers, *limits], "full", bench.peers_redis) if args.peers else []
        for also in args.also:
            name, _, command = also.partition("=")
            rows += bench.also(name, command, limits, "full", bench.weir_redis, WEIR_WORKER__WEB_PORT="0")
        weir, stages = bench.weir(limits, "full")
        rounds.append([*rows, weir])
    return [median(list(of)) for of in zip(*rounds, strict=True)], stages


def median(rows: list[Row]) -> Row:
    """The one of median throughput; the lower of the two in the middle."""
    return sorted(rows, key=lambda row: float(row["events_per_s"]))[(len(rows) - 1) // 2]


def side_by_side(bench: Bench, args: argparse.Namespace) -> list[Row]:
    """Several processes of each, on the same filled topics; the median of the rounds for each."""
    limits = ["--no-produce", "--events", str(args.events), "--timeout", str(args.timeout)]
    able = [peer for peer in args.peers.split(",") if peer in STEADY]
    rounds = [
        [row for peer in (*able, "weir") for row in bench.several(peer, args.processes, limits, "full")]
        for _ in range(args.rounds)
    ]
    return [median(list(of)) for of in zip(*rounds, strict=True)]


def latency(bench: Bench, args: argparse.Namespace) -> list[Row]:
    """Those that can keep up, at a steady rate on topics that start out empty."""
    steady = ["--rate", str(args.rate), "--seconds", str(args.seconds)]
    able = [peer for peer in args.peers.split(",") if peer in STEADY]
    rows = bench.run(["--peers", ",".join(able), *steady], "steady", bench.peers_redis) if able else []
    weir, _ = bench.weir(steady, "steady-weir")
    return [*rows, weir]


def show_throughput(rows: list[Row], console: Console) -> dict[str, float]:
    """Print the table; Weir's throughput over each peer's."""
    table = Table(title="Throughput: the same filled topics, one after the other")
    for column in ("", "events/s", "CPU us/event", "first score after s", "Weir is times", "goal"):
        table.add_column(column, justify="right" if column else "left")
    ours = rows[-1]["events_per_s"]
    ratios: dict[str, float] = {}
    for row in rows:
        name, rate = row["peer"], row["events_per_s"]
        ratio = ours / rate if rate else float("inf")
        if name != "weir":
            ratios[name] = round(ratio, 2)
        cells = ["", ""] if name == "weir" else [f"{ratio:.1f}", f"{GOALS.get(name, 0):g}"]
        cpu, first = row["cpu_s"] / max(row["distinct"], 1) * 1e6, row["first"] - row["started"]
        table.add_row(name, f"{rate:,.0f}", f"{cpu:.1f}", f"{first:.1f}", *cells)
    console.print(table)
    return ratios


def show_several(several: list[Row], alone: list[Row], console: Console) -> dict[str, float]:
    """Print the table; the throughput of several processes of Weir over each peer's row."""
    table = Table(title="Several processes of each (Kafka Streams: threads)")
    for column in ("", "events/s", "times one of its own", "Weir's is times"):
        table.add_column(column, justify="right" if column else "left")
    one = {row["peer"]: row["events_per_s"] for row in alone}
    ours = several[-1]["events_per_s"]
    for row in several:
        own, rate = one[row["peer"].partition(" ")[0]], row["events_per_s"]
        table.add_row(
            row["peer"], f"{rate:,.0f}", f"{rate / own:.2f}", "" if row is several[-1] else f"{ours / rate:.1f}"
        )
    console.print(table)
    rates = one | {row["peer"]: row["events_per_s"] for row in several[:-1]}
    return {name: round(ours / rate, 2) for name, rate in rates.items() if rate}


def show_latency(rows: list[Row], rate: int, console: Console) -> None:
    """Print the table."""
    table = Table(title=f"Send to prediction at {rate:,} events/s")
    for column in ("", "p50 ms", "p99 ms", "max ms", "came"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        times = [f"{row[key]:.1f}" for key in ("p50_ms", "p99_ms", "max_ms")]
        table.add_row(row["peer"], *times, f"{row['came']:,} of {row['sent']:,}")
    console.print(table)


def show_stages(stages: dict[str, tuple[float, float]], weir: Row, console: Console) -> dict[str, float]:
    """Print what each stage of Weir takes; in us an event."""
    events = max(weir["distinct"], 1)
    table = Table(title="Weir's stages (send, acknowledge and flush hold waiting too)")
    for column in ("lane and stage", "us/event", "batches"):
        table.add_column(column, justify="left" if column.startswith("lane") else "right")
    costs = {name: round(seconds / events * 1e6, 2) for name, (seconds, _) in stages.items()}
    for name, (_, batches) in stages.items():
        table.add_row(name, f"{costs[name]:.2f}", f"{batches:,.0f}")
    console.print(table)
    return costs


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=PEERS, help="which, with commas; empty for Weir alone")
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME=COMMAND",
        help="one more worker on Weir's own Redis, in turn with it: benchmarks/peers/weir of another checkout",
    )  # fmt: skip
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=1, help="of the throughput runs; the median of each counts")
    parser.add_argument("--rate", type=int, default=5_000, help="events/s of the latency run; 0 leaves it out")
    parser.add_argument("--seconds", type=int, default=20, help="how long the latency run lasts")
    parser.add_argument("--processes", type=int, default=2, help="of the second throughput run; 1 leaves it out")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one peer's throughput")
    parser.add_argument("--shared", type=Path, default=shared_folder(), help="the folder that holds peers/")
    parser.add_argument("--python", help="a Python with the peers' packages")
    parser.add_argument("--quix-python", help="a Python with quixstreams")
    parser.add_argument("--setup", action="store_true", help="make the Pythons not named, under benchmarks/out/peers")
    args = parser.parse_args()
    run_all = args.shared / "peers" / "run_all.py"
    if not run_all.is_file():
        raise SystemExit(f"no peers at {run_all}: name the folder that holds peers/ with --shared")
    os.environ.setdefault("WEIR_SHARED", str(args.shared))  # the broker is there, too
    python, quix_python = (
        find_python("main", args.python, args.setup),
        find_python("quix", args.quix_python, args.setup),
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = start_broker(stack, folder / "broker").address
        peers_redis = start_redis(stack, folder / "redis-peers", durable=False)
        weir_redis = start_redis(stack, folder / "redis-weir", durable=True)
        bench = Bench(run_all, python, quix_python, address, peers_redis, weir_redis)
        load = os.getloadavg()[0]
        started = time.time()
        rows, stages = throughput(bench, args)
        several = side_by_side(bench, args) if args.processes > 1 else []
        timed = latency(bench, args) if args.rate else []
    console = Console(width=110)
    ratios = show_throughput(rows, console)
    several_over = show_several(several, rows, console) if several else {}
    if timed:
        show_latency(timed, args.rate, console)
    costs = show_stages(stages, rows[-1], console)
    line = {
        "events": args.events, "rounds": args.rounds, "cpus": os.cpu_count(), "load_before": load,
        "seconds": round(time.time() - started),
        "throughput": rows, "weir_over": ratios, "several": several, "several_weir_over": several_over,
        "latency": timed, "stage_us_per_event": costs,
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()
