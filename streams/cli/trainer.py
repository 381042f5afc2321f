"""``weir trainer``: follows retrain requests, trains, and sees new full models through to serving.

It knows arguments, the banner and the bars; what runs is ``streams.trainer``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from streams.cli.options import BootstrapOption, ConfigOption, notes, settings_of, tasks_of
from streams.errors import UsageError
from streams.settings import Settings

_LEVELS: Final = ("debug", "info", "warning", "error")
_QUIET: Final = ("aiokafka", "kafka")


def trainer_command(
    tasks: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[TASK]...", help="Task files or directories; else [worker] tasks.", show_default=False),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Answer the requests there are, then end.")] = False,
    work: Annotated[
        Path | None, typer.Option("--work", help="Directory for data sets and checkpoints.", show_default=False)
    ] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
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

    For example:

        weir trainer fraud.toml

        weir trainer tasks/ --config /etc/weir/weir.toml

        weir trainer fraud.toml --once
    """
    settings = settings_of(config, bootstrap, {"trainer.work": str(work) if work is not None else None})
    found = tasks_of(tasks or [], settings)
    _logging(log_level)
    notes().print(escape(_banner(settings, [task.name for task in found if task.full is not None])), soft_wrap=True)
    module = _trainer_module()
    with _bars() as advance:
        parts, runner = import_module("streams.trainer.parts"), import_module("streams.trainer.runner")

        def make() -> Any:
            shop = parts.kafka_workshop(settings, runner.SubprocessRunner(settings.trainer.stop_s))
            return module.Trainer(settings, found, shop=replace(shop, progress=advance))

        status = module.run_trainer(make, once)
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
        return import_module("streams.trainer.trainer")
    except ImportError as exc:
        raise UsageError(f"a trainer needs {exc.name}; run: pip install 'weir[kafka,cpu,train]'") from exc


def _logging(level: str) -> None:
    if level not in _LEVELS:
        raise UsageError(f"--log-level {level!r}: give {', '.join(_LEVELS)}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s %(message)s")
    for name in _QUIET if level != "debug" else ():
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def _bars() -> Iterator[Any]:
    """A bar a training on a terminal; nothing elsewhere, where the log says enough."""
    console = notes()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:g}/{task.total:g}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bars:
        known: dict[str, TaskID] = {}

        def advance(task: str, what: str, done: int, of: int) -> None:
            name = f"{task} {what}"
            if name not in known:
                known[name] = bars.add_task(name, total=of)
            bars.update(known[name], completed=done, total=of, visible=done < of)

        yield advance
