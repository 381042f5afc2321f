"""``weir examples``: what models learned, and taking some of it back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
import typer

from weir.online.errors import UNREADABLE
from weir.streams.cli import options
from weir.streams.cli.console import confirmed, output, say, table, to_json, utc
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.admin.clients import producer
from weir.streams.ops.command_user import caller

if TYPE_CHECKING:
    from weir.online.stages.quarantine import Quarantine
    from weir.streams.config.settings import Settings

_SHOWN: Final = 20
_LOOK_S: Final = 0.5

_HELP = "Show the examples that online models learned, and take some of them back."
examples_app = typer.Typer(name="examples", help=_HELP, no_args_is_help=True)

TaskOption = Annotated[str, typer.Option("--task", "-t", help="Name of the task.")]
OffsetsOption = Annotated[
    str | None, typer.Option("--offsets", help="Of the examples topic: 120, or 100-199, several with commas.")
]


class _Row(msgspec.Struct):
    """What is shown of an example."""

    task: str
    event_id: str
    ts: float
    score: float
    value: int
    weight: float = 1.0
    entity_id: str | None = None


class Found(NamedTuple):
    """An example that was asked for."""

    offset: int
    written_at: float
    row: _Row


@dataclass(frozen=True)
class Choice:
    """Which examples are meant; every part that is given has to hold."""

    task: str
    offsets: tuple[tuple[int, int], ...] = ()
    entity: str | None = None
    since: float | None = None

    def holds(self, found: Found) -> bool:
        """Whether an example is meant."""
        return (
            found.row.task == self.task
            and (not self.offsets or any(start <= found.offset < stop for start, stop in self.offsets))
            and self.entity in (None, found.row.entity_id)
            and (self.since is None or found.written_at >= self.since)
        )


def parse_offsets(text: str | None) -> tuple[tuple[int, int], ...]:
    """Offsets as ranges ``[start, stop)``; raises ``UsageError`` for anything else.

    >>> parse_offsets("7,100-199")
    ((7, 8), (100, 200))
    """
    ranges: list[tuple[int, int]] = []
    # Not `if text`: an empty text, as of an unset variable, would mean every example of the task.
    for part in text.split(",") if text is not None else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UsageError(f"--offsets {part.strip()!r}: give offsets as 120 or 100-199, several with commas")
        ranges.append((int(first), int(last if dash else first) + 1))
    return tuple(ranges)


@examples_app.command("list")
def list_command(
    task: TaskOption,
    offsets: OffsetsOption = None,
    entity: options.EntityOption = None,
    since: options.SinceOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10**6, help="Show the newest so many.")] = _SHOWN,
    config: options.ConfigOption = None,
    bootstrap: options.BootstrapOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show examples, the newest last, with the offsets that `quarantine` takes.

    For example:

        weir examples list --task fraud --since 2h

        weir examples list --task fraud --entity user-7 --json
    """  # fmt: skip
    settings = options.settings_of(config, bootstrap)
    choice = _choice(task, offsets, entity, since)
    found, quarantines = asyncio.run(_find(settings, choice))
    _show(found[-limit:], quarantines, as_json)
    if len(found) > limit:
        say(f"{len(found) - limit:,} older ones are not shown; --limit shows more")


@examples_app.command("quarantine")
def quarantine_command(
    task: TaskOption,
    offsets: OffsetsOption = None,
    entity: options.EntityOption = None,
    since: options.SinceOption = None,
    reason: Annotated[str | None, typer.Option("--why", "--reason", help="Kept with the order.")] = None,
    yes: options.YesOption = False,
    wait: Annotated[
        Path | None,
        typer.Option("--wait-for", "--wait", metavar="TASKFILE", help="Wait until a worker has stored the new model."),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, max=86_400, help="Seconds to wait at most.")] = 300.0,
    config: options.ConfigOption = None,
    bootstrap: options.BootstrapOption = None,
) -> None:
    """Take examples back: every worker folds the task's model again without them.

    The order is a record of the examples topic, so all replicas make the same
    model, bit for bit, now and whenever they start. Scores of before can still
    be explained by the model of then. Trainings leave the examples out, too.
    Workers score with the old model until the new one is ready.

    Several of --offsets, --entity and --since together mean the examples for
    which all hold. At least one has to be given.

    For example:

        weir examples quarantine --task fraud --entity user-7 --why "stolen test cards"

        weir examples quarantine --task fraud --since 2026-11-28T10:00 --yes

        weir examples quarantine --task fraud --offsets 120,300-399 --wait-for fraud.toml
    """  # fmt: skip
    if offsets is None and entity is None and since is None:
        raise UsageError("say which examples: give --offsets, --entity or --since")
    settings = options.settings_of(config, bootstrap)
    found, quarantines = asyncio.run(_find(settings, _choice(task, offsets, entity, since)))
    # What is taken back already would make the order longer, and its ranges are limited.
    new = [f for f in found if not _held(quarantines, f.offset)]
    if not new:
        raise UsageError(f"task {task}: no example is meant{' that is not taken back already' if found else ''}")
    positives = sum(f.row.value for f in new)
    words = (
        f"{len(new):,} examples of task {task}, {positives:,} of them positive, from {utc(new[0].written_at)} UTC on"
    )
    if not yes and not confirmed(f"Take back {words}?"):
        raise typer.Exit(1)
    offset = _order(settings, task, new, reason)
    output().print(f"{words}: taken back by the record at offset {offset} of {settings.topics.name(topics.EXAMPLES)}")
    if wait is not None:
        version = asyncio.run(_stored(settings, wait, offset, timeout))
        output().print(f"a worker has stored the model without them, at version {version:,}")


