"""``weir feed``: the live event feed of a running service."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import msgspec
import typer

from weir.streams.cli.console import piped, say, utc
from weir.streams.cli.options import INTERRUPTED
from weir.streams.cli.service.reached import KeyOption, UrlOption, service_at
from weir.streams.text import printable

_TOLD: Final = (
    "task", "entity_id", "status", "severity", "score", "cause", "action", "version", "verdict", "topic", "reason",
    "text",
)  # fmt: skip


def feed_command(
    types: Annotated[
        list[str] | None, typer.Option("--type", "-t", help="alert, prediction, drift, ...; repeat for more.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Of this task.")] = None,
    entity: Annotated[str | None, typer.Option("--entity", "-e", help="Of this user or device.")] = None,
    severity: Annotated[str | None, typer.Option("--severity", help="Alerts of at least this.")] = None,
    min_score: Annotated[float | None, typer.Option("--min-score", min=0, max=1, help="At least this.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="15m, 2h, or a time; else from now on.")] = None,
    last_id: Annotated[str | None, typer.Option("--after", help="Go on after this id.")] = None,
    as_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the whole record.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, max=10**9, help="Stop after so many.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Follow alerts, drift, model updates and dead letters (and predictions, where asked for) until Ctrl-C.

    When the connection breaks the feed goes on where it was. Predictions are
    many: they are shown where --type prediction asks for them.

    For example:

        weir feed

        weir feed --type alert --severity high --since 1h

        weir feed --type prediction --entity u7 --json | jq .record.score
    """
    filters = {"type": types, "task": task, "entity": entity, "severity": severity, "min_score": min_score}
    shown, last = 0, last_id
    try:
        with piped(), service_at(url, key) as client:
            for event in client.feed(last_id=last_id, since=since, **filters):
                last = event.id
                if as_lines:
                    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
                    # Each at once: whoever reads the pipe waits for it.
                    sys.stdout.buffer.flush()
                else:
                    print(f"{utc(event.ts)}  {event.type:12} {_words(event.record)}", flush=True)
                shown += 1
                if shown == limit:
                    return
    except KeyboardInterrupt:
        if last is not None:
            say(f"go on after here with --after {last}")
        raise typer.Exit(INTERRUPTED) from None


def _words(record: dict[str, object]) -> str:
    """The fields of a record that tell most, on one line."""
    return printable("  ".join(f"{name}={record[name]}" for name in _TOLD if name in record), 240)
