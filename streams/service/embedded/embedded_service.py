"""Puts the service without a broker together."""

from __future__ import annotations

from collections.abc import Sequence

from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.offline_models.loading import full_models
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog
from weir.streams.service.embedded.embedded_serving import EmbeddedServing
from weir.streams.service.service import Service


def embedded_service(settings: Settings, tasks: Sequence[TaskSpec]) -> Service:
    """The service of these tasks in ``[serve] directory``."""
    directory = settings.serve.directory
    log = EmbeddedLog(directory=directory / "log")
    host = EmbeddedHost(
        tasks,
        log,
        intake=settings.worker.intake,
        checkpoints=directory / "state",
        full=full_models(tasks, settings.models),
        limits=settings.limits,
    )
    service_log = EmbeddedServiceLog(host, log)
    return Service(settings, tasks, service_log, EmbeddedServing(host, service_log))
