"""``weir serve``: the HTTP service, without a broker or beside a Kafka fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from weir.streams.cli.options import BootstrapOption, ConfigOption, settings_of, tasks_of
from weir.streams.cli.processes.process import LogLevelOption, TasksArgument, log_to_stderr, needed

_NEEDS = ("fastapi", "uvicorn", "sqlalchemy", "alembic")


def serve_command(
    tasks: TasksArgument = None,
    host: Annotated[str | None, typer.Option("--host", help="Where to listen; else [serve] host.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="0 takes a free one; else [serve] port.")] = None,
    directory: Annotated[str | None, typer.Option("--dir", help="Where data lies; else [serve] directory.")] = None,
    kafka: Annotated[bool, typer.Option("--kafka", help="Beside a fleet of workers on Kafka; run any number.")] = False,
    log_level: LogLevelOption = "info",
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Serve tasks over HTTP: events and labels in, decisions, alerts and a live feed out.

    For example:

        weir serve tasks/

        weir serve fraud.toml --port 9000 --dir /var/lib/weir

        weir serve tasks/ --kafka --config /etc/weir/weir.toml
    """
    given = {"serve.host": host, "serve.port": port, "serve.directory": directory}
    settings = settings_of(config, bootstrap, given)
    found = tasks_of(tasks or [], settings)
    needed(_NEEDS, "weir serve", "weir[serve]")
    log_to_stderr(log_level)
    from weir.streams.service.run import run_service

    if kafka:
        from weir.streams.service.kafka.kafka_service import kafka_service

        service = kafka_service(settings, found)
    else:
        from weir.streams.service.embedded.embedded_service import embedded_service

        service = embedded_service(settings, found)
    if status := run_service(service, settings):
        raise typer.Exit(status)
