"""``weir topics``: the topics of a deployment, made, checked and described.

It knows arguments and tables; what a topic should be is in ``weir.streams.kafka.admin.topic_specs``.
"""

from __future__ import annotations

from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weir.streams.checks.findings import Check, checks_table
from weir.streams.cli.console import confirmed, output, say, size, table, to_json
from weir.streams.cli.options import BootstrapOption, ConfigOption, JsonOption, YesOption, settings_of, tasks_of
from weir.streams.config.topics import ALL
from weir.streams.errors import UsageError
from weir.streams.kafka.admin import cluster
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.admin.topic_specs import Difference, TopicSpec, compare, shown, wanted_topics

if TYPE_CHECKING:
    from weir.streams.config.settings import Settings

_HELP = "Make, check and describe the topics of a deployment.\n\nFor example: weir topics create --dry-run"
topics_app = typer.Typer(name="topics", help=_HELP, no_args_is_help=True)


@topics_app.command("create")
def create_command(
    alter: Annotated[
        bool, typer.Option("--alter", help="Also give topics that exist the retention and limits they should have.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask the broker whether it would work; change nothing.")
    ] = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Create the topics that are missing.

    May be run again at any time: what exists is reported and left alone.
    Partitions, replication and retention come from [topics] in the settings.

    For example:

        weir topics create

        weir topics create --bootstrap kafka-1:9092 --dry-run

        WEIR_TOPICS__PARTITIONS=12 weir topics create
    """  # fmt: skip
    settings = settings_of(config, bootstrap)
    with admin_client(settings.kafka) as admin:
        wanted = _wanted(admin, settings)
        before = cluster.read_topics(admin, [spec.name for spec in wanted])
        created = cluster.create_topics(admin, [s for s in wanted if s.name not in before], dry_run)
        differing = [d for d in compare(wanted, before) if d.topic in before]
        # Partitions and copies are no configs: more partitions would move keys away from their state, so that is left
        # to a person.
        mended = [d for d in differing if any(d.setting in s.configs for s in wanted)] if alter else []
        if not dry_run:
            cluster.alter_topics(admin, wanted, mended)
    _report(wanted, created, [d for d in differing if d not in mended], mended, dry_run)


def _wanted(admin: Any, settings: Settings) -> list[TopicSpec]:
    brokers, most = cluster.count_brokers(admin), settings.worker.max_record_bytes
    return wanted_topics(settings.topics, brokers, most, settings.limits.record_bytes)


def _report(
    wanted: list[TopicSpec], created: dict[str, bool], left: list[Difference], mended: list[Difference], dry_run: bool
) -> None:
    would = "would be " if dry_run else ""
    rows = []
    for spec in wanted:
        words = f"{would}created" if created.get(spec.name) else "exists"
        if any(d.topic == spec.name for d in mended):
            words += f", {would}altered: {', '.join(d.setting for d in mended if d.topic == spec.name)}"
        if any(d.topic == spec.name for d in left):
            words += f", differs in {', '.join(d.setting for d in left if d.topic == spec.name)}"
        rows.append((spec.name, spec.partitions, spec.replication, *_held(spec), words))
    output().print(table("topic", "partitions>", "copies>", "min in sync>", "retention", "", rows=rows))
    count = sum(created.values())
    say(f"{count} {would}created, {len(wanted) - count} existed" + (": see weir topics check" if left else ""))


def _held(spec: TopicSpec) -> tuple[str, str]:
    retention = shown("retention.ms", spec.configs["retention.ms"])
    compacted = "compact" in spec.configs["cleanup.policy"]
    return spec.configs["min.insync.replicas"], f"{retention}{', compacted' if compacted else ''}"


@topics_app.command("check")
def check_command(as_json: JsonOption = False, config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Compare the topics with what they should be; exit status 1 when they differ.

    Every difference comes with what mends it. Partitions without a leader or
    with copies missing count as differences too, and so does a topic that
    takes smaller records than a worker may send ([worker] max_record_bytes),
    or, where [worker] tasks are set, keeps predictions for less than their
    labels may take (keep_s). That updates of rows are kept for less than the
    rows live is told, and is no reason to fail: it matters where a store is
    lost. Also held against the store: topics that were
    made anew or given more partitions. The newest events and labels are looked
    at: a key in another partition than its own is a producer with another
    partitioner.

    For example:

        weir topics check

        weir topics check --json | jq '.differences[].fix'
    """
    from weir.streams.checks.kafka_checks import too_short

    settings = settings_of(config, bootstrap)
    with admin_client(settings.kafka) as admin:
        wanted = _wanted(admin, settings)
        there = cluster.read_topics(admin, [spec.name for spec in wanted])
    tasks = tasks_of([], settings) if settings.worker.tasks else []
    found = [*compare(wanted, there), *too_short(settings, tasks, there)]
    stored = [each for each in _identity(settings) if each.status != "OK"]
    wrong = any(not each.harmless for each in found) or any(each.status == "FAIL" for each in stored)
    if as_json:
        told = [asdict(each) for each in stored]
        print(to_json({"ok": not wrong, "differences": [asdict(d) for d in found], "stored": told}))
    elif found:
        rows = [(d.topic, d.setting, d.wanted, d.actual, d.fix) for d in found]
        output().print(table("topic", "setting", "wanted", "actual", "fix", rows=rows))
    else:
        say(f"{len(wanted)} topics are as they should be")
    if stored and not as_json:
        output().print(checks_table(stored))
    if wrong:
        raise typer.Exit(1)


def _identity(settings: Settings) -> list[Check]:
    """What `check_identity` finds; it brings packages that a machine of operators may lack."""
    try:
        from weir.streams.worker.identity.identity_checks import check_identity
    except ImportError as error:
        return [Check("stored state", "WARN", f"not compared: {error.name} is not installed here")]
    return check_identity(settings)


@topics_app.command("accept")
def accept_command(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="By Weir's own name.")],
    yes: YesOption = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Say that a topic that was made anew has the records of the old one, at the same offsets.

    So after a restore from a backup or a mirror that keeps offsets. Workers
    then go on at the positions they stored. Where the new topic holds other
    records, 'weir partitions seek' has a partition go on elsewhere instead.

    For example:

        weir topics accept user-events
    """
    from weir.streams.worker.identity.identity_checks import accept_topic

    settings = settings_of(config, bootstrap)
    if topic not in ALL:
        raise UsageError(f"{topic!r} is no topic of Weir's; there are: {', '.join(ALL)}")
    if not yes and not confirmed(f"Are the offsets of {settings.topics.name(topic)} those of the topic before it?"):
        say("nothing done")
        return
    identity = accept_topic(settings, topic)
    say(f"{settings.topics.name(topic)}: positions belong to the topic {identity.id or 'without an id'} now")


@topics_app.command("describe")
def describe_command(
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC", help="Topics, also by Weir's own names; all of Weir's that exist without one."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Show partitions, leaders, copies in sync, offsets, sizes and the lag of every consumer group.

    For example:

        weir topics describe

        weir topics describe user-events predictions

        weir topics describe --json | jq '.groups[] | select(.lag > 1000)'
    """
    settings = settings_of(config, bootstrap)
    with admin_client(settings.kafka) as admin:
        names = _existing(admin, settings, topics or [])
        partitions, groups = cluster.read_partitions(admin, names), cluster.read_lags(admin, names)
    if as_json:
        print(to_json({"partitions": [asdict(p) for p in partitions], "groups": [asdict(g) for g in groups]}))
        return
    output().print(_partitions(partitions))
    output().print(_lags(groups) if groups else "\nno consumer group has committed anything here")


