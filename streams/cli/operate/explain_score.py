"""``weir explain-score``: why one event got the score it got, proved by making the score again.

It knows arguments, bars and tables; the work is in ``weir.streams.model_replicas``.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from weir.streams.cli import options
from weir.streams.cli.console import bar, output, say, table, to_json, utc
from weir.streams.cli.processes.process import needed
from weir.streams.config import topics
from weir.streams.errors import UsageError, in_words

if TYPE_CHECKING:
    from weir.streams.config.settings import Settings
    from weir.streams.model_replicas.explanation import Explanation
    from weir.streams.model_replicas.fold import ExampleFold
    from weir.streams.model_replicas.logged_scores import LoggedScore, Search

_SHOWN: Final = 15
_NEEDS: Final = ("aiokafka", "faust-streaming", "redis")


def explain_score_command(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event.")],
    task: Annotated[Path, typer.Option("--task", "-t", help="The task file that scored it.")],
    partition: Annotated[
        int | None, typer.Option("--partition", "-p", min=0, max=10**6, help="Look only there.")
    ] = None,
    entity: options.EntityOption = None,
    since: options.SinceOption = None,
    repeats_within: Annotated[
        str, typer.Option("--repeats-within", help="How far apart repeats of one event are looked for.")
    ] = "1h",
    every: Annotated[bool, typer.Option("--all", "-a", help="Show every feature.")] = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Learn all examples again instead of using stored models.")
    ] = False,
    as_json: options.JsonOption = False,
    config: options.ConfigOption = None,
    bootstrap: options.BootstrapOption = None,
) -> None:
    """Show why an event got its score: the model of then, rebuilt, and what each feature added.

    The score is looked up in the predictions topic, newest first; with
    --entity (it tells the partition), --partition or --since that is quick. Where a crash had the event
    scored twice, the first record counts, and the others are named.

    The model is rebuilt at the version that made the score, from the nearest
    older one in Redis, or from the first example. Exit status 1 when the score
    made again is not bit for bit the one that was logged.

    For example:

        weir explain-score e-17342 --task fraud.toml

        weir explain-score e-17342 --task fraud.toml --entity u81 --since 2h

        weir explain-score e-17342 --task fraud.toml --json | jq '.contributions[:3]'
    """  # fmt: skip
    from weir.streams.task_files import load_task

    if partition is not None and entity is not None:
        raise typer.BadParameter("--entity tells the partition: give one of --entity and --partition.")
    needed(_NEEDS, "this command")
    from weir.streams.model_replicas.fold import ExampleFold  # these bring the Kafka and Redis clients
    from weir.streams.model_replicas.logged_scores import Search

    settings, spec = options.settings_of(config, bootstrap), load_task(task)
    fold = ExampleFold.of(spec)
    search = Search(
        spec.name,
        event_id,
        partitions=() if partition is None else (partition,),
        since=None if since is None else options.moment("--since", since),
        repeats_s=options.duration("--repeats-within", repeats_within),
    )
    explained, logged, start = asyncio.run(_explain(settings, fold, search, entity, not from_start))
    if as_json:
        print(to_json(_document(explained, logged, start)))
    else:
        _show(explained, logged, start, None if every else _SHOWN)
    if not explained.equal:
        raise typer.Exit(1)


async def _explain(
    settings: Settings, fold: ExampleFold, search: Search, entity: str | None, stored: bool
) -> tuple[Explanation, list[LoggedScore], int]:
    from weir.streams.model_replicas.logged_scores import explain_logged, version_of

    logged = await _find(settings, search, entity)
    start = await _rebuild(settings, fold, version_of(logged[0], fold), stored)
    return explain_logged(logged[0], fold), logged, start


async def _find(settings: Settings, search: Search, entity: str | None) -> list[LoggedScore]:
    """The record that counts, and its repeats."""
    from dataclasses import replace

    from weir.streams.kafka.consume.range_reader import RangeReader
    from weir.streams.kafka.partitioners import partitions_of_text
    from weir.streams.model_replicas.logged_scores import find_scores

    client, topic = settings.kafka.client_options("explain"), settings.topics.name(topics.PREDICTIONS)
    async with RangeReader(client, topic, limits=settings.limits_of(topics.PREDICTIONS)) as reader:
        if entity is not None:
            count = len(reader.partitions())
            # Nothing in the topic says by which of the two its producers choose.
            lanes = {int(partitions_of_text([entity], count, by)[0]) for by in ("murmur2", "crc32")}
            search = replace(search, partitions=tuple(lanes))
        with bar(what := f"records of {topic}") as progress:
            found = await find_scores(reader, search, partial(progress, what))
    if not found:
        where = f" partition {' or '.join(map(str, search.partitions))}" if search.partitions else ""
        since = f" since {utc(search.since)} UTC" if search.since is not None else ""
        raise UsageError(
            f"no score of event {search.event_id!r} by task {search.task} in {topic}{where}{since}; check the id, the "
            "task file and the brokers, or whether retention deleted it"
        )
    return found


async def _rebuild(settings: Settings, fold: ExampleFold, version: int, stored: bool) -> int:
    from weir.streams.kafka.consume.range_reader import RangeReader
    from weir.streams.model_replicas.model_snapshots import ModelSnapshots
    from weir.streams.model_replicas.refold import rebuild
    from weir.streams.redis.client import RedisClient
    from weir.streams.redis.store_errors import StoreUnavailable

    client, topic = settings.kafka.client_options("explain"), settings.topics.name(topics.EXAMPLES)
    # Without the patience of a worker, which sits out a restart of Redis: the first example is always there to begin
    # with.
    link = RedisClient(settings.redis, patience_s=settings.redis.timeout_s, prefix=settings.redis.prefix)
    try:
        if stored:
            try:
                await link.start(writes=False)
            except StoreUnavailable as error:
                words = f"no stored models, so all examples are learned again: {in_words(error)}"
                say(words, style="yellow")
                stored = False
        with bar(what := "examples learned again") as progress:
            reader, told = partial(RangeReader, client, topic), partial(progress, what)
            snapshots = ModelSnapshots(link) if stored else None
            return await rebuild(reader, fold, version, snapshots=snapshots, progress=told)
    finally:
        await link.stop()


def _show(e: Explanation, found: list[LoggedScore], start: int, most: int | None) -> None:
    (logged, *repeats), out = found, output()
    places = ", ".join(f"{r.offset} ({r.score!r} by version {r.model_version})" for r in repeats)
    origin = f"rebuilt from the stored version {start:,}" if start else "rebuilt from the first example"
    facts = [
        ("event", f"of {logged.entity_id}, at {utc(logged.ts)} UTC"),
        ("logged", f"partition {logged.partition} offset {logged.offset}, written {utc(logged.written_at)} UTC"),
        *([("repeats", f"offset {places}: they do not count")] if repeats else []),
        ("model", f"version {logged.model_version:,}, {origin}"),
        ("digest", f"sha256 {e.digest}"),
        # All digits, as equality bit for bit is what is claimed.
        ("score logged", repr(logged.score)),
        ("score again", f"{e.again!r}, {'equal bit for bit' if e.equal else 'NOT EQUAL'}"),
    ]
    out.print(table("", "", rows=facts))
    # A missing value is logged as -0.0; nobody wants to read that.
    rows = [(c.feature, f"{c.value + 0.0:.6g}", f"{c.contribution:+.4f}") for c in e.contributions[:most]]
    out.print(table("feature", "value>", "log-odds>", rows=rows))
    if left := e.contributions[len(e.contributions) if most is None else most :]:
        say(f"{len(left)} more add {sum(c.contribution for c in left):+.4f} together; --all shows them")
    if not e.equal:
        words = "The task file, the release or the kind of processor is not that of then, or examples were lost."
        say(words, style="yellow")


def _document(e: Explanation, found: list[LoggedScore], start: int) -> dict[str, Any]:
    logged, repeats = asdict(found[0]), found[1:]
    del logged["features"]
    return {
        "logged": logged,
        "repeats": [{"offset": r.offset, "score": r.score, "model_version": r.model_version} for r in repeats],
        "model": {"version": e.version, "digest": e.digest, "rebuilt_from": start},
        "score": e.again,
        "equal": e.equal,
        "contributions": [asdict(c) for c in e.contributions],
    }
