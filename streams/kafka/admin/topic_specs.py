"""The topics a deployment needs, and how what is there differs. Pure: it knows numbers and names, not brokers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from weir.online.durations import format_duration
from weir.streams.config import topics
from weir.streams.config.topics import DEFAULT_RECORD_BYTES, MIB
from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from weir.streams.config.settings import TopicSettings

HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0
FOREVER: Final = "forever"
Retention = float | Literal["forever"]

_LANES: Final = (
    topics.LABELS, topics.USER_EVENTS, topics.DEVICE_EVENTS, topics.PREDICTIONS, topics.DECISIONS,
    topics.ENTITY_UPDATES, *topics.INFERENCE,
)  # fmt: skip
"""Partition n of each belongs to one worker: there an event's prediction goes, and a label meets it."""
_KEYED: Final = (*_LANES, topics.ALERTS)
"""Partitioned by entity; all others have one partition, because their readers need one order."""
_RETENTION: Final[Mapping[str, Retention]] = {
    topics.USER_EVENTS: 7 * DAY_S,
    topics.DEVICE_EVENTS: 7 * DAY_S,
    topics.LABELS: 30 * DAY_S,
    topics.PREDICTIONS: 30 * DAY_S,  # a label joins the features that were logged here
    topics.ALERTS: 30 * DAY_S,
    topics.DECISIONS: DAY_S,  # who asked for one waits for it; alerts and predictions say the same for longer
    topics.EXAMPLES: FOREVER,  # an online model is a fold over all of them
    topics.RETRAIN_REQUESTS: 30 * DAY_S,
    # What fills an emptied store again: updates from as long ago as a row lives by the default `ttl` of an entity, an
    # eighth more than 60 days, bring back every row that is alive, and all of its windows, which reach back 30.
    topics.ENTITY_UPDATES: 68 * DAY_S,
    topics.MODEL_UPDATES: FOREVER,
    topics.DEAD_LETTERS: 30 * DAY_S,
    topics.DEAD_LETTERS_DONE: 60 * DAY_S,  # a marker has to outlive its letter
    topics.CASE_EVENTS: 400 * DAY_S,  # as long as `weir serve` keeps what is closed
    topics.AUDIT: 400 * DAY_S,
    topics.NOTIFICATIONS: 400 * DAY_S,
    topics.INFERENCE_REQUESTS: HOUR_S,  # so much of what the state of an entity saw is not lost while no worker runs
    topics.INFERENCE_RESULTS: HOUR_S,  # nobody waits for longer than a deadline
}
_LIMIT: Final = "max.message.bytes"
_STAMP: Final = "message.timestamp.type"
_AFTER: Final = "message.timestamp.after.max.ms"
_YEAR_MS: Final = 366 * 86_400_000
_BATCH_HEADER: Final = 12
"""By so much Kafka's own limit of a batch is more than a MiB."""
_POLICY: Final = {topics.DEAD_LETTERS_DONE: "compact,delete"}
# Not compacted: model-updates, whose newest record of a task says what changed, not what serves.


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as it should be."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]
    """Kafka's own names, such as ``retention.ms``."""
    from_outside: bool = False
    """Whether producers whose clocks nobody knows write to it."""
    spare: bool = False
    """Whether it is read only where a store was lost: that it keeps less than it should harms nothing until then."""
    taken: int | None = None
    """How large its ``max.message.bytes`` may be: a larger record is refused; ``None`` where it is to be as wanted."""


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
    harmless: bool = False
    """Whether everything works all the same."""


def wanted_topics(
    settings: TopicSettings, brokers: int, max_record_bytes: int = DEFAULT_RECORD_BYTES, record_bytes: int = MIB
) -> list[TopicSpec]:
    """Every topic of a deployment with ``brokers`` brokers, under the names it has there.

    ``max_record_bytes`` is the largest record that a worker may send, ``record_bytes`` the largest that it takes.
    Raises ``UsageError`` for what cannot be.

    >>> from weir.streams.config.topic_settings import TopicSettings
    >>> [(s.name, s.partitions) for s in wanted_topics(TopicSettings(partitions=4, prefix="shop."), 1)][:2]
    [('shop.labels', 4), ('shop.user-events', 4)]
    """
    specs = {own: _spec(own, settings, brokers, max_record_bytes, record_bytes) for own in topics.ALL}
    predictions = specs[topics.PREDICTIONS].partitions
    for own in _LANES:
        if specs[own].partitions != predictions:
            raise UsageError(
                f"{own} would have {specs[own].partitions} partitions and predictions {predictions}: events, "
                "predictions, labels and updates of an entity meet in the partition of the same number; give all of "
                "them the same in [topics.override]"
            )
    return list(specs.values())