def _existing(admin: Any, settings: Settings, asked: list[str]) -> list[str]:
    wanted = [spec.name for spec in _wanted(admin, settings)]
    asked = [settings.topics.resolve(name) for name in asked]
    there = cluster.read_topics(admin, asked or wanted)
    absent = [name for name in asked if name not in there]
    if absent:
        # Kafka's own topics are not what anybody meant.
        known = sorted(name for name in admin.list_topics() if not name.startswith("__"))
        near = get_close_matches(absent[0], known, cutoff=0.75)
        which = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise UsageError(f"no topic {', '.join(absent)}; {which}")
    if not there:
        raise UsageError("none of Weir's topics exists here; run: weir topics create")
    return [name for name in (asked or wanted) if name in there]


def _partitions(found: list[cluster.PartitionState]) -> Any:
    rows, last = list[tuple[object, ...]](), None
    for p in found:
        lacking = sorted(set(p.replicas) - set(p.in_sync))
        copies = f"{len(p.in_sync)} / {len(p.replicas)}" + (f", not {lacking}" if lacking else "")
        known = p.start is not None and p.end is not None
        records = f"{(p.end or 0) - (p.start or 0):,}" if known else "-"
        rows.append((
            p.topic if p.topic != last else "", p.partition, "NONE" if p.leader is None else p.leader, copies,
            _number(p.start), _number(p.end), records, size(p.size_bytes),
        ))  # fmt: skip
        last = p.topic
    columns = ("topic", "partition>", "leader>", "in sync / copies", "from>", "to>", "records>", "size>")
    return table(*columns, rows=rows)


def _lags(found: list[cluster.GroupLag]) -> Any:
    rows = [
        (
            g.group, g.state.lower(), g.members, g.topic, f"{g.lag:,}",
            f"{g.worst}: {g.worst_lag:,}" if g.worst_lag else "-", ", ".join(map(str, g.uncommitted)),
        )
        for g in found
    ]  # fmt: skip
    columns = ("group", "state", "members>", "topic", "lag>", "worst partition>", "nothing committed in")
    return table(*columns, rows=rows, title="\n")


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