def _choice(task: str, offsets: str | None, entity: str | None, since: str | None) -> Choice:
    return Choice(task, parse_offsets(offsets), entity, None if since is None else options.moment("--since", since))


async def _find(settings: Settings, choice: Choice) -> tuple[list[Found], list[Quarantine]]:
    from weir.online.stages.quarantine import Quarantine, find_quarantines
    from weir.streams.kafka.consume.range_reader import RangeReader  # it brings the Kafka client

    decoder, found, quarantines = msgspec.json.Decoder(_Row), list[Found](), list[Quarantine]()
    client, limits = settings.kafka.client_options("examples"), settings.limits_of(topics.EXAMPLES)
    async with RangeReader(client, settings.topics.name(topics.EXAMPLES), limits=limits) as reader:
        # Partition 0 alone, as replicas read it: there is one order of examples.
        first, end = await reader.bounds(0)
        async for offsets, records, *_ in reader.read(0, first, end):
            values = [record.value for record in records]
            quarantines += [q for q in find_quarantines(values, offsets) if q.task == choice.task]
            for offset, record in zip(offsets, records, strict=True):
                try:
                    one = Found(offset, record.ts, decoder.decode(record.value))
                except UNREADABLE:  # a quarantine, or what no replica can learn
                    continue
                if choice.holds(one):
                    found.append(one)
    return found, quarantines


def _held(quarantines: Sequence[Quarantine], offset: int) -> bool:
    return any(start <= offset < stop for q in quarantines for start, stop in q.ranges)


def _order(settings: Settings, task: str, found: Sequence[Found], reason: str | None) -> int:
    """Write the record; its offset."""
    from weir.online.codec.encode import encode_model
    from weir.online.codec.wire import QUARANTINE_MAX, ExampleQuarantine
    from weir.online.stages.quarantine import ranges_of

    edges = [edge for pair in ranges_of(f.offset for f in found) for edge in pair]
    if len(edges) > QUARANTINE_MAX:
        raise UsageError(
            f"these are {len(edges) // 2:,} separate ranges of offsets, and one order takes {QUARANTINE_MAX // 2:,}; "
            "narrow it with --offsets, in several orders"
        )
    order = ExampleQuarantine(task=task, quarantine=tuple(edges), by=caller()[:64], reason=reason, made_at=time.time())
    with producer(settings.kafka, "examples") as client:
        name = settings.topics.name(topics.EXAMPLES)
        # Its offset is what --wait-for compares stored models with.
        sent = client.send(name, key=task.encode(), value=encode_model(order)).get(settings.kafka.timeout_s)
    return int(sent.offset)


async def _stored(settings: Settings, file: Path, offset: int, timeout: float) -> int:
    """The version of a stored model that has read past ``offset``; waits for one."""
    from weir.streams.model_replicas.fold import ExampleFold
    from weir.streams.model_replicas.model_snapshots import ModelSnapshots
    from weir.streams.redis.client import opened
    from weir.streams.task_files import load_task

    try:
        async with opened(settings.redis) as link, asyncio.timeout(timeout):
            while True:
                fold = ExampleFold.of(load_task(file))
                state = await ModelSnapshots(link).newest(fold, usable=lambda read: read > offset)
                if state is not None:
                    return state.version
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise UsageError(
            f"no worker has stored a model that has read past offset {offset} within {timeout:g} s; the order stands, "
            "and workers follow it when they run"
        ) from None


def _show(found: Sequence[Found], quarantines: Sequence[Quarantine], as_json: bool) -> None:
    if as_json:
        rows = [
            {"offset": f.offset, "written_at": f.written_at, "taken_back": _held(quarantines, f.offset)}
            | msgspec.to_builtins(f.row)
            for f in found
        ]
        print(to_json(rows))
        return
    lines = [
        (
            f.offset, utc(f.written_at), f.row.event_id, f.row.entity_id or "-", f.row.value,
            f"{f.row.weight:g}", f"{f.row.score:.4f}", "taken back" if _held(quarantines, f.offset) else "",
        )
        for f in found
    ]  # fmt: skip
    columns = ("offset>", "made (UTC)", "event", "entity", "label>", "weight>", "score>", "")
    output().print(table(*columns, rows=lines))
