"""``weir partitions``: what each partition does, and pausing, resuming, moving one by hand.

An order is left in the store for the worker that owns the partition; workers look once a second. It knows no lane.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from weir.streams.cli.console import output, say, table, to_json, utc
from weir.streams.cli.options import BootstrapOption, ConfigOption, JsonOption, moment, settings_of
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.admin.clients import consumer, kafka_module
from weir.streams.ops.command_user import caller

if TYPE_CHECKING:
    from weir.streams.config.settings import Settings
    from weir.streams.redis.partition_orders import Verb

_HELP: Final = """Partitions: list, pause, resume, seek, watermark.

What is wrong with a partition (most of its input is bad, its state is damaged, a record that cannot be computed) pauses
that partition, and the others go on. It is tried again by itself, ever more rarely; these commands are for what that
does not mend.

For example: weir partitions list
"""
partitions_app = typer.Typer(name="partitions", help=_HELP, no_args_is_help=True)

READ: Final = (
    topics.USER_EVENTS,
    topics.DEVICE_EVENTS,
    topics.ENTITY_UPDATES,
    topics.LABELS,
    topics.INFERENCE_REQUESTS,
)
"""Topics whose partitions workers own."""
POLL_S: Final = 0.2
_T = TypeVar("_T")

PlaceArgument = Annotated[str, typer.Argument(metavar="TOPIC-PARTITION", help="Such as user-events-3.")]
WaitOption = Annotated[
    float, typer.Option("--timeout", "--wait", min=0, max=86_400, help="Seconds to wait for the worker's answer.")
]
WhyOption = Annotated[str, typer.Option("--why", "--reason", help="For the log and /ready.")]


@partitions_app.command("list")
def list_command(as_json: JsonOption = False, config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Show each partition: its owner, state, position, lag, watermark, and why it is paused.

    What owners say is up to 5 s old. Exit status 1 when one is paused, or
    has no owner.

    For example:

        weir partitions list

        weir partitions list --json | jq '.[] | select(.state == "paused")'
    """
    settings = settings_of(config, bootstrap)
    rows = _rows(settings, _with_orders(settings, lambda orders: _seen(orders, _places(settings))))
    if as_json:
        print(to_json(rows))
    else:
        columns = ("topic", "partition>", "owner", "state", "position>", "lag>", "watermark", "since", "reason")
        cells = [[_cell(name.rstrip(">"), row[name.rstrip(">")]) for name in columns] for row in rows]
        output().print(table(*columns, rows=cells))
    if not rows:
        say(f"no worker tells of any partition under {settings.redis.prefix}:*; start one: weir worker")
    if not rows or any(row["state"] != "served" for row in rows):
        raise typer.Exit(1)


