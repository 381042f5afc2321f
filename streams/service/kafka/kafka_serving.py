"""The tasks of a Kafka fleet, as far as one process beside it can tell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from weir.online.codec.example_log import decode_example_log
from weir.online.stages.evaluation import Evaluation
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.checks.entity_rows import TableRow, TaskRows
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.model_replicas.explanation import row_of
from weir.streams.model_replicas.fold import ExampleFold, Identities
from weir.streams.model_replicas.model_snapshots import ModelSnapshots
from weir.streams.model_replicas.refold import rebuild
from weir.streams.records import RecordBatch
from weir.streams.redis.partitions.partition_store import LaneStore
from weir.streams.service.kafka.kafka_service_log import KafkaServiceLog
from weir.streams.service.ports import ServiceLogReader, every_record, within
from weir.streams.service.serve_checks import check_decisions
from weir.streams.service.service import Service

_BACK: Final = 5_000
"""Newest examples of each partition from which the metrics of a process that starts are made."""
_AT_ONCE: Final = 500
"""Of them, those that are evaluated without a pause for others of the event loop."""


class KafkaServing:
    """What the fleet runs.

    Parameters
    ----------
    settings : where Redis is.
    log : how the fleet is reached.
    tasks : those that its workers run.
    """

    def __init__(self, settings: Settings, log: KafkaServiceLog, tasks: Sequence[TaskSpec]) -> None:
        self._settings, self._log = settings, log
        self._specs = {task.name: task for task in tasks}
        self._tables = {task.name: TaskRows(task) for task in tasks}
        self._features = {task.name: shape_of(task).features for task in tasks}
        self._metrics = {task.name: task.metrics for task in tasks}
        self._evaluations: dict[str, Evaluation] = {}
        self._seen: dict[str, Identities] = {}
        """A label lane that starts again publishes examples again; here they count once, as in the models."""
        self._filling = asyncio.Lock()
        self._models: dict[str, ExampleFold] = {}
        """As of the newest question: the next one learns what has come since."""
        self._learning = asyncio.Lock()
        self._places: dict[int, int] | None = None
        """Offsets behind the examples that were counted, by partition; ``None`` until they are asked for."""
        self._arrived: list[RecordBatch] = []
        """While the newest are read: what comes in between may be among them, and counts once."""
        log.subscribe([topics.EXAMPLES], self._examples)

    def ready(self) -> list[str]:
        """Whether brokers take and give records; what workers do is for ``/ready`` of theirs."""
        return self._log.trouble()

    def describe(self) -> Mapping[str, object]:
        """The tasks."""
        return {"mode": "kafka", "tasks": sorted(self._tables)}

    async def metrics(self, task: str) -> Mapping[str, Mapping[str, float]]:
        """See ``Serving``: over the newest examples, as workers keep the rest; without what depends on a threshold."""
        async with self._filling:
            if self._places is None:
                self._places = await self._fill()
                # What is among the newest that were read is passed over by its offset.
                for batch in self._arrived:
                    self._examples(batch)
        return self._evaluations[task].get()

    async def _fill(self) -> dict[int, int]:
        self._evaluations = {name: Evaluation(metrics) for name, metrics in self._metrics.items()}
        self._seen = {name: Identities() for name in self._metrics}
        self._arrived, places, values = [], dict[int, int](), list[bytes]()
        async for placed in every_record(self._log, topics.EXAMPLES, newest=_BACK):
            places[placed.partition] = placed.offset + 1
            values.append(placed.record.value)
            if len(values) == _AT_ONCE:
                self._evaluate(values)
                values = []
                await asyncio.sleep(0)
        self._evaluate(values)
        return places

    def _examples(self, batch: RecordBatch) -> None:
        if self._places is None:
            # Without a first question nothing is counted: the reading that it begins finds these in the log.
            if self._filling.locked():
                self._arrived.append(batch)
            return
        counted = self._places.get(batch.partition, 0)
        self._evaluate([record.value for _, record in within([batch], counted)])
        self._places[batch.partition] = max(counted, batch.next_offset)

    def _evaluate(self, values: Sequence[bytes]) -> None:
        for task, found in decode_example_log(values, self._features).tasks.items():
            # Workers know the thresholds, and this process does not: none is reached, so nothing is counted as an
            # alert.
            fresh = found.batch.where(self._seen[task].keep(found.batch.event_id, found.batch.n))
            self._evaluations[task].update(fresh, np.full(len(fresh), np.inf))

    async def rows(self, task: str, entity: str) -> Sequence[TableRow]:
        """See ``Serving``; looked for in every partition that may own the entity."""
        tables, found = self._tables[task], []
        store = LaneStore(await self._log.redis(), prefix=self._settings.redis.prefix)
        for table in tables.tables:
            stored = await tables.stored(entity, table, store, self._settings.topics)
            found += [tables.read(entity, table, row) for row in stored[:1]]
        return found

    async def score(self, task: str, features: Mapping[str, float]) -> tuple[float, int]:
        """See ``Serving``: by a replica of the workers' model, which learns up to the present end of the examples."""
        async with self._learning:
            if task not in self._models:
                self._models[task] = ExampleFold.of(self._specs[task])
            fold = self._models[task]
            x = row_of(features, fold.features, task)
            try:
                stored = await self.stored_models()
                await rebuild(lambda: ServiceLogReader(self._log, topics.EXAMPLES), fold, None, snapshots=stored)
            except BaseException:
                del self._models[task]  # it may be between two examples
                raise
            scores, version = fold.model.score(x)
        return float(scores[0]), version

    async def stored_models(self) -> ModelSnapshots:
        """See ``Serving``."""
        return ModelSnapshots(await self._log.redis())

    async def lag(self) -> int | None:
        """See ``Serving``; ``None`` also where this principal may not see the workers' groups."""

        def ask() -> int | None:
            from weir.streams.kafka.admin import clients, cluster

            with clients.admin_client(self._settings.kafka) as admin:
                names = [self._settings.topics.name(own) for own in topics.INPUTS]
                groups = cluster.read_lags(admin, names)
            return sum(group.lag for group in groups) if groups else None

        return await asyncio.to_thread(ask)


logger = logging.getLogger(__name__)


def kafka_service(settings: Settings, tasks: Sequence[TaskSpec]) -> Service:
    """A replica of the service of these tasks; workers of the same settings run them."""
    if (decisions := check_decisions(settings)).status != "OK":
        logger.warning("%s; %s", decisions.found, decisions.fix)
    if settings.serve.notify.targets and settings.serve.database is None:
        logger.warning(
            "messages about alerts: where there are several replicas set [serve] database, or each sends all"
        )
    log = KafkaServiceLog(settings)
    service = Service(settings, tasks, log, KafkaServing(settings, log, tasks))
    log.on_fault, log.repeats = service.fail, service.decisions.repeats
    return service
