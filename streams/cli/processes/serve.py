"""``weir serve``: the HTTP service, without a broker or beside a Kafka fleet."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from weir.streams.checks.findings import Check, check_codecs
from weir.streams.cli.console import say
from weir.streams.cli.options import BootstrapOption, ConfigOption, settings_of, tasks_of
from weir.streams.cli.processes import process

if TYPE_CHECKING:
    from weir.online.task.spec import TaskSpec
    from weir.streams.config.settings import Settings
    from weir.streams.service.service import Service

_NEEDS = ("fastapi", "uvicorn", "sqlalchemy")


@process.keeps_running
def serve_command(
    tasks: process.TasksArgument = None,
    host: Annotated[str | None, typer.Option("--host", help="Where to listen; else [serve] host.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="0 takes a free one; else [serve] port.")] = None,
    directory: Annotated[str | None, typer.Option("--dir", help="Where data lies; else [serve] directory.")] = None,
    kafka: Annotated[bool, typer.Option("--kafka", help="Beside a fleet of workers on Kafka; run any number.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the tables of alerts anew from the log.")] = False,
    only_check: process.CheckOption = False,
    log_level: process.LogLevelOption = "info",
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Serve tasks over HTTP: events and labels in, decisions, alerts and a live feed out.

    Without a broker everything is in this process and in one directory (--dir,
    [serve] directory). What was acknowledged survives kill -9 and power cuts;
    a start goes on where the process before ended, with the same outputs.

    With --kafka it serves a fleet of workers, and any number may run: over
    one PostgreSQL ([serve] database), or each in a directory of its own.

    Ctrl-C or SIGTERM answers what was asked and writes a checkpoint, a second
    Ctrl-C does not wait; nothing is lost by it. Exit status: 0 told to stop,
    130 by Ctrl-C; 2 an address, a directory or the like that a person can
    mend; 1 the tasks crashed: start it again (a supervisor does).

    For example:

        weir serve tasks/

        weir serve fraud.toml --port 9000 --dir /var/lib/weir

        weir serve tasks/ --check

        weir serve tasks/ --kafka --config /etc/weir/weir.toml
    """
    given = {
        "serve.host": host, "serve.port": port, "serve.directory": directory, "serve.rebuild": rebuild or None,
    }  # fmt: skip
    settings = settings_of(config, bootstrap, given)
    found = tasks_of(tasks or [], settings)
    process.needed(_NEEDS, "weir serve", "serve")
    if only_check:
        _check(settings, found, kafka)
        return
    process.log_to_stderr(log_level)
    for line in _banner(settings, found, kafka):
        say(line)
    from weir.streams.service.run import run_service
    from weir.streams.service.store.database import sole_service

    with sole_service(settings.serve):
        service = _service(settings, found, kafka)
        status = run_service(service, settings.serve)
    if not service.fault:
        say(_goodbye(service, settings, kafka))
    if status:
        raise typer.Exit(status)


def _service(settings: Settings, tasks: Sequence[TaskSpec], kafka: bool) -> Service:
    if kafka:
        from weir.streams.service.kafka.kafka_serving import kafka_service

        return kafka_service(settings, tasks)
    from weir.streams.service.embedded.embedded_service import embedded_service

    return embedded_service(settings, tasks)


def _check(settings: Settings, tasks: Sequence[TaskSpec], kafka: bool) -> None:
    from weir.streams.service.serve_checks import check_serve

    first = Check("tasks", "OK", ", ".join(task.name for task in tasks))
    checks = check_serve(settings, tasks, embedded=not kafka)
    if kafka:
        process.check(settings, tasks, first, checks)
    else:
        process.report([first, check_codecs(), *checks])


def _goodbye(service: Service, settings: Settings, kafka: bool) -> str:
    """What is stored, and how to go on."""
    if kafka:
        return "stopped: what was acknowledged is in Kafka, and workers go on with it; the same command serves it again"
    events = int(str(service.serving.describe()["events"]))
    stored = f"{events:,} {'event is' if events == 1 else 'events are'} stored in {settings.serve.directory.absolute()}"
    return f"stopped: {stored}; the same command goes on"


def _banner(settings: Settings, tasks: Sequence[TaskSpec], kafka: bool) -> list[str]:
    """What starts here, in a few lines without a secret."""
    serve = settings.serve
    mode = f"beside Kafka, {', '.join(settings.kafka.bootstrap)}" if kafka else "embedded, without a broker"
    safe = "survives a power cut" if serve.fsync else "survives the end of the process, not a power cut: fsync = false"
    where = [] if kafka else [f"directory {serve.directory.absolute()}; what is acknowledged {safe}"]
    return [
        f"weir serve {version('weir')}: {mode}",
        f"tasks     {', '.join(task.name for task in tasks)}",
        *where,
        f"database  {serve.database if serve.database is not None else 'SQLite in the directory'}",
    ]
