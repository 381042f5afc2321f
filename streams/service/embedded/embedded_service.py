"""Puts the service without a broker together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from weir.online.task.spec import TaskSpec
from weir.streams.checks.entity_rows import TableRow, TaskRows
from weir.streams.config.model_settings import ModelSettings
from weir.streams.config.settings import Settings
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.model_replicas.explanation import row_of
from weir.streams.offline_models.loading import full_models, require_provider
from weir.streams.redis.stored_rows import StoredRow
from weir.streams.reject_limit import RejectPolicy
from weir.streams.service.embedded.appends import Step
from weir.streams.service.embedded.data_directory import DataDirectory
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog
from weir.streams.service.embedded.published_log import PublishedLog
from weir.streams.service.embedded.service_engine import Engine
from weir.streams.service.service import Service


def embedded_service(settings: Settings, tasks: Sequence[TaskSpec]) -> Service:
    """The service of these tasks in ``[serve] directory``, which this process has from now on.

    Raises
    ------
    UsageError
        Another process has the directory, or it cannot be written.
    StateError
        Another version made it.
    """
    settings = settings.model_copy(update={"models": _models(settings)})
    # Outputs of one batch have the order of the tasks: it must not depend on how they were named this time.
    tasks = sorted(tasks, key=lambda task: task.name)
    log = EmbeddedServiceLog(lambda show, fault: _engine(settings, tasks, show, fault))
    service = Service(settings, tasks, log, EmbeddedServing(log))
    log.on_fault = service.fail
    if any(task.full is not None for task in tasks):
        # What trains is not imported where nothing is trained.
        from weir.streams.service.embedded.embedded_trainer import EmbeddedTrainer

        service.parts.append(EmbeddedTrainer(settings, tasks, log, service.metrics))
    return service


def _engine(
    settings: Settings, tasks: Sequence[TaskSpec], show: Callable[[list[Step]], None], fault: Callable[[str], None]
) -> Engine:
    directory = DataDirectory(settings.serve.directory, tasks)
    inputs, outputs = EmbeddedLog(directory=directory.path / "inputs"), PublishedLog(directory.path / "outputs")
    kept = EmbeddedLog(directory=directory.path / "kept")

    full = full_models(tasks, settings.models)
    require_provider(full, settings.models.provider)

    def host() -> EmbeddedHost:
        return EmbeddedHost(
            tasks,
            inputs,
            outputs,
            intake=settings.worker.intake,
            # A caller is told what is wrong with its records; bad ones must not stop those of the others.
            rejects=RejectPolicy(share=1.0),
            checkpoints=directory.path / "state",
            # Its own, as `Engine.start` makes a second host where the first one crashed.
            full=full_models(tasks, settings.models),
            limits=settings.limits,
            decisions=True,
            fitting=True,
        )

    return Engine(settings, directory, inputs, outputs, kept, host, show=show, fault=fault)


def _models(settings: Settings) -> ModelSettings:
    """``[models]``, with the registry in the service's directory where the settings name none."""
    if "registry" in settings.models.model_fields_set:
        return settings.models
    return settings.models.model_copy(update={"registry": str(settings.serve.directory.absolute() / "models")})


class EmbeddedServing:
    """What runs in this process."""

    def __init__(self, log: EmbeddedServiceLog) -> None:
        self._log = log
        self._tables = {name: TaskRows(pipeline.task, side=False) for name, pipeline in self._host.pipelines.items()}

    @property
    def _host(self) -> EmbeddedHost:
        return self._log.engine.host

    def ready(self) -> list[str]:
        """Why nothing is taken now: it starts, or the tasks crashed."""
        return self._log.engine.troubles()

    def describe(self) -> Mapping[str, object]:
        """The tasks, and how much they have seen."""
        return {"mode": "embedded", "tasks": sorted(self._host.pipelines), "events": self._host.stats.events}

    async def metrics(self, task: str) -> Mapping[str, Mapping[str, float]]:
        """See ``Serving``."""
        return await self._log.call(self._host.pipelines[task].evaluation.get)

    async def rows(self, task: str, entity: str) -> Sequence[TableRow]:
        """See ``Serving``."""
        return await self._log.call(lambda: self._rows(task, entity))

    async def score(self, task: str, features: Mapping[str, float]) -> tuple[float, int]:
        """See ``Serving``."""
        pipeline = self._host.pipelines[task]
        x = row_of(features, pipeline.features, task)
        scores, version = await self._log.call(lambda: pipeline.model.score(x))
        return float(scores[0]), version

    async def stored_models(self) -> None:
        """None: what the model learned is in the log, and is learned again from its beginning."""

    def _rows(self, task: str, entity: str) -> list[TableRow]:
        tables, found = self._tables[task], []
        for table in tables.tables:
            if (held := self._host.store.row(table.name, entity)) is not None:
                stored = StoredRow((tables.topic(table), 0), table.schema, -1, held[1], held[0])
                found.append(tables.read(entity, table, stored))
        return found

    async def lag(self) -> int | None:
        """See ``Serving``: what is appended is computed before it is answered."""
        return None
