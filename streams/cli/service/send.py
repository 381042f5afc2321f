"""``weir send``: events or labels from files to a running service."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from weir.streams.cli.console import bar, say
from weir.streams.cli.service.reached import KeyOption, UrlOption, service_at

if TYPE_CHECKING:
    from weir.streams.cli.service.sent_bodies import Body

_SHOWN: Final = 10


def send_command(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="JSON lines; - is the standard input. With --task any table.")
    ],
    labels: Annotated[bool, typer.Option("--only-labels", "--labels", help="They hold labels, not events.")] = False,
    task: Annotated[
        Path | None, typer.Option("--task", "-t", help="Task file whose [source] maps the columns of tables.")
    ] = None,
    shown: Annotated[
        bool, typer.Option("--print", help="Print the events (or --only-labels) as JSON lines; send nothing.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Send events (or labels) to a running weir serve, from files of JSON lines.

    A record that was sent before is a repeat and counts once, so what broke
    off is sent again from its beginning. Refused records are named with their
    reason, and the exit status is 1. A line that begins with {"topic":"labels",
    is a label.

    With --task the files are those of weir backtest: their rows become events
    as [source] says, and each label follows once it was known; with
    --only-labels too, the labels alone. --print shows what a program has to send.

    For example:

        weir send events.jsonl

        weir send --only-labels labels.jsonl --url https://weir.example

        tail -f events.jsonl | weir send -

        weir simulate --out - | weir send -

        weir send payments.csv --task fraud.toml

        weir send payments.csv --task fraud.toml --print | head -1
    """
    bodies = _bodies(files, task, labels)
    if shown:
        # One kind: a program sends events and labels to two addresses.
        for body in (body for body in bodies if body.labels == labels):
            sys.stdout.buffer.write(b"".join(line if line.endswith(b"\n") else line + b"\n" for line in body.lines))
        return
    accepted = of_labels = repeats = refused = 0
    where = ""
    try:
        with service_at(url, key) as client, bar("") as advance:
            for body in bodies:
                advance(f"{accepted + repeats + refused:,} records", 0, None)
                # Said if the request fails: the service may have taken the body or not.
                where = f"; not acknowledged: {body.begins}"
                told = (client.send_labels if body.labels else client.send_events)(b"".join(body.lines))
                accepted, repeats = accepted + told.accepted, repeats + told.repeats
                of_labels += told.accepted if body.labels else 0
                for one in (one for one in told.results if one.status == "refused"):
                    refused += 1
                    if refused <= _SHOWN:
                        say(f"{body.named(one.index)}: {one.reason}")
                where = ""
    finally:  # also of what broke off: what is sent again need not be all of it
        more = f" ({refused - _SHOWN:,} more are not shown)" if refused > _SHOWN else ""
        both = f" ({of_labels:,} of them labels)" if 0 < of_labels < accepted else ""
        counts = f"{accepted:,} accepted{both}, {repeats:,} repeats, {refused:,} refused{more}{where}"
        say(counts)
    if refused:
        raise typer.Exit(1)


def _bodies(files: Sequence[str], task: Path | None, labels: bool) -> Iterable[Body]:
    from weir.streams.cli.service.sent_bodies import bodies_of_lines, bodies_of_tables

    if task is None:
        return bodies_of_lines(files, labels)
    from weir.streams.replay.replayed_files import TableSource
    from weir.streams.task_files import load_task

    spec = load_task(task)
    source = TableSource(spec, [Path(file) for file in files], None, with_labels=True)
    if source.warning:
        say(f"warning: {source.warning}", style="yellow")
    return bodies_of_tables(source, labels, spec.labels.join.negative_after_s)
