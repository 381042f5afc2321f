"""``weir inference``: one process that runs full models for the scoring workers of a fleet.

It knows arguments and the banner; what runs is ``weir.streams.worker.inference.inference_worker``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from weir.streams.checks.findings import Check
from weir.streams.cli.console import say
from weir.streams.cli.options import BootstrapOption, ConfigOption, settings_of, tasks_of
from weir.streams.cli.processes import process

if TYPE_CHECKING:
    from weir.online.task.spec import TaskSpec
    from weir.streams.config.settings import Settings


@process.keeps_running
def inference_command(
    tasks: process.TasksArgument = None,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="auto|cuda|cpu", help="Else [models] provider.")
    ] = None,
    group: process.GroupOption = None,
    instance_id: process.InstanceOption = None,
    web: process.WebOption = None,
    only_check: process.CheckOption = False,
    log_level: process.LogLevelOption = "info",
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
    from weir.streams.checks.link_checks import warn_of_links

    given = {
        "models.provider": provider, "worker.group": group, "worker.instance_id": instance_id, **process.address(web)
    }  # fmt: skip
    settings = settings_of(config, bootstrap, given)
    found = tasks_of(tasks or [], settings)
    process.needed()
    if only_check:
        names, fix = ", ".join(_remote(found)), "set remote = true in [full] of a task"
        first = Check("tasks", "OK", names) if names else Check("tasks", "FAIL", "none is remote", fix)
        process.check(settings, found, first, remote=True)
        return
    process.log_to_stderr(log_level)
    warn_of_links(settings)
    for line in banner(settings, found):
        say(line)
    from weir.streams.worker.inference.inference_worker import run_inference  # it brings Faust

    if status := run_inference(settings, found):
        raise typer.Exit(status)


def _remote(tasks: Sequence[TaskSpec]) -> list[str]:
    """The tasks whose full models run here."""
    return [task.name for task in tasks if task.full is not None and task.full.remote]


def banner(settings: Settings, tasks: Sequence[TaskSpec]) -> list[str]:
    """What starts here, in a few lines without a secret."""
    w = settings.worker
    return [
        f"weir inference {version('weir')}: group {w.group}-inference, provider {settings.models.provider}",
        f"tasks     {', '.join(_remote(tasks)) or 'none'}",
        f"brokers   {', '.join(settings.kafka.bootstrap)} ({settings.kafka.security_protocol})",
        f"store     {settings.redis.url}, keys {settings.redis.prefix}:*",
    ]
