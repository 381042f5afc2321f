"""Whether the brokers are there, and the topics as the workers need them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from weir.online.task.spec import STREAM_KEYS
from weir.streams.checks.findings import Check
from weir.streams.config import topics
from weir.streams.errors import BrokerError, UsageError
from weir.streams.kafka.admin import cluster
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.admin.topic_specs import (
    ActualTopic,
    Difference,
    compare,
    short_of_horizons,
    short_of_rows,
    wanted_topics,
)

if TYPE_CHECKING:
    from weir.online.task.spec import TaskSpec
    from weir.streams.config.settings import Settings

log = logging.getLogger(__name__)


def check_kafka(settings: Settings, tasks: Sequence[TaskSpec] = ()) -> list[Check]:
    """Connect and compare; what cannot be looked at is a finding, never an exception.

    ``tasks`` : whose labels must find the predictions they are about.
    """
    where = ", ".join(settings.kafka.bootstrap)
    try:
        with admin_client(settings.kafka) as admin:
            brokers = cluster.count_brokers(admin)
            wanted = wanted_topics(
                settings.topics, brokers, settings.worker.max_record_bytes, settings.limits.record_bytes
            )
            there = cluster.read_topics(admin, [spec.name for spec in wanted])
    except (BrokerError, UsageError) as exc:
        return [Check("Kafka", "FAIL", str(exc))]
    found = [Check("Kafka", "OK", f"{brokers} {'broker' if brokers == 1 else 'brokers'} at {where}")]
    differing = differing_topics([*compare(wanted, there), *too_short(settings, tasks, there)])
    return found + (differing or [Check("topics", "OK", f"{len(wanted)} as they should be")])


def differing_topics(found: Sequence[Difference]) -> list[Check]:
    """A check for each fault with its fix; topics that share both are named in one.

    >>> check = differing_topics([Difference(t, "topic", "there", "missing", "weir topics create") for t in "ab"])[0]
    >>> check.name, check.found
    ('2 topics', 'topic: missing, wanted there: a, b')
    """
    of = dict[Difference, list[str]]()
    for each in found:
        of.setdefault(replace(each, topic=""), []).append(each.topic)
    checks = []
    for d, names in of.items():
        name, said = f"topic {names[0]}", f"{d.setting}: {d.actual}, wanted {d.wanted}"
        if len(names) > 1:
            name, said = f"{len(names)} topics", f"{said}: {', '.join(names)}"
        checks.append(Check(name, "WARN" if d.harmless else "FAIL", said, d.fix))
    return checks


def warn_of_retention(settings: Settings, tasks: Sequence[TaskSpec]) -> None:
    """Warn where ``predictions`` are deleted while a task still waits for their labels.

    A worker runs all the same, as somebody else may own the topic; labels that come too late are counted as lost.
    """
    name = settings.topics.name(topics.PREDICTIONS)
    try:
        with admin_client(settings.kafka) as admin:
            there = cluster.read_topics(admin, [name])
    except BrokerError as error:
        log.warning("whether topic %s keeps predictions for as long as labels may take cannot be seen: %s", name, error)
        return
    for d in too_short(settings, tasks, there):
        log.warning(
            "topic %s keeps records for %s, and should for %s: a label that comes later meets a prediction that is "
            "gone. %s",
            d.topic, d.actual, d.wanted, d.fix[0].upper() + d.fix[1:],
        )  # fmt: skip


def too_short(settings: Settings, tasks: Sequence[TaskSpec], there: Mapping[str, ActualTopic]) -> list[Difference]:
    """What topics that are ``there`` keep too little of: predictions for labels to come, updates for a rebuild."""
    predictions, updates = (there.get(settings.topics.name(own)) for own in (topics.PREDICTIONS, topics.ENTITY_UPDATES))
    found = list[Difference]()
    # A topic that is missing is told by the comparison.
    if predictions is not None:
        found += short_of_horizons({task.name: task.labels.join.keep_s for task in tasks}, predictions)
    if updates is not None:
        # Other rows are filled from the stream itself.
        fed = (
            (task, each)
            for task in tasks
            for each in task.entities
            if each.key != STREAM_KEYS[task.stream] or each.labels
        )
        found += short_of_rows({f"{task.name}.{each.name}": each.kept_s for task, each in fed}, updates)
    return found
