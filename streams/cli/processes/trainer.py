"""``weir trainer``: follows retrain requests, trains, and sees new full models through to serving.

It knows arguments, the banner and the bars; what runs is ``weir.streams.trainer``.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weir.streams.cli.console import bar_of_each, say
from weir.streams.cli.options import BootstrapOption, ConfigOption, settings_of, tasks_of
from weir.streams.cli.processes import process
from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from weir.streams.config.settings import Settings


@process.keeps_running
def trainer_command(
    tasks: process.TasksArgument = None,
    once: Annotated[bool, typer.Option("--once", help="Answer the requests there are, then end.")] = False,
    work: Annotated[Path | None, typer.Option("--work", help="Directory for data sets and checkpoints.")] = None,
    web: process.WebOption = None,
    log_level: process.LogLevelOption = "info",
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Train full models when they are asked for, and see them through.

    A request (drift, label volume, the schedule of a task, weir retrain)
    becomes a job: data set, candidates, comparison with the champion on the
    newest labels. What passes is scored in the workers' shadow, then
    promoted, and rolled back if it falls behind the one it replaced.

    Start two, on two machines: a job whose trainer dies is taken over by the
    other and goes on at its checkpoint. Ctrl-C or SIGTERM lets a training
    write its checkpoint first.

    With --once it ends when no training is left, without waiting for the
    labels that a promotion needs; a later run goes on with that.

    /health, /ready and /metrics are at [trainer] web_host and web_port
    (--web), but not with --once.

    For example:

        weir trainer fraud.toml

        weir trainer tasks/ --config /etc/weir/weir.toml

        weir trainer fraud.toml --once
    """
    from rich.progress import TextColumn, TimeElapsedColumn

    from weir.streams.checks.link_checks import warn_of_links

    given = {"trainer.work": str(work) if work is not None else None, **process.address(web, "trainer")}
    settings = settings_of(config, bootstrap, given)
    found = tasks_of(tasks or [], settings)
    process.log_to_stderr(log_level)
    warn_of_links(settings)
    say(_banner(settings, [task.name for task in found if task.full is not None]))
    module = _trainer_module()
    # Where no terminal is there are no bars: the log says enough.
    columns = TextColumn("{task.completed:g}/{task.total:g}"), TimeElapsedColumn()
    with bar_of_each(*columns, done=False) as advance:

        def progress(task: str, what: str, done: int, of: int) -> None:
            advance(f"{task} {what}", done, of)

        status = asyncio.run(module.run_trainer(settings, found, progress, once))
    if status:
        raise typer.Exit(status)


def _banner(settings: Settings, names: list[str]) -> str:
    return (
        f"weir trainer {version('weir')}: tasks {', '.join(names) or 'none'}, group {settings.trainer.group}\n"
        f"brokers   {', '.join(settings.kafka.bootstrap)}\n"
        f"registry  {settings.models.registry}\n"
        f"work      {settings.trainer.work.absolute()}"
    )


def _trainer_module() -> Any:
    """What runs; imported late, because it brings aiokafka."""
    try:
        return import_module("weir.streams.trainer.trainer_process")
    except ImportError as exc:
        raise UsageError(f"a trainer needs {exc.name}; run: pip install 'weir[kafka,cpu,train]'") from exc
