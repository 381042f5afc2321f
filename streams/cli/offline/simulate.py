"""``weir simulate``: simulated streams as files or lines.

It knows arguments and pace; streams come from ``weir.streams.simulate``, formats from ``weir.streams.simulate.sinks``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from weir.models.durable import clear_left
from weir.streams.cli.console import bars, piped, say
from weir.streams.cli.options import INTERRUPTED
from weir.streams.ops.stop_request import interruptible
from weir.streams.replay.pace import Pace

if TYPE_CHECKING:
    from weir.streams.simulate import SimulationConfig
    from weir.streams.simulate.sinks import Sink

_SLICES_PER_S = 10


Advance = Callable[[float], None]
"""Told how many days of event time are written."""
Format = Literal["jsonl", "parquet"]
Topic = Literal["user-events", "device-events", "labels"]


def simulate_command(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Directory for one file per topic, or - for lines on stdout.")
    ] = Path("weir-simulated"),
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same bytes.")] = 7,
    events: Annotated[
        int, typer.Option(min=1, max=10**10, help="User and device events; labels come on top.")
    ] = 100_000,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Event time the stream covers.")] = 60,
    users: Annotated[int, typer.Option(min=1, max=5_000_000, help="People who buy, log in and play.")] = 2_000,
    merchants: Annotated[int, typer.Option(min=4, max=10**6, help="Shops they buy from.")] = 300,
    devices: Annotated[int, typer.Option(min=0, max=10**6, help="Machines that send metrics.")] = 60,
    fraud_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Frauds among purchases.")] = 0.01,
    label_delay_days: Annotated[float, typer.Option(min=0.0, max=365.0, help="Median delay of chargebacks.")] = 4.0,
    drift_at: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="When frauds change, as a share of the time; 1 for never.")
    ] = 0.6,
    dirty: Annotated[
        float, typer.Option(min=0.0, max=0.2, help="Share of malformed, of repeated and of late records, each.")
    ] = 0.0,
    form: Annotated[Format, typer.Option("--format", "-f", help="Format of the files.")] = "jsonl",
    topic: Annotated[
        Topic | None, typer.Option(help="Only this topic. On stdout all topics carry a field 'topic'.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, max=1e9, help="Records a second; as fast as possible without it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a directory that holds files.")] = False,
) -> None:
    """Write simulated streams of users, merchants and machines.

    Records are in wire format v1, in the order in which they become
    available: labels come days after their events. Purchases hold frauds of
    three patterns, users churn, machines wear out and fail, and the fraud
    pattern changes once.

    Files are in their place at the end. Ctrl-C ends them properly and exits
    with status 130.

    For example:

        weir simulate --seed 7 --events 100000 --out data

        weir simulate --format parquet --days 90 --users 5000 --out data

        weir simulate --rate 50 --topic labels --out - | kcat -P -t labels

        weir simulate --dirty 0.01 --out - | head
    """
    from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from weir.streams.simulate import TOPICS, SimulationConfig

    _refuse(out, form, dirty, force)
    config = SimulationConfig(
        seed=seed,
        events=events,
        days=days,
        users=users,
        merchants=merchants,
        devices=devices,
        fraud_share=fraud_share,
        label_delay_days=label_delay_days,
        drift_at=None if drift_at == 1.0 else drift_at,
        malformed_share=dirty,
        duplicate_share=dirty,
        late_share=dirty,
    )
    topics = TOPICS if topic is None else (topic,)
    columns = MofNCompleteColumn(), TextColumn("days"), TimeRemainingColumn()
    with piped(), interruptible() as stop, _sink(out, form, topics) as sink, bars(*columns) as progress:
        row = progress.add_task("simulating", total=days)
        written = _write(config, topics, sink, rate, stop, lambda done: progress.update(row, completed=done))
    if str(out) != "-":
        what = ", ".join(f"{count:,} {name}" for name, count in written.items())
        say(f"{'Interrupted: ' if stop.is_set() else ''}wrote {what} to {out}/")
    if stop.is_set():
        raise typer.Exit(INTERRUPTED)


def _refuse(out: Path, form: Format, dirty: float, force: bool) -> None:
    from weir.streams.simulate import TOPICS

    if str(out) == "-":
        if form == "parquet":
            raise typer.BadParameter("Parquet goes to files only: give --out DIR, or --format jsonl for lines.")
        return
    if form == "parquet" and dirty > 0:
        raise typer.BadParameter(
            f"Parquet has no place for malformed records (--dirty {dirty:g}): give --dirty 0 or --format jsonl."
        )
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"{out} is a file: give a directory with --out.")
    for topic in TOPICS if out.is_dir() else ():
        clear_left(out / f"{topic}.{form}")  # of a run that was killed
    if out.is_dir() and any(out.iterdir()) and not force:
        raise typer.BadParameter(f"{out} is not empty: give another directory, or --force to write into it.")


def _sink(out: Path, form: Format, topics: tuple[str, ...]) -> Sink:
    from weir.streams.simulate.sinks import JsonlSink, LinesSink, ParquetSink

    if str(out) == "-":
        return LinesSink(sys.stdout.buffer, name_topics=len(topics) > 1)
    out.mkdir(parents=True, exist_ok=True)
    return JsonlSink(out, topics) if form == "jsonl" else ParquetSink(out, topics)


def _write(
    config: SimulationConfig, topics: tuple[str, ...], sink: Sink, rate: float | None, stop: Event, advance: Advance
) -> dict[str, int]:
    """Write until the end or until ``stop``, not faster than ``rate`` records a second; records by topic."""
    from weir.streams.simulate import simulate

    written = dict.fromkeys(topics, 0)
    pace, count = Pace(time.monotonic(), rate), 0
    for block in simulate(config):
        records = (record for record in block.merged() if record[0] in written)
        # Ten slices a second: by a whole block, which may hold minutes of a slow rate, nothing would flow in between.
        size = max(int(rate / _SLICES_PER_S), 1) if rate else len(block) or 1
        while not stop.is_set() and (part := list(islice(records, size))):
            sink.write(part)
            for name, *_ in part:
                written[name] += 1
            count += len(part)
            if rate:
                sink.flush()
                stop.wait(pace.wait_s(time.monotonic(), count, None))
        if stop.is_set():
            break
        advance((block.end - config.start_ts) / 86_400.0)
    return written