def _spec(own: str, settings: TopicSettings, brokers: int, max_record_bytes: int, record_bytes: int) -> TopicSpec:
    special = settings.override.get(own)
    replication = (special and special.replication) or settings.replication or min(3, brokers)
    if replication > brokers:
        raise UsageError(
            f"topic {own}: replication = {replication} needs as many brokers, there {_are(brokers)}; "
            f"set replication = {brokers} in [topics], or start more brokers"
        )
    in_sync = (special and special.min_insync_replicas) or settings.min_insync_replicas or max(1, replication - 1)
    if in_sync > replication:
        raise UsageError(
            f"topic {own}: min_insync_replicas = {in_sync} of {replication} copies can never be met; "
            f"set at most {replication}"
        )
    retention = _RETENTION[own] if special is None or special.retention is None else special.retention
    configs = {
        "cleanup.policy": _POLICY.get(own, "delete"),
        "retention.ms": "-1" if retention == FOREVER else str(round(retention * 1000)),
        "min.insync.replicas": str(in_sync),
        _LIMIT: str(topics.largest_record(own, max_record_bytes)),
    }
    partitions = settings.partitions_of(own) if own in _KEYED else (special and special.partitions) or 1
    taken = max(int(configs[_LIMIT]), record_bytes + _BATCH_HEADER) if own in topics.INPUTS else None
    spare = own == topics.ENTITY_UPDATES
    return TopicSpec(settings.name(own), partitions, replication, configs, own in topics.INPUTS, spare, taken)


def compare(wanted: Sequence[TopicSpec], actual: Mapping[str, ActualTopic]) -> list[Difference]:
    """Everything about ``actual`` that is not as ``wanted``, in the order of ``wanted``.

    >>> from weir.streams.config.topic_settings import TopicSettings
    >>> compare(wanted_topics(TopicSettings(), 1)[:1], {})[0].fix
    'weir topics create'
    """
    found: list[Difference] = []
    for spec in wanted:
        there = actual.get(spec.name)
        if there is None:
            found.append(Difference(spec.name, "topic", "there", "missing", "weir topics create"))
        else:
            found += [*_shape(spec, there), *_configs(spec, there), *_clocks(spec, there), *_health(there)]
    return found


def short_of_horizons(horizons_s: Mapping[str, float], predictions: ActualTopic) -> list[Difference]:
    """Tasks whose labels would meet predictions that ``predictions`` holds no more.

    Parameters
    ----------
    horizons_s : by task, ``keep_s`` of its ``[labels.join]``.

    >>> there = ActualTopic("predictions", 6, 1, {"retention.ms": "604800000"})
    >>> [d.wanted for d in short_of_horizons({"fraud": 30 * 86_400, "churn": 7 * 86_400}, there)]
    ['30d or more: keep_s of task fraud']
    """
    fix = (
        "make [topics.override.predictions] retention no less and run weir topics create --alter, or make keep_s in "
        "[labels.join] of the task no more than {}"
    )
    return _short({f"keep_s of task {task}": each for task, each in horizons_s.items()}, predictions, fix)


def short_of_rows(rows_s: Mapping[str, float], updates: ActualTopic) -> list[Difference]:
    """Rows that live longer than ``updates`` keeps what would bring them back, where their store is lost.

    Parameters
    ----------
    rows_s : by task and entity, how long its rows live without events.

    >>> there = ActualTopic("entity-updates", 6, 1, {"retention.ms": "5184000000"})
    >>> [(d.wanted, d.actual) for d in short_of_rows({"fraud.merchant": 67.5 * 86_400}, there)]
    [('68d or more: rows of fraud.merchant', '60d')]
    """
    fix = (
        "make [topics.override.entity-updates] retention no less and run weir topics create --alter; a store that is "
        "lost would come back without rows that last changed more than {} ago"
    )
    spans_s = {f"rows of {name}": math.ceil(each / DAY_S) * DAY_S for name, each in rows_s.items()}
    return _short(spans_s, updates, fix, harmless=True)


def _short(spans_s: Mapping[str, float], there: ActualTopic, fix: str, *, harmless: bool = False) -> list[Difference]:
    held = there.configs.get("retention.ms", "-1")
    kept_s, actual = int(held) / 1000 if int(held) >= 0 else math.inf, shown("retention.ms", held)
    return [
        Difference(
            there.name, "retention.ms", f"{format_duration(s)} or more: {name}", actual, fix.format(actual), harmless
        )
        for name, s in sorted(spans_s.items())
        if s > kept_s
    ]


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
        if key == _LIMIT and spec.taken is not None and held.isdigit() and int(held) >= int(value):
            found += _too_much(spec, int(held), spec.taken)
        elif _words(held) != _words(value):
            fix, harmless = "weir topics create --alter", spec.spare and key == "retention.ms"
            found.append(Difference(spec.name, key, shown(key, value), shown(key, held), fix, harmless))
    return found


def _clocks(spec: TopicSpec, there: ActualTopic) -> list[Difference]:
    """Whether records may say any time to come: brokers before Kafka 4 take them, and retention believes them."""
    after = there.configs.get(_AFTER, "")
    told = there.configs.get(_STAMP) == "CreateTime" and after.isdigit() and int(after) > _YEAR_MS
    if not (spec.from_outside and told):
        return []
    fix = f"kafka-configs --alter --entity-type topics --entity-name {spec.name} --add-config {_AFTER}=3600000"
    return [Difference(spec.name, _AFTER, "1h, or LogAppendTime", "records may be of any time to come", fix, True)]


def _too_much(spec: TopicSpec, held: int, taken: int) -> list[Difference]:
    """Where a topic takes records that Weir refuses."""
    fix = "larger records go to the dead letters: raise [limits] record_bytes, or weir topics create --alter"
    return [Difference(spec.name, _LIMIT, f"at most {taken}", str(held), fix)] if held > taken else []


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
