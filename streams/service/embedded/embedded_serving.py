"""The tasks of the embedded service, as they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weir.streams.checks.entity_rows import TableRow, TaskRows
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.model_replicas.logged_features import row_of
from weir.streams.redis.stored_rows import StoredRow
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog


class EmbeddedServing:
    """What runs in this process.

    Parameters
    ----------
    log : whose engine runs the tasks.
    """

    def __init__(self, log: EmbeddedServiceLog) -> None:
        self._log = log
        self._tables = {name: TaskRows(pipeline.task) for name, pipeline in self._host.pipelines.items()}

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