@partitions_app.command("pause")
def pause_command(
    place: PlaceArgument,
    why: WhyOption = "",
    wait: WaitOption = 10.0,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Stop processing one partition until somebody resumes it, also after restarts.

    For example:

        weir partitions pause user-events-3 --why "its producer sends nonsense"
    """
    _order(settings_of(config, bootstrap), place, wait, "pause", why=why)


@partitions_app.command("resume")
def resume_command(
    place: PlaceArgument, wait: WaitOption = 10.0, config: ConfigOption = None, bootstrap: BootstrapOption = None
) -> None:
    """Go on with a partition, whether a person or a fault paused it.

    For example:

        weir partitions resume user-events-3
    """
    _order(settings_of(config, bootstrap), place, wait, "resume")


@partitions_app.command("seek")
def seek_command(
    place: PlaceArgument,
    offset: Annotated[str, typer.Argument(metavar="OFFSET", help="A number, earliest or latest.")],
    wait: WaitOption = 30.0,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Have a partition go on at another offset: skip what it cannot get over, or take records again.

    What is skipped becomes one dead letter that names the offsets. Records
    taken again count again, but for events whose ids are still remembered.
    A partition that a person paused stays paused.

    For example:

        weir partitions seek user-events-3 120345

        weir partitions seek labels-0 latest
    """  # fmt: skip
    settings = settings_of(config, bootstrap)
    _order(settings, place, wait, "seek", lambda: _offset(settings, place, offset))


@partitions_app.command("watermark")
def watermark_command(
    place: PlaceArgument,
    at: Annotated[str, typer.Argument(metavar="TIME", help="As 2024-05-01T12:00 (UTC), or how long ago as 1h.")],
    wait: WaitOption = 30.0,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Say what event time it is in a partition, where a broken clock moved it.

    Events older than that, less the lateness allowed, are too late.

    For example:

        weir partitions watermark user-events-3 2026-03-01T12:00:00Z

        weir partitions watermark device-events-0 10m
    """
    _order(settings_of(config, bootstrap), place, wait, "watermark", lambda: moment("TIME", at))


def _with_orders(settings: Settings, do: Callable[[Any], Awaitable[_T]]) -> _T:
    """Do something with the orders in the store."""

    async def run() -> _T:
        from weir.streams.redis.client import opened  # it brings the client of Redis
        from weir.streams.redis.partition_orders import Orders

        async with opened(settings.redis) as link:
            return await do(Orders(link))

    return asyncio.run(run())


async def _seen(orders: Any, places: list[str]) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
    return await orders.told(places), await orders.held(places), await orders.waiting(places)


def _order(
    settings: Settings, place: str, wait_s: float, verb: Verb, value: Callable[[], float] | None = None, why: str = ""
) -> None:
    """Leave an order and wait for what becomes of it; exit status 1 when it could not be done, or nobody did it yet."""
    from weir.streams.redis.partition_orders import Order

    known = _places(settings)
    if place not in known:
        near = sorted({name.rpartition("-")[0] for name in known})
        raise UsageError(f"{place!r} is no partition that a worker reads; there are partitions of: {', '.join(near)}")
    by = f"{caller()}@{socket.gethostname()}"
    # The value only now: an offset is asked of the brokers, for what is known to be a partition.
    order = Order(verb, by, time.time(), None if value is None else value(), why)
    owner, answer = _with_orders(settings, lambda orders: _give(orders, place, order, wait_s))
    if answer is not None:
        say(f"{place}: {answer.text} ({answer.worker})")
        if not answer.done:
            raise typer.Exit(1)
        return
    whose = f"{owner} owns it and has not answered within {wait_s:g} s" if owner else "no worker owns it now"
    say(f"{place}: {whose}; the order waits in the store, and is obeyed when a worker looks")
    raise typer.Exit(1)


async def _give(orders: Any, place: str, order: Any, wait_s: float) -> tuple[str | None, Any]:
    await orders.give(place, order)
    deadline = time.monotonic() + wait_s
    while (answer := await orders.answer(order)) is None and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
    told = (await orders.told([place])).get(place)
    return None if told is None else told.worker, answer


def _places(settings: Settings) -> list[str]:
    """Every partition that a worker may own, by Weir's own name."""
    with consumer(settings.kafka, "partitions") as client:
        found = {own: client.partitions_for_topic(settings.topics.name(own)) for own in READ}
    return [f"{own}-{number}" for own, numbers in found.items() for number in sorted(numbers or ())]


def _offset(settings: Settings, place: str, text: str) -> float:
    """The offset meant; raises ``UsageError`` where it is not within the log."""
    own, _, number = place.rpartition("-")
    at = kafka_module().TopicPartition(settings.topics.name(own), int(number))
    with consumer(settings.kafka, "partitions") as client:
        # Below its beginning a worker would find records that were deleted, and pause the partition again.
        first, end = client.beginning_offsets([at])[at], client.end_offsets([at])[at]
    offset = {"earliest": first, "latest": end}.get(text) if not text.isdecimal() else int(text)
    if offset is None or not first <= offset <= end:
        raise UsageError(f"OFFSET {text!r}: {place} holds offsets {first} to {end}; give one, earliest or latest")
    return float(offset)


def _rows(
    settings: Settings, seen: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One a partition, of topics of which anybody tells anything."""
    told, held, waiting = seen
    active = {place.rpartition("-")[0] for found in (told, held, waiting) for place in found}
    rows = []
    for place in _places(settings):
        own, _, number = place.rpartition("-")
        # Partitions of topics that no task here reads would stand there without an owner.
        if own not in active:
            continue
        about, order = told.get(place), waiting.get(place)
        row = {"topic": own, "partition": int(number), "owner": about and about.worker}
        row["state"] = about.state if about is not None else "no owner"
        row["reason"] = about.reason if about is not None else f"hand: {held[place]}" if place in held else ""
        if order is not None:
            row["reason"] = f"{row['reason']}{'; ' if row['reason'] else ''}waits: {order}"
        for name in ("since", "position", "lag", "watermark"):
            row[name] = getattr(about, name, None)
        rows.append(row)
    return rows


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return utc(value) if name in ("since", "watermark") else f"{value:,}" if isinstance(value, int) else str(value)
