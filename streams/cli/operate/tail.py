"""``weir tail``: the records of a topic, one line each, as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weir.streams.cli.console import piped, utc
from weir.streams.cli.options import INTERRUPTED, BootstrapOption, ConfigOption, settings_of
from weir.streams.kafka.admin.clients import consumer
from weir.streams.kafka.admin.printed_records import as_json, filters, line, parse
from weir.streams.kafka.admin.reader import Start, follow, read_present
from weir.streams.ops.stop_request import interruptible
from weir.streams.text import printable

if TYPE_CHECKING:
    from rich.console import Console


def tail_command(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic; one of Weir's also by Weir's own name.")],
    start: Annotated[
        str, typer.Option("--from", "-f", help="earliest, latest, or -N for the last N records and what follows.")
    ] = "latest",
    where: Annotated[
        list[str] | None,
        typer.Option("--filter", help="Only records with FIELD=VALUE (or key=VALUE); repeat to narrow."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, max=10**9, help="Stop after so many.")] = None,
    follows: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for more at the end.")] = True,
    as_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the whole value.")] = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Show the records of a topic, one line each, and follow it until Ctrl-C.

    It joins no consumer group and commits nothing. A line is the time, the
    partition and offset, the key and the fields that tell most. A filter
    takes dotted names; a field that is a list matches if any element does.

    For example:

        weir tail alerts

        weir tail predictions --from -20 --filter entity_id=u17

        weir tail user-events --from earliest --no-follow --filter properties.category=games

        weir tail dead-letters --from earliest --no-follow --json | jq .value.reason
    """  # fmt: skip
    from rich.console import Console

    settings, begin, accepts = settings_of(config, bootstrap), Start.parse(start), filters(where or [])
    names = settings.topics
    topic = names.resolve(topic)
    kind = names.own(topic) or topic
    console = Console(highlight=False, soft_wrap=True)
    shown = 0
    with piped(), consumer(settings.kafka, "tail") as client, interruptible() as stop:
        for record in _records(client, topic, begin, follows, stop):
            # Without a filter nothing is taken apart twice.
            if not accepts(record.key, parse(record.value) if where else None):
                continue
            _show(console, kind, record, as_lines)
            shown += 1
            if shown == limit:
                return
        interrupted = stop.is_set()
        sys.stdout.flush()
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _records(client: Any, topic: str, start: Start, follows: bool, stop: Event) -> Iterator[Any]:
    present = read_present(client, topic, start, stop)
    if start.back is not None:  # so many of each partition were read: keep the newest of them all
        present = iter(sorted(present, key=lambda r: r.timestamp)[-start.back :] if start.back else list(present))
    yield from present
    if follows:
        yield from follow(client, stop)


def _show(console: Console, kind: str, record: Any, as_lines: bool) -> None:
    from rich.text import Text

    r, ts = record, record.timestamp / 1000
    if as_lines:
        # Bytes past the console: rich would look for styles in them, and break long lines.
        sys.stdout.buffer.write(as_json(r.topic, r.partition, r.offset, ts, r.key, r.value) + b"\n")
        sys.stdout.buffer.flush()
        return
    key = "-" if r.key is None else printable(r.key, 40)
    text = Text(f"{utc(ts)}  ", style="bright_black")
    text.append(f"{r.partition}@{r.offset}", style="cyan").append("  ").append(key, style="bold")
    console.print(text.append("  ").append(line(kind, r.value), style="default"))
