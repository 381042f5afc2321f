"""``weir archive``: what trainings need, from the topics to Parquet files that outlive retention.

It knows arguments and a progress bar; the work is in ``weir.streams.trainer.history.parquet_archive``.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weir.streams.cli import options
from weir.streams.cli.console import bar, output, say, table
from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from weir.online.task.spec import TaskSpec
    from weir.streams.trainer.history.parquet_archive import ArchiveCounts


def archive_command(
    task: options.TasksOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the archive.")] = Path("weir-archive"),
    since: options.SinceOption = None,
    until: Annotated[str | None, typer.Option("--until", help="Written before then; now when left out.")] = None,
    log: options.LogOption = None,
    config: options.ConfigOption = None,
    bootstrap: options.BootstrapOption = None,
) -> None:
    """Keep predictions, examples and events in Parquet files, one folder a day.

    Topics forget: predictions after 30 days, events after 7. Trainings that
    look further back read the archive. Run it daily; what is archived already
    is not read again, so it does not matter how often, or whether a run was
    broken off.

    Ctrl-C leaves only whole files, and exits with status 130; the next run
    goes on from there.

    For example:

        weir archive --task fraud.toml --out /data/weir-archive

        weir archive --task tasks/ --out archive --since 2d

        weir archive --task fraud.toml --out archive --since 2024-05-01 --until 2024-06-01

        weir archive --task fraud.toml --log demo/log --out archive
    """
    from weir.streams.trainer.history.log_sources import EmbeddedSource, KafkaSource
    from weir.streams.trainer.history.logged_tables import RecordReader
    from weir.streams.trainer.history.parquet_archive import Archive

    settings = options.settings_of(config, bootstrap)
    tasks = options.tasks_of(task or (), settings)
    start = None if since is None else options.moment("--since", since)
    stop = None if until is None else options.moment("--until", until)
    if start is not None and stop is not None and start >= stop:
        raise UsageError(f"--since {since} is not before --until {until}")
    opened = nullcontext(EmbeddedSource.of_directory(log)) if log is not None else KafkaSource(settings, "archive")
    archives, interrupted = [Archive(out, RecordReader(spec, settings.limits)) for spec in tasks], False

    async def write() -> None:
        async with opened as source:
            for archive, spec in zip(archives, tasks, strict=True):
                with bar(spec.name, before=f"{spec.name} ") as advance:
                    await archive.write(source, start, stop, advance)

    try:
        asyncio.run(write())
    # What is told below counts whole files only, so it holds for a run that was broken off, too.
    except KeyboardInterrupt:
        interrupted = True
    _show(tasks, [a.archived for a in archives], out)
    if interrupted:
        say("interrupted: run it again to go on from here")
        raise typer.Exit(options.INTERRUPTED)


def _show(tasks: list[TaskSpec], archived: list[ArchiveCounts], out: Path) -> None:
    from weir.streams.trainer.history.logged_tables import KINDS

    made = zip(tasks, archived, strict=True)
    rows = [(spec.name, *(f"{each.rows[kind]:,}" for kind in KINDS), f"{each.files:,}") for spec, each in made]
    output().print(table("task", *(f"{kind}>" for kind in KINDS), "files>", rows=rows))
    say(f"written to {out}")
