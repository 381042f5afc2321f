"""``weir inference``: one process that runs full models for the scoring workers of a fleet.

It knows arguments, the banner and the checks; what runs is ``streams.full.remote.worker``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from online.task import TaskSpec
from streams.cli.options import BootstrapOption, ConfigOption, notes, settings_of, tasks_of
from streams.cli.worker import address, log_to_stderr, needed, report
from streams.ops.checks import Check
from streams.ops.kafka_checks import check_kafka
from streams.ops.redis_checks import check_redis
from streams.settings import Settings


def inference_command(
    tasks: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[TASK]...", help="Task files or directories; else [worker] tasks.", show_default=False),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option("--provider", metavar="auto|cuda|cpu", help="Else [models] provider.", show_default=False),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", help="First part of the consumer group's name.", show_default=False),
    ] = None,
    instance_id: Annotated[
        str | None,
        typer.Option("--instance-id", help="The same after each restart, unique in the group.", show_default=False),
    ] = None,
    web: Annotated[
        str | None,
        typer.Option("--web", metavar="HOST:PORT", help="Web address; :PORT, auto or off.", show_default=False),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Look whether it could run here; run nothing.")] = False,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Run an inference worker: full models for tasks with [full] remote = true.

    Scoring workers send it rows and wait for the answers until the task's
    deadline; what comes later, or never, is decided on the online model
    alone and marked as degraded. Start as many as there are GPUs: they share
    the partitions, and each batches over all of its own.

    For example:

        weir inference fraud.toml --provider cuda

        weir inference /etc/weir/tasks --config /etc/weir/weir.toml --check
    """
    given = {
        "models.provider": provider, "worker.group": group, "worker.instance_id": instance_id, **address(web)
    }  # fmt: skip
    settings = settings_of(config, bootstrap, given)
    found = tasks_of(tasks or [], settings)
    needed()
    if check:
        _check(settings, found)
        return
    log_to_stderr(log_level)
    for line in banner(settings, found):
        notes().print(escape(line), soft_wrap=True)
    run: Callable[[Settings, Sequence[TaskSpec]], int] = import_module("streams.full.remote.worker").run_inference
    if status := run(settings, found):
        raise typer.Exit(status)


def banner(settings: Settings, tasks: Sequence[TaskSpec]) -> list[str]:
    """What starts here, in a few lines without a secret."""
    w = settings.worker
    remote = ", ".join(task.name for task in tasks if task.full is not None and task.full.remote) or "none"
    return [
        f"weir inference {version('weir')}: group {w.group}-inference, provider {settings.models.provider}",
        f"tasks     {remote}",
        f"brokers   {', '.join(settings.kafka.bootstrap)} ({settings.kafka.security_protocol})",
        f"store     {settings.redis.url}, keys {settings.redis.prefix}:*",
    ]


def _check(settings: Settings, tasks: Sequence[TaskSpec]) -> None:
    """Print what an inference worker would find; raises ``Exit(2)`` when something is missing."""
    remote = [task.name for task in tasks if task.full is not None and task.full.remote]
    fix = "set remote = true in [full] of a task"
    checks = [Check("tasks", "OK", ", ".join(remote)) if remote else Check("tasks", "FAIL", "none is remote", fix)]
    checks += [*check_kafka(settings), *check_redis(settings.redis)]
    checks += import_module("streams.full.checks").check_full(settings, tasks, remote=True)
    report(checks)
