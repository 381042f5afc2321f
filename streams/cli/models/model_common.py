"""What the commands of ``weir models`` share: which registry, which tasks, which version is meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weir.online.mistakes import did_you_mean
from weir.streams.cli.options import settings_of
from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from weir.models.registry.registry import Registry

RegistryOption = Annotated[
    str | None, typer.Option("--registry", "-r", help="Directory or URL, instead of [models] registry.")
]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="Name of the task.")]
TaskOrAll = Annotated[str | None, typer.Argument(metavar="TASK", help="Name of the task; all without it.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="A number, or champion or shadow.")]


def open_registry(url: str | None, config: Path | None) -> Registry:
    """The registry that a command was given, else that of the settings."""
    from weir.models.registry.registry import Registry

    held = Registry(settings_of(config, None, {"models.registry": url}).models.registry)
    # Every list of it would be empty, as of a registry that nobody has written to.
    if Path(held.url).is_file():
        raise UsageError(f"{held.url} is a file; give the directory or the URL of a registry")
    return held


def tasks_in(held: Registry, task: str | None) -> list[str]:
    """The task that was named, if it has versions; all that have some without one."""
    known = held.tasks()
    if task is not None and task not in known:
        raise UsageError(f"{held.url} holds no versions of a task {task!r}; {did_you_mean(task, known)}")
    return known if task is None else [task]


def number_of(held: Registry, task: str, version: str) -> int:
    """A version by its number, or by what it does now."""
    tasks_in(held, task)
    if version in ("champion", "shadow"):
        found = getattr(held.stages(task), version)
        if found is None:
            known = ", ".join(f"v{v}" for v in held.versions(task)) or "none"
            raise UsageError(f"task {task} has no {version} now; versions are: {known}")
        return int(found)
    if not re.fullmatch(r"v?[1-9]\d{0,8}", version):
        raise UsageError(f"{version!r} is no version; give a number as weir models list shows, or champion or shadow")
    return int(version.removeprefix("v"))
