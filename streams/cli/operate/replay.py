"""``weir replay``: files to topics, at a rate, at a multiple of event time, or flat out.

It knows arguments and pace; what the files hold is in ``weir.streams.replay.replayed_files``.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from weir.streams.cli.console import bar, say, utc
from weir.streams.cli.options import INTERRUPTED, BootstrapOption, ConfigOption, settings_of
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.admin.clients import admin_client, producer
from weir.streams.ops.stop_request import interruptible
from weir.streams.replay.pace import Pace

if TYPE_CHECKING:
    from weir.streams.config.settings import KafkaSettings, Settings, TopicSettings
    from weir.streams.replay.delivery import Delivery
    from weir.streams.replay.replayed_files import Outgoing, OutgoingSource

_REFRESH = 500
"""Records between two looks at the progress bar."""
_SHORT_S = 0.002
"""A wait that is not worth it: the records between are sent together."""


def replay_command(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Lines of wire format, or with --task any table; - for stdin.")
    ],
    topic: Annotated[
        str | None, typer.Option("--topic", "-t", help="Topic; else the lines' field 'topic', else the file's name.")
    ] = None,
    task: Annotated[
        Path | None, typer.Option("--task", help="Task file whose [source] maps the files' columns to events.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, max=1e9, help="Records a second.")] = None,
    speed: Annotated[
        float | None, typer.Option(min=0.0001, max=1e9, help="Times event time: 1 is as it was, 60 a minute a second.")
    ] = None,
    labels: Annotated[
        bool,
        typer.Option(
            "--with-labels/--no-labels",
            "--labels",
            help="With --task: send labels too, label_delay after their events.",
        ),
    ] = True,
    stamp: Annotated[
        Literal["now", "event"],
        typer.Option(help="Timestamps of the records. With 'event', Kafka deletes what is older than the retention."),
    ] = "now",
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Send events from files to topics.

    Without --rate or --speed it goes as fast as the brokers acknowledge. Every
    record goes to the partition of its entity, and counts as sent once all
    in-sync replicas have it. Sending a file twice is safe: workers drop an
    event_id that they have seen.

    A file of labels alone holds no time at which they became known: replay the
    lines of 'weir simulate --out -', where they stand in that order.

    Ctrl-C waits for what is on its way, says how much was sent, and exits
    with status 130.

    For example:

        weir replay data/user-events.jsonl --speed 60

        weir simulate --out - | weir replay - --rate 500

        weir replay payments.csv --task fraud.toml

        weir replay old.jsonl --topic user-events --bootstrap kafka-1:9092
    """  # fmt: skip
    from weir.streams.replay.replayed_files import STDIN, LinesSource, TableSource
    from weir.streams.task_files import load_task

    if rate is not None and speed is not None:
        raise typer.BadParameter("--rate and --speed exclude each other: give one, or neither to go flat out.")
    settings = settings_of(config, bootstrap)
    source: OutgoingSource = (
        LinesSource(files, topic) if task is None else TableSource(load_task(task), files, topic, labels)
    )
    names = settings.topics
    limits = _limits(settings.kafka, topic and names.resolve(topic))
    if isinstance(source, TableSource):
        if source.warning:
            say(f"warning: {source.warning}", style="yellow")
    elif STDIN not in files:
        _warn_of_labels(files)
    pace = Pace(time.monotonic(), rate, speed)
    delivery, stopped = _run(settings, source, limits, pace, stamp == "event")
    say(f"{'Interrupted: ' if stopped else ''}{_sent(delivery)}")
    if source.skipped:
        what = "they name no topic: give it by --topic" if topic is None else f"they name another topic than {topic!r}"
        say(f"{source.skipped:,} lines left out: {what}")
    if stopped:
        raise typer.Exit(INTERRUPTED)
    if delivery.too_large:
        say(f"{delivery.too_large:,} records left out: larger than their topic's max.message.bytes")
        raise typer.Exit(1)


def _run(
    settings: Settings, source: OutgoingSource, limits: dict[str, int], pace: Pace, event_time: bool
) -> tuple[Delivery, bool]:
    from weir.streams.replay.delivery import Delivery

    with producer(settings.kafka, "replay") as client, interruptible() as stop:
        delivery = Delivery(client, limits, event_time)
        try:
            with bar("") as advance:
                units = 0
                for number, record in enumerate(_renamed(source, settings.topics)):
                    if record.topic not in limits:
                        raise _no_topic(record.topic, limits)
                    if not _wait(pace, number, record, delivery, stop):
                        break
                    delivery.send(record)
                    units += record.units
                    if number % _REFRESH == 0:
                        at = f"event time {utc(record.ts)}" if record.ts is not None else ""
                        advance(f"{number + 1:,} records  {at}", units, source.total)
                delivery.finish()
        except UsageError:  # what is wrong with a line or a file; what went before it has gone
            delivery.finish()
            say(_sent(delivery))
            raise
        return delivery, stop.is_set()


def _sent(delivery: Delivery) -> str:
    counts = ", ".join(f"{count:,} to {name}" for name, count in sorted(delivery.acknowledged.items()))
    return f"sent {counts or 'nothing'}"


def _renamed(source: OutgoingSource, names: TopicSettings) -> Iterator[Outgoing]:
    """The records under the names that their topics have on the cluster."""
    renamed = {own: names.name(own) for own in topics.ALL if names.name(own) != own}
    for record in source:
        actual = renamed.get(record.topic)
        yield record if actual is None else replace(record, topic=actual)


def _wait(pace: Pace, number: int, record: Outgoing, delivery: Delivery, stop: Event) -> bool:
    """Wait until a record is due; whether it should still be sent."""
    wait_s = pace.wait_s(time.monotonic(), number, record.ts)
    if wait_s > _SHORT_S:
        # There is time: what was acknowledged is counted, and what failed is met now, not at the end.
        delivery.collect()
        stop.wait(wait_s)
    return not stop.is_set()


def _limits(settings: KafkaSettings, topic: str | None) -> dict[str, int]:
    """The topics that exist, with the bytes a record may have."""
    from weir.streams.kafka.admin.cluster import read_limits

    with admin_client(settings) as admin:
        limits = read_limits(admin)
    if topic is not None and topic not in limits:
        raise _no_topic(topic, limits)
    return limits


def _no_topic(topic: str, known: Collection[str]) -> UsageError:
    there = ", ".join(sorted(known)) or "none"
    return UsageError(f"no topic {topic}; there are: {there}. Create Weir's with: weir topics create")


def _warn_of_labels(files: list[Path]) -> None:
    if any(path.name.startswith("labels") for path in files):
        words = "warning: a file of labels does not say when they became known; they go out at the time they speak of"
        say(words, style="yellow")
