"""``weir worker``: one process that scores, labels, or both.

It knows arguments and the banner; what runs is ``streams.worker``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer
from rich.markup import escape

from online.task import TaskSpec
from streams.cli.options import BootstrapOption, ConfigOption, notes, settings_of, tasks_of
from streams.cli.process import (
    CheckOption,
    GroupOption,
    InstanceOption,
    LogLevelOption,
    TasksArgument,
    WebOption,
    address,
    check,
    log_to_stderr,
    needed,
    version_of,
)
from streams.ops.checks import Check
from streams.settings import Role, Settings


def worker_command(
    tasks: TasksArgument = None,
    role: Annotated[
        str | None,
        typer.Option("--role", "-r", metavar="score|label|all", help="Else [worker] role.", show_default=False),
    ] = None,
    group: GroupOption = None,
    instance_id: InstanceOption = None,
    web: WebOption = None,
    only_check: CheckOption = False,
    log_level: LogLevelOption = "info",
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Run a worker: events in, predictions, alerts and learning out.

    Start as many as you like, on as many machines: they share the partitions
    of the topics. A worker that dies loses nothing; another takes its
    partitions over and goes on where its state in Redis ends.

    Role score reads events and writes predictions, label joins them with
    labels, learns and alerts, all does both in one process.

    Ctrl-C or SIGTERM finishes the batches in work, a second Ctrl-C does not
    wait. With --check the exit status is 2 when something is missing.

    For example:

        weir worker fraud.toml

        weir worker /etc/weir/tasks --config /etc/weir/weir.toml --check

        weir worker tasks/ --role score --instance-id score-1 --web 0.0.0.0:8090

        WEIR_KAFKA__BOOTSTRAP=kafka-1:9092 weir worker fraud.toml --web off
    """  # fmt: skip
    given = {"worker.role": role, "worker.group": group, "worker.instance_id": instance_id, **address(web)}
    settings = settings_of(config, bootstrap, given)
    found = tasks_of(tasks or [], settings)
    needed()
    if only_check:
        check(settings, found, Check("tasks", "OK", ", ".join(task.name for task in found)))
        return
    log_to_stderr(log_level)
    for line in banner(settings, found):
        notes().print(escape(line), soft_wrap=True)
    status = _runner()(settings, found, settings.worker.role)
    if status:
        raise typer.Exit(status)


def banner(settings: Settings, tasks: Sequence[TaskSpec]) -> list[str]:
    """What starts here, in a few lines without a secret."""
    w, k, r = settings.worker, settings.kafka, settings.redis
    member = f", instance {w.instance()}" if w.instance_id else ""
    user = f" as {k.username}" if k.sasl else ""
    host = f"[{w.web_host}]" if ":" in w.web_host else w.web_host
    packages = ("faust-streaming", "aiokafka", "redis", "numpy", "numba")
    return [
        f"weir worker {version('weir')}: role {w.role}, group {w.group_id()}{member}",
        f"tasks     {', '.join(f'{t.name} on {settings.topics.name(t.stream)}' for t in tasks)}",
        f"brokers   {', '.join(k.bootstrap)} ({k.security_protocol}{user})",
        f"store     {r.url}, keys {r.prefix}:*",
        f"web       {f'http://{host}:{w.web_port}' if w.web_port else 'off'}",
        f"versions  Python {platform.python_version()}, {', '.join(f'{p} {version_of(p)}' for p in packages)}",
    ]


def _runner() -> Callable[[Settings, Sequence[TaskSpec], Role], int | None]:
    """What runs a worker; imported late, because it brings Faust."""
    run: Callable[[Settings, Sequence[TaskSpec], Role], int | None] = import_module("streams.worker").run_worker
    return run
