"""The topics a deployment needs, and how what is there differs. Pure: it knows numbers and names, not brokers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from online.durations import format_duration
from streams import topics
from streams.errors import UsageError
from streams.settings import TopicSettings

DAY_S: Final = 86_400.0
MIB: Final = 1_048_576
FOREVER: Final = "forever"
Retention = float | Literal["forever"]

_KEYED: Final = (topics.USER_EVENTS, topics.DEVICE_EVENTS, topics.LABELS, topics.PREDICTIONS, topics.ALERTS)
"""Partitioned by entity; all others have one partition, because their readers need one order."""
_RETENTION: Final[Mapping[str, Retention]] = {
    topics.USER_EVENTS: 7 * DAY_S,
    topics.DEVICE_EVENTS: 7 * DAY_S,
    topics.LABELS: 30 * DAY_S,
    topics.PREDICTIONS: 30 * DAY_S,  # a label joins the features that were logged here
    topics.ALERTS: 30 * DAY_S,
    topics.EXAMPLES: FOREVER,  # an online model is a fold over all of them
    topics.RETRAIN_REQUESTS: 30 * DAY_S,
    topics.MODEL_UPDATES: FOREVER,
    topics.DEAD_LETTERS: 30 * DAY_S,
    topics.DEAD_LETTERS_DONE: 60 * DAY_S,  # a marker has to outlive its letter
}
_POLICY: Final = {topics.MODEL_UPDATES: "compact", topics.DEAD_LETTERS_DONE: "compact,delete"}
_MAX_BYTES: Final = {topics.DEAD_LETTERS: 2 * MIB}
"""A dead letter carries its record in base64, a third longer: the largest record must fit, or the worker is stuck."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as it should be."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]
    """Kafka's own names, such as ``retention.ms``."""


@dataclass(frozen=True, slots=True)
class ActualTopic:
    """One topic as it is."""

    name: str
    partitions: int
    replication: int
    """Copies of the partition that has the fewest."""
    configs: Mapping[str, str]
    leaderless: tuple[int, ...] = ()
    """Partitions that nobody can read or write now."""
    short: tuple[int, ...] = ()
    """Partitions with fewer copies in sync than they should have."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as wanted, and how to mend it."""

    topic: str
    setting: str
    wanted: str
    actual: str
    fix: str


def wanted_topics(settings: TopicSettings, brokers: int) -> list[TopicSpec]:
    """Every topic of a deployment with ``brokers`` brokers; raises ``UsageError`` for what cannot be.

    >>> [(s.name, s.partitions) for s in wanted_topics(TopicSettings(partitions=4), 1)][:4]
    [('labels', 4), ('user-events', 4), ('device-events', 4), ('predictions', 4)]
    """
    specs = [_spec(name, settings, brokers) for name in topics.ALL]
    lanes = {spec.name: spec.partitions for spec in specs}
    if lanes[topics.LABELS] != lanes[topics.PREDICTIONS]:
        raise UsageError(
            f"labels would have {lanes[topics.LABELS]} partitions and predictions {lanes[topics.PREDICTIONS]}: a label "
            "meets its prediction in the partition of the same number; give both the same in [topics.override]"
        )
    return specs


def _spec(name: str, settings: TopicSettings, brokers: int) -> TopicSpec:
    special = settings.override.get(name)
    replication = (special and special.replication) or settings.replication or min(3, brokers)
    if replication > brokers:
        raise UsageError(
            f"topic {name}: replication = {replication} needs as many brokers, there {_are(brokers)}; "
            f"set replication = {brokers} in [topics], or start more brokers"
        )
    in_sync = (special and special.min_insync_replicas) or settings.min_insync_replicas or max(1, replication - 1)
    if in_sync > replication:
        raise UsageError(
            f"topic {name}: min_insync_replicas = {in_sync} of {replication} copies can never be met; "
            f"set at most {replication}"
        )
    retention = _RETENTION[name] if special is None or special.retention is None else special.retention
    configs = {
        "cleanup.policy": _POLICY.get(name, "delete"),
        "retention.ms": "-1" if retention == FOREVER else str(round(retention * 1000)),
        "min.insync.replicas": str(in_sync),
        "max.message.bytes": str(_MAX_BYTES.get(name, MIB + 12)),  # Kafka's own default: one MiB and a batch header
    }
    partitions = (special and special.partitions) or (settings.partitions if name in _KEYED else 1)
    return TopicSpec(name, partitions, replication, configs)


def compare(wanted: Sequence[TopicSpec], actual: Mapping[str, ActualTopic]) -> list[Difference]:
    """Everything about ``actual`` that is not as ``wanted``, in the order of ``wanted``.

    >>> compare(wanted_topics(TopicSettings(), 1)[:1], {})[0].fix
    'weir topics create'
    """
    found: list[Difference] = []
    for spec in wanted:
        there = actual.get(spec.name)
        if there is None:
            found.append(Difference(spec.name, "topic", "there", "missing", "weir topics create"))
        else:
            found += [*_shape(spec, there), *_configs(spec, there), *_health(there)]
    return found


def _shape(spec: TopicSpec, there: ActualTopic) -> list[Difference]:
    found = []
    if there.partitions != spec.partitions:
        accept = f"set partitions = {there.partitions} for it in [topics] to keep it"
        fix = (
            f"{accept}; Kafka cannot take partitions away"
            if there.partitions > spec.partitions
            else f"{accept}; adding some moves keys away from their state: only with drained, stopped workers"
        )
        found.append(Difference(spec.name, "partitions", str(spec.partitions), str(there.partitions), fix))
    if there.replication != spec.replication:
        fix = f"kafka-reassign-partitions, or set replication = {there.replication} for it in [topics]"
        found.append(Difference(spec.name, "replication", str(spec.replication), str(there.replication), fix))
    return found


def _configs(spec: TopicSpec, there: ActualTopic) -> list[Difference]:
    found = []
    for key, value in spec.configs.items():
        held = there.configs.get(key, "?")
        if _words(held) != _words(value):
            fix = "weir topics create --alter"
            found.append(Difference(spec.name, key, shown(key, value), shown(key, held), fix))
    return found


def _health(there: ActualTopic) -> list[Difference]:
    found = []
    if there.leaderless:
        actual = f"none for {', '.join(map(str, there.leaderless))}"
        fix = "start the brokers that hold them"
        found.append(Difference(there.name, "leader", "every partition", actual, fix))
    if there.short:
        actual = f"fewer in {', '.join(map(str, there.short))}"
        found.append(Difference(there.name, "in sync", "all copies", actual, "start the missing brokers, or wait"))
    return found


def shown(key: str, value: str) -> str:
    """A configuration value as a person reads it.

    >>> shown("retention.ms", "604800000"), shown("retention.ms", "-1"), shown("min.insync.replicas", "2")
    ('7d', 'forever', '2')
    """
    if key == "retention.ms" and value.lstrip("-").isdigit():
        return FOREVER if int(value) < 0 else format_duration(int(value) / 1000)
    return value


def _words(value: str) -> set[str]:
    """A list-valued setting means the same in any order."""
    return {part.strip() for part in value.split(",")}


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"
