"""The tasks of a Kafka fleet, as far as one process beside it can tell."""

from __future__ import annotations

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
from weir.streams.records import RecordBatch
from weir.streams.redis.client import opened
from weir.streams.redis.partitions.partition_store import LaneStore
from weir.streams.service.kafka.kafka_service_log import KafkaServiceLog
from weir.streams.service.log_reading import every_record

_BACK: Final = 5_000
"""Newest examples of each partition from which the metrics of a process that starts are made."""


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
        self._tables = {task.name: TaskRows(task) for task in tasks}
        self._features = {task.name: shape_of(task).features for task in tasks}
        self._evaluations = {task.name: Evaluation(task.metrics) for task in tasks}
        self._filled = False
        self._end = log.subscribe([topics.EXAMPLES], self._examples)

    def ready(self) -> list[str]:
        """Whether brokers take and give records; what workers do is for ``/ready`` of theirs."""
        return self._log.trouble()

    def describe(self) -> Mapping[str, object]:
        """The tasks."""
        return {"mode": "kafka", "tasks": sorted(self._tables)}

    async def metrics(self, task: str) -> Mapping[str, Mapping[str, float]]:
        """See ``Serving``: over the newest examples, as workers keep the rest; without what depends on a threshold."""
        if not self._filled:
            self._filled = True
            async for placed in every_record(self._log, topics.EXAMPLES, newest=_BACK):
                self._evaluate([placed.record.value])
        return self._evaluations[task].get()

    def _examples(self, batch: RecordBatch) -> None:
        if self._filled:
            self._evaluate([record.value for record in batch.records])

    def _evaluate(self, values: Sequence[bytes]) -> None:
        for task, found in decode_example_log(values, self._features).tasks.items():
            self._evaluations[task].update(found.batch, np.full(len(found.batch), np.inf))

    async def rows(self, task: str, entity: str) -> Sequence[TableRow]:
        """See ``Serving``; looked for in every partition that may own the entity."""
        tables, found = self._tables[task], []
        async with opened(self._settings.redis) as link:
            store = LaneStore(link, prefix=self._settings.redis.prefix)
            for table in tables.tables:
                topic = tables.topic(table)
                lanes = [(topic, p) for p in range(self._settings.topics.partitions_of(topic))]
                store.create(table.name, table.row_bytes, table.schema, table.ttl_s)
                stored = await store.read_rows(table.name, entity, lanes)
                found += [tables.read(entity, table, row) for row in stored[:1]]
        return found
