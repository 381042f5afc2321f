"""Options that several commands have, and what they stand for: settings, tasks, times and durations."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from weir.online.durations import parse_duration
from weir.streams.errors import UsageError
from weir.streams.ops.stop_request import INTERRUPTED as INTERRUPTED  # for commands

if TYPE_CHECKING:
    from weir.online.task.spec import TaskSpec
    from weir.streams.config.settings import Settings


ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file; else $WEIR_CONFIG, else ./weir.toml.")
]
BootstrapOption = Annotated[
    str | None, typer.Option("--bootstrap", "-b", help="HOST:PORT of a broker, instead of [kafka] bootstrap.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
TasksOption = Annotated[
    list[Path] | None,
    typer.Option("--task", "-t", help="Task file or directory; repeat for more. Else [worker] tasks."),
]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Written since then: 2h, 7d, or 2024-05-01T12:00 (UTC).")
]
EntityOption = Annotated[str | None, typer.Option("--entity", "-e", help="Of this user or device.")]
DataOption = Annotated[
    list[Path], typer.Option("--data", help="CSV, Parquet, Arrow or JSON, plain or packed; repeat to merge by time.")
]
LabelsOption = Annotated[
    list[Path] | None, typer.Option("--labels", help="Labels in wire format (JSONL), when they are not a column.")
]
ArchiveOption = Annotated[
    Path | None, typer.Option("--archive", "-a", help="Directory that 'weir archive' wrote, instead of Kafka.")
]
LogOption = Annotated[Path | None, typer.Option("--log", help="Directory of an embedded log, instead of Kafka.")]

_LONGEST_S: Final = 36_500 * 86_400.0


def settings_of(config: Path | None, bootstrap: str | None, given: Mapping[str, object] | None = None) -> Settings:
    """The settings that a command was given; ``given`` holds options by the path of the setting they replace."""
    from weir.streams.config.settings import load_settings

    return load_settings(config, bootstrap=bootstrap, given=given)


def tasks_of(paths: Sequence[Path], settings: Settings) -> list[TaskSpec]:
    """The tasks of the files and directories a command was given, else of ``[worker] tasks``; by name, each once.

    Raises ``UsageError`` where there is none, or two have one name.
    """
    from weir.streams.task_files import load_task

    files = [file for path in (paths or settings.worker.tasks) for file in _files(path)]
    if not files:
        raise UsageError("no task: name task files or directories of them, or set tasks in [worker]")
    found: dict[str, Path] = {}
    tasks = []
    # A file that was named by itself and by its folder is one task.
    for file in dict.fromkeys(file.resolve() for file in files):
        task = load_task(file)
        if task.name in found:
            raise UsageError(f"{file} and {found[task.name]} both hold a task {task.name!r}; rename or leave out one")
        found[task.name] = file
        tasks.append(task)
    return sorted(tasks, key=lambda task: task.name)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = sorted(path.glob("*.toml"))
    if not inside:
        raise UsageError(f"{path}: no task file (*.toml) in this directory")
    return inside


def duration(option: str, text: str) -> float:
    """Seconds of ``7d``; raises ``UsageError`` naming the option.

    >>> duration("--older-than", "6h")
    21600.0
    """
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    if seconds > _LONGEST_S:
        raise UsageError(f"{option}: {text!r} is longer than 36500d; give less")
    return seconds


def moment(option: str, text: str) -> float:
    """Epoch seconds of a time (UTC without an offset), of epoch seconds, or of a duration ago.

    >>> moment("--since", "2023-11-14T22:13:20"), moment("--since", "1700000000")
    (1700000000.0, 1700000000.0)
    """
    from weir.online.codec.wire import TS_MAX

    # First as a time: 20240501 is a day, not so many seconds of 1970.
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    # Digits only: `float` takes nan, inf and 1e9 too.
    if text.replace(".", "", 1).isdecimal() and float(text) <= TS_MAX:
        return float(text)
    try:
        return max(time.time() - parse_duration(text), 0.0)
    except ValueError:
        raise UsageError(f"{option} {text!r}: give a time as 2024-05-01T12:00 (UTC), or how long ago as 7d") from None
