"""Puts the service beside a Kafka fleet together."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings
from weir.streams.service.kafka.kafka_service_log import KafkaServiceLog
from weir.streams.service.kafka.kafka_serving import KafkaServing
from weir.streams.service.serve_checks import check_decisions
from weir.streams.service.service import Service

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
