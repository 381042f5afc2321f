"""``weir worker``: processes that score, label, or both.

It knows arguments and the banner; what runs is ``weir.streams.worker``. Of several processes each is this command
again, with ``--child``.
"""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Final

import typer

from weir.streams.checks.findings import Check
from weir.streams.cli.console import say
from weir.streams.cli.options import BootstrapOption, ConfigOption, settings_of, tasks_of
from weir.streams.cli.processes import process
from weir.streams.errors import UsageError
from weir.streams.ops.fleet import WEIR, Fleet, end_with_stdin

if TYPE_CHECKING:
    from weir.online.task.spec import TaskSpec
    from weir.streams.config.settings import Settings

WORKER: Final = (*WEIR, "worker")


@process.keeps_running
def worker_command(
    tasks: process.TasksArgument = None,
    role: Annotated[
        str | None, typer.Option("--role", "-r", metavar="score|label|all", help="Else [worker] role.")
    ] = None,
    group: process.GroupOption = None,
    instance_id: process.InstanceOption = None,
    processes: Annotated[
        int | None, typer.Option("--processes", "-p", help="How many; else [worker] processes.")
    ] = None,
    web: process.WebOption = None,
    only_check: process.CheckOption = False,
    log_level: process.LogLevelOption = "info",
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    child: Annotated[int, typer.Option("--child", hidden=True, help="Be this one of --processes.")] = 0,
) -> None:
    """Run a worker: events in, predictions, alerts and learning out.

    Start as many as you like, on as many machines: they share the partitions
    of the topics. A worker that dies loses nothing; another takes its
    partitions over and goes on where its state in Redis ends.

    A process computes on one core. With --processes the command keeps several
    running: one that ends is started again, their instance ids get -1, -2, ...
    behind them, and their web ports count up.

    Role score reads events and writes predictions, label joins them with
    labels, learns and alerts, all does both in one process.

    Ctrl-C or SIGTERM finishes the batches in work, a second Ctrl-C does not
    wait. With --check the exit status is 2 when something is missing.

    What is wrong with one partition pauses that partition, and the others go
    on (weir partitions). What is wrong with the process ends it; its last line
    says why. Exit status: 0 told to stop, 130 by Ctrl-C; 2 a link, a setting
    or the like that a person can mend; 1 a fault of Weir's own; 70 it hung;
    75 it did not manage to stop. Start it again after each of them: nothing
    is lost.

    For example:

        weir worker fraud.toml

        weir worker /etc/weir/tasks --config /etc/weir/weir.toml --check

        weir worker tasks/ --role score --instance-id score-1 --web 0.0.0.0:8090

        weir worker tasks/ --processes 4 --web :8090

        WEIR_KAFKA__BOOTSTRAP=kafka-1:9092 weir worker fraud.toml --web off
    """  # fmt: skip
    from weir.streams.checks.link_checks import warn_of_links

    given = {
        "worker.role": role, "worker.group": group, "worker.instance_id": instance_id,
        "worker.processes": processes, **process.address(web),
    }  # fmt: skip
    settings = settings_of(config, bootstrap, given)
    found = tasks_of(tasks or [], settings)
    _check_order(found)
    process.needed()
    if only_check:
        process.check(settings, found, Check("tasks", "OK", ", ".join(task.name for task in found)))
        return
    process.log_to_stderr(log_level, child)
    if child:
        end_with_stdin()
        mine = settings.model_copy(update={"worker": settings.worker.of_process(child)})
        status = _run(mine, found)
    else:
        # Said once, not by each child.
        warn_of_links(settings)
        for line in banner(settings, found):
            say(line)
        status = _run_fleet(settings) if settings.worker.processes > 1 else _run(settings, found)
    if status:
        raise typer.Exit(status)


def _check_order(tasks: Sequence[TaskSpec]) -> None:
    """Raise where labels have to be seen in one order with events: here both come by topics of their own."""
    if act := [task.name for task in tasks if task.labels.act == "between rows"]:
        raise UsageError(
            f'task {act[0]}: [labels] act = "between rows" needs labels and events in one order, and Kafka has them in '
            "two topics. Remove it: labels then act between batches; or run the task by weir backtest, or by weir "
            "serve without Kafka"
        )


def _run_fleet(settings: Settings) -> int:
    """Run this command for each of its processes."""
    # The command line as it was given, behind `weir worker`: each child reads file and environment itself, so that no
    # secret has to be handed over.
    numbers, given = range(1, settings.worker.processes + 1), sys.argv[2:]
    return asyncio.run(Fleet([[*WORKER, "--child", str(n), *given] for n in numbers]).run())


def banner(settings: Settings, tasks: Sequence[TaskSpec]) -> list[str]:
    """What starts here, in a few lines without a secret."""
    w, k, r = settings.worker, settings.kafka, settings.redis
    member = f", instance {w.instance()}" if w.instance_id else ""
    user = f" as {k.username}" if k.sasl else ""
    host = f"[{w.web_host}]" if ":" in w.web_host else w.web_host
    several = f", {w.processes} processes" if w.processes > 1 else ""
    ports = f"{w.web_port}-{w.web_port + w.processes - 1}" if several and w.web_port != "auto" else w.web_port
    packages = ("faust-streaming", "aiokafka", "redis", "numpy", "numba")
    return [
        f"weir worker {version('weir')}: role {w.role}, group {w.group_id()}{member}{several}",
        f"tasks     {', '.join(f'{t.name} on {settings.topics.name(t.stream)}' for t in tasks)}",
        f"brokers   {', '.join(k.bootstrap)} ({k.security_protocol}{user})",
        f"store     {r.url}, keys {r.prefix}:*",
        f"web       {f'http://{host}:{ports}' if w.web_port else 'off'}",
        f"versions  Python {platform.python_version()}, {', '.join(f'{p} {process.version_of(p)}' for p in packages)}",
    ]


def _run(settings: Settings, tasks: Sequence[TaskSpec]) -> int | None:
    from weir.streams.worker.run import run_worker  # it brings Faust

    return run_worker(settings, tasks, settings.worker.role)
