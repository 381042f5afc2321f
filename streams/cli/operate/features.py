"""``weir features``: what the feature store holds of an entity, and filling an emptied store again.

It knows arguments and tables; rows are read by ``weir.streams.redis`` and taken apart by
``weir.streams.checks.entity_rows``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weir.streams.cli import options
from weir.streams.cli.console import bar_of_each, confirmed, output, say, table, to_json, utc
from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from weir.online.features.engine import Table
    from weir.online.task.spec import TaskSpec
    from weir.streams.checks.entity_rows import TableRow, TaskRows
    from weir.streams.config.settings import Settings
    from weir.streams.redis.stored_rows import StoredRow

_HELP = "Feature rows in the store: get, rebuild.\n\nFor example: weir features get user-0007 --task fraud.toml"
features_app = typer.Typer(name="features", help=_HELP, no_args_is_help=True)

_DAY_S, _HOUR_S, _MINUTE_S = 86_400.0, 3600.0, 60.0


@features_app.command("get")
def get_command(
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="Such as a user's or a merchant's.")],
    tasks: options.TasksOption = None,
    only: Annotated[str | None, typer.Option("--table", help="Only this table, such as fraud.user.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Values at this time, or so long ago; else at the last change.")
    ] = None,
    as_json: options.JsonOption = False,
    config: options.ConfigOption = None,
) -> None:
    """Show what the store holds of an entity: every table's row as named features.

    A value is what an event at that time would see that feeds nothing itself.
    Exit status 1 when there is no row.

    For example:

        weir features get user-0007 --task fraud.toml

        weir features get shop-12 --table fraud.merchant --at 2026-03-01T12:00:00Z

        weir features get user-0007 --json | jq '.[].values'
    """
    settings = options.settings_of(config, None)
    wanted = _tables(options.tasks_of(tasks or [], settings), only)
    found = asyncio.run(_read(settings, wanted, entity, None if at is None else options.moment("--at", at)))
    if as_json:
        print(to_json([_document(row) for row in found]))
    else:
        for row in found:
            _print(row)
    if not found:
        say(f"no row of {entity!r} in {settings.redis.url}")
        raise typer.Exit(1)


async def _read(
    settings: Settings, wanted: Sequence[tuple[TaskRows, Table]], entity: str, at: float | None
) -> list[TableRow]:
    """The rows of the entity in these tables; looked for in every lane that may own one."""
    from weir.streams.redis.client import opened  # it brings the client of Redis
    from weir.streams.redis.partitions.partition_store import LaneStore

    found: list[TableRow] = []
    async with opened(settings.redis) as link:
        store = LaneStore(link, prefix=settings.redis.prefix)
        for rows, each in wanted:
            stored = await rows.stored(entity, each, store, settings.topics)
            found += [rows.read(entity, each, row, at) for row in stored[:1]]
            if len(stored) > 1:
                say(_of_others(each.name, entity, stored[1:]))
    return found


def _of_others(table: str, entity: str, rows: Sequence[StoredRow]) -> str:
    others = ", ".join(f"{row.lane[0]}-{row.lane[1]} (schema {row.schema:08x})" for row in rows)
    return (
        f"{table}: {entity!r} has {len(rows) + 1} rows; shown is that of this task which changed last. The others, in "
        f"{others}, are of before the task, its producers or the topic's partitions changed, and are not used"
    )


def _tables(tasks: Sequence[TaskSpec], only: str | None) -> list[tuple[TaskRows, Table]]:
    """Every table of the tasks, or the one that was asked for."""
    from weir.streams.checks.entity_rows import TaskRows

    found = [(rows, each) for rows in map(TaskRows, tasks) for each in rows.tables]
    wanted = [(rows, each) for rows, each in found if only in (None, each.name)]
    if not wanted:
        raise UsageError(f"--table {only!r}: no such table; there are: {', '.join(each.name for _, each in found)}")
    return wanted


def _print(found: TableRow) -> None:
    row, said = found.row, output()
    lane = f"{row.lane[0]}-{row.lane[1]}"
    said.print(f"{found.table}  ({found.key}, lane {lane}, {len(row.row):,} bytes)", style="bold")
    said.print(f"  last changed by offset {row.offset} at {utc(row.updated_at)} UTC")
    if not found.fits:
        fix = "run 'weir features rebuild', or give the task that wrote it"
        said.print(f"  schema {row.schema:08x} is not that of this task: the values cannot be read; {fix}\n")
        return
    rows = [(f"  {name}", shown(name, value)) for name, value in found.values.items()]
    said.print(table("  feature", f"value at {utc(found.at)}>", rows=rows))
    said.print()


def shown(name: str, value: float) -> str:
    """A feature's value as people read it: ages as durations, NaN as missing.

    >>> shown("user.amount_mean_1d", 12.5), shown("user.seen_since_last", 5400.0), shown("user.seen_last", math.nan)
    ('12.5', '1.5 h', 'missing')
    """
    if math.isnan(value):
        return "missing"
    if "_since_" not in name:
        return f"{value + 0.0:,.6g}"  # a negative zero becomes a plain one
    for unit, seconds in (("d", _DAY_S), ("h", _HOUR_S), ("min", _MINUTE_S)):
        if value >= seconds:
            return f"{value / seconds:.3g} {unit}"
    return f"{value:.3g} s"


def _document(found: TableRow) -> dict[str, Any]:
    row = found.row
    return {
        "table": found.table,
        "key": found.key,
        "lane": {"topic": row.lane[0], "partition": row.lane[1]},
        "offset": row.offset,
        "updated_at": row.updated_at,
        "bytes": len(row.row),
        "schema": f"{row.schema:08x}",
        "fits": found.fits,
        "at": found.at,
        "values": {name: None if math.isnan(value) else value for name, value in found.values.items()},
    }


@features_app.command("rebuild")
def rebuild_command(
    tasks: options.TasksOption = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", help="A retired task, of which everything stored goes; repeat for more."),
    ] = None,
    yes: options.YesOption = False,
    config: options.ConfigOption = None,
    bootstrap: options.BootstrapOption = None,
) -> None:
    """Fill an emptied store again from Kafka, up to the offsets the workers have completed.

    Stop the workers first, and name every task that they run: it refuses to
    clear what is stored of others, unless --drop names them. It reads the
    events and updates that Kafka still has, oldest first, and writes rows and
    positions as the workers would have; windows that reach back further than
    the topics' retention stay shorter until events fill them. What waits for
    labels, and timers of silence, stay as they are, and go where their entity
    is by now; of it that is published which a worker did not come to. All
    else is published already.

    Workers refuse to start until it has come to its end. One that was cut
    short is run again.

    For example:

        weir features rebuild --task /etc/weir/tasks

        weir features rebuild --yes --config /etc/weir/weir.toml

        weir features rebuild --task fraud.toml --drop churn
    """
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from weir.streams.worker.rebuild import rebuild

    settings = options.settings_of(config, bootstrap)
    found = options.tasks_of(tasks or [], settings)
    question = f"Write the rows of {', '.join(task.name for task in found)} in {settings.redis.url} anew?"
    if drop:
        question = f"{question} What is stored of {', '.join(drop)} goes."
    if not yes and not confirmed(question):
        say("nothing done")
        return
    with bar_of_each(MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        try:
            moved = rebuild(settings, found, progress, drop or ())
        except KeyboardInterrupt:
            raise typer.Exit(options.INTERRUPTED) from None
    if moved:
        say(f"{moved:,} predictions that wait for labels went to the partitions of their entities")
