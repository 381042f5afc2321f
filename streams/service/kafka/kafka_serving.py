"""The tasks of a Kafka fleet, as far as one process beside it can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weir.online.task.spec import TaskSpec
from weir.streams.service.kafka.kafka_service_log import KafkaServiceLog


class KafkaServing:
    """What the fleet runs.

    Parameters
    ----------
    log : how it is reached.
    tasks : those that its workers run.
    """

    def __init__(self, log: KafkaServiceLog, tasks: Sequence[TaskSpec]) -> None:
        self._log, self._names = log, sorted(task.name for task in tasks)

    def ready(self) -> list[str]:
        """Whether brokers take and give records; what workers do is for ``/ready`` of theirs."""
        return self._log.trouble()

    def describe(self) -> Mapping[str, object]:
        """The tasks."""
        return {"mode": "kafka", "tasks": self._names}
