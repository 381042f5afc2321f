"""Hostile records among good traffic, on somebody's own brokers and Redis: ``python -m benchmarks.torture``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from benchmarks.torture.torture_run import Place, Plan, torture
from weir.streams.cli.console import notes, output, table
from weir.streams.cli.options import BootstrapOption, ConfigOption, JsonOption, settings_of
from weir.streams.cli.processes.process import needed
from weir.streams.errors import WeirError


def torture_command(
    seconds: Annotated[float, typer.Option(min=5, max=86_400, help="How long workers are killed.")] = 60.0,
    rate: Annotated[float, typer.Option(min=10, max=100_000, help="Good events a second.")] = 2_000.0,
    share: Annotated[float, typer.Option(min=0, max=0.5, help="Hostile records among all.")] = 0.1,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="The same seed sends the same records.")] = 1,
    logs: Annotated[
        Path | None, typer.Option(file_okay=False, help="Keep the workers' logs in this directory.")
    ] = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send hostile records among good traffic while workers are killed, and look what became of it.

    It makes topics and keys under a prefix of its own (torture-...), starts
    its own workers, and removes everything at the end: nothing of yours is
    read or written. It needs the right to create and delete topics.

    Garbage, numbers out of range, broken clocks, wrong partitioners, repeated
    and stolen ids, floods of labels, every codec, batches that are bombs, and
    forged internal records. Every good event has to be scored once, with the
    features that it has without them; the model has to rank as one that never
    saw them; no worker may end but by a kill.

    Exit status: 0 all held; 1 something did not, said line by line; 2 an error.

    For example:

        python -m benchmarks.torture --bootstrap kafka-1:9092 --seconds 300

        python -m benchmarks.torture --seconds 20 --rate 500 --seed 7 --json
    """  # fmt: skip
    needed()
    plan = Plan(seconds=seconds, rate=rate, share=share, workers=workers, seed=seed)
    place = Place.beside(settings_of(config, bootstrap), config, plan)
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
    verdict = torture(place, plan, lambda words: notes().print(words), logs)
    if as_json:
        print(orjson.dumps({"failures": verdict.failures, **verdict.numbers}).decode())
    else:
        output().print(table("what", "found", rows=verdict.numbers.items()))
    for failure in verdict.failures:
        notes().print(f"FAILED: {failure}", markup=False)
    if verdict.failures:
        raise typer.Exit(1)
    notes().print("everything held")


if __name__ == "__main__":
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(torture_command)
    try:
        app()
    except WeirError as error:
        sys.exit(f"error: {error}")
