"""Reads and changes topics through an admin client: what is there, what it holds, who lags behind."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from weir.streams.errors import BrokerError
from weir.streams.kafka.admin.clients import admin_client, kafka_module
from weir.streams.kafka.admin.topic_specs import ActualTopic, Difference, TopicSpec

if TYPE_CHECKING:
    from weir.streams.config.settings import KafkaSettings

DEFAULT_RECORD_BYTES: Final = 1_048_588
_LIMIT: Final = "max.message.bytes"
_POLICY: Final = "cleanup.policy"
_ALREADY_EXISTS = 36
_SHOWN_WITHIN_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.05
_NO_TOPIC = 3


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One partition now."""

    topic: str
    partition: int
    leader: int | None
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]
    start: int | None
    """Offset of the oldest record."""
    end: int | None
    """Offset behind the newest record."""
    size_bytes: int | None
    """On the leader's disk; ``None`` where we may not ask."""


@dataclass(frozen=True, slots=True)
class GroupLag:
    """How far a consumer group is behind in one topic."""

    group: str
    state: str
    members: int
    topic: str
    lag: int
    """Records behind its committed offsets, over all partitions; from the start where nothing is committed."""
    worst: int
    """The partition that lags most."""
    worst_lag: int
    uncommitted: tuple[int, ...]
    """Partitions for which nothing is committed."""


def count_brokers(admin: Any) -> int:
    """How many brokers there are."""
    return len(admin.describe_cluster()["brokers"])


def read_topics(admin: Any, names: Sequence[str]) -> dict[str, ActualTopic]:
    """The topics among ``names`` that exist."""
    described = [t for t in admin.describe_topics(list(names)) if t["error_code"] != _NO_TOPIC]
    _raise_first(described)
    if not described:
        return {}
    kinds = kafka_module("kafka.admin")
    resources = [kinds.ConfigResource(kinds.ConfigResourceType.TOPIC, t["name"]) for t in described]
    configs = admin.describe_configs(resources, config_filter="all").get("topic", {})
    return {t["name"]: _actual(t, configs.get(t["name"], {})) for t in described}


class TopicIdentity(NamedTuple):
    """A topic of the brokers, as what is stored of it is compared."""

    id: str
    """Empty where the brokers (before 2.8) have none."""
    partitions: int


def read_identities(admin: Any, names: Sequence[str]) -> dict[str, TopicIdentity]:
    """Ids and numbers of partitions of the topics among ``names`` that exist."""
    described = [t for t in admin.describe_topics(list(names)) if t["error_code"] != _NO_TOPIC]
    _raise_first(described)
    return {t["name"]: TopicIdentity(_id(t), len(t["partitions"])) for t in described}


def _id(described: Mapping[str, Any]) -> str:
    found = described.get("topic_id")
    # All zeros is Kafka's word for none.
    return "" if found is None or not int(UUID(str(found))) else str(found)


def _actual(found: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> ActualTopic:
    partitions = found["partitions"]
    return ActualTopic(
        name=found["name"],
        partitions=len(partitions),
        replication=min((len(p["replica_nodes"]) for p in partitions), default=0),
        configs={key: str(held["value"]) for key, held in configs.items()},
        leaderless=tuple(sorted(p["partition_index"] for p in partitions if p["leader_id"] < 0)),
        short=tuple(sorted(p["partition_index"] for p in partitions if len(p["isr_nodes"]) < len(p["replica_nodes"]))),
    )


def read_limits(admin: Any) -> dict[str, int]:
    """Bytes that a record of each topic may have at most; Kafka's default where we may not ask."""
    return read_settings(admin).limits


class TopicSettingsThere(NamedTuple):
    """What a worker has to know of the settings of all topics that there are."""

    limits: dict[str, int]
    """Bytes that a record may have at most; Kafka's default where we may not ask."""
    compacted: frozenset[str]
    """Those that keep only the newest record of each key, as far as we may ask."""


def read_settings(admin: Any) -> TopicSettingsThere:
    """Look at all topics that we may see."""
    kinds, errors = kafka_module("kafka.admin"), kafka_module("kafka.errors")
    # Kafka's own begin so, and few users may look at them.
    names = [name for name in admin.list_topics() if not name.startswith("__")]
    limits = dict.fromkeys(names, DEFAULT_RECORD_BYTES)
    if not names:
        return TopicSettingsThere(limits, frozenset())
    wanted = {_LIMIT: None, _POLICY: None}
    resources = [kinds.ConfigResource(kinds.ConfigResourceType.TOPIC, name, wanted) for name in names]
    try:
        found = admin.describe_configs(resources, config_filter="all").get("topic", {})
    except errors.AuthorizationError:
        return TopicSettingsThere(limits, frozenset())
    limits |= {name: int(held[_LIMIT]["value"]) for name, held in found.items() if _LIMIT in held}
    policies = {name: str(held[_POLICY]["value"]) for name, held in found.items() if _POLICY in held}
    return TopicSettingsThere(limits, frozenset(name for name, policy in policies.items() if "compact" in policy))


def topic_settings_there(settings: KafkaSettings) -> TopicSettingsThere:
    """`read_settings` over a connection of its own; raises ``BrokerError`` where nobody answers."""
    with admin_client(settings) as admin:
        return read_settings(admin)


def create_topics(admin: Any, specs: Sequence[TopicSpec], dry_run: bool = False) -> dict[str, bool]:
    """Create the topics that are not there; name to whether it was created (or would be)."""
    if not specs:
        return {}
    wanted = {
        s.name: {
            "num_partitions": s.partitions, "replication_factor": s.replication, "configs": dict(s.configs)
        } for s in specs
    }  # fmt: skip
    results = admin.create_topics(wanted, validate_only=dry_run, raise_errors=False)["topics"]
    # Somebody else may create the same topics at this moment; whether they are alike is compared by the caller.
    _raise_first([r for r in results if r["error_code"] != _ALREADY_EXISTS])
    created = {r["name"]: r["error_code"] == 0 for r in results}
    if not dry_run:
        admin.wait_for_topics([name for name, new in created.items() if new])
    return created


def alter_topics(admin: Any, specs: Sequence[TopicSpec], differences: Sequence[Difference]) -> None:
    """Give topics the configuration they should have; partitions and replication stay as they are."""
    kinds = kafka_module("kafka.admin")
    resources = []
    for spec in specs:
        settings = {d.setting for d in differences if d.topic == spec.name} & set(spec.configs)
        if settings:
            change = {key: spec.configs[key] for key in sorted(settings)}
            resources.append(kinds.ConfigResource(kinds.ConfigResourceType.TOPIC, spec.name, change))
    if not resources:
        return
    results = admin.alter_configs(resources)["topic"]
    failed = [f"{name}: {found}" for name, found in results.items() if found != "OK"]
    if failed:
        raise BrokerError(f"could not be altered: {'; '.join(failed)}")
    _await_configs(admin, {resource.name: resource.configs for resource in resources})


def _await_configs(admin: Any, wanted: Mapping[str, Mapping[str, str]]) -> None:
    """Wait until the brokers show what they accepted: a busy one shows the old values for a moment."""
    deadline = time.monotonic() + _SHOWN_WITHIN_S
    while time.monotonic() < deadline:
        there = read_topics(admin, list(wanted))
        if all(there[name].configs.get(key) == value for name, held in wanted.items() for key, value in held.items()):
            return
        time.sleep(_LOOK_AGAIN_S)


def read_partitions(admin: Any, names: Sequence[str]) -> list[PartitionState]:
    """Every partition of ``names``, which must exist, with leader, copies, offsets and size."""
    described = admin.describe_topics(list(names))
    _raise_first(described)
    sizes = _sizes(admin, names)
    led = [(t["name"], p["partition_index"]) for t in described for p in t["partitions"] if p["leader_id"] >= 0]
    start, end = _offsets(admin, led)
    out = []
    for t in sorted(described, key=lambda t: list(names).index(t["name"])):
        for p in sorted(t["partitions"], key=lambda p: p["partition_index"]):
            at = (t["name"], p["partition_index"])
            leader: int | None = p["leader_id"] if p["leader_id"] >= 0 else None
            held = sizes.get((*at, leader)) if leader is not None else None
            copies = tuple(p["replica_nodes"]), tuple(p["isr_nodes"])
            out.append(PartitionState(*at, leader, *copies, start.get(at), end.get(at), held))
    return out


def read_lags(admin: Any, names: Sequence[str]) -> list[GroupLag]:
    """The lag of every consumer group that has committed something in ``names``."""
    groups = {g["group_id"]: g["group_state"] for g in admin.list_groups() if g["group_type"] != "share"}
    if not groups:
        return []
    committed = admin.list_group_offsets(sorted(groups))
    touched = {name: sorted({tp.topic for tp in held} & set(names)) for name, held in committed.items()}
    described = admin.describe_topics(sorted({t for found in touched.values() for t in found}) or list(names))
    lanes = {t["name"]: [p["partition_index"] for p in t["partitions"] if p["leader_id"] >= 0] for t in described}
    start, end = _offsets(admin, [(t, p) for t, found in lanes.items() for p in found])
    telling = [group for group in groups if touched[group]]
    members = {name: len(found["members"]) for name, found in admin.describe_groups(telling).items()} if telling else {}
    out = []
    for name in sorted(groups):
        held = {(tp.topic, tp.partition): meta.offset for tp, meta in committed[name].items()}
        for topic in touched[name]:
            at = {p: (topic, p) for p in lanes[topic]}
            # What retention has deleted nobody will read: it is no lag.
            lags = {p: max(end[k] - max(held.get(k, start[k]), start[k]), 0) for p, k in at.items()}
            worst = max(lags, key=lambda p: (lags[p], -p), default=0)
            bare = tuple(sorted(p for p, k in at.items() if k not in held))
            total = sum(lags.values())
            out.append(
                GroupLag(name, groups[name], members.get(name, 0), topic, total, worst, lags.get(worst, 0), bare)
            )
    return out


def _offsets(admin: Any, at: Sequence[tuple[str, int]]) -> tuple[dict[tuple[str, int], int], ...]:
    """Start and end offsets of partitions that have a leader."""
    if not at:
        return {}, {}
    kafka, kinds = kafka_module(), kafka_module("kafka.admin")
    found = []
    for spec in (kinds.OffsetSpec.EARLIEST, kinds.OffsetSpec.LATEST):
        offsets = admin.list_partition_offsets({kafka.TopicPartition(*one): spec for one in at})
        found.append({(tp.topic, tp.partition): held.offset for tp, held in offsets.items()})
    return tuple(found)


def _sizes(admin: Any, names: Sequence[str]) -> dict[tuple[str, int, int], int]:
    """Bytes by topic, partition and broker."""
    found = {}
    for broker in admin.describe_log_dirs(list(names)):
        for folder in broker["log_dirs"]:
            for topic in folder["topics"]:
                for p in topic["partitions"]:
                    found[topic["name"], p["partition_index"], broker["broker"]] = p["partition_size"]
    return found


def _raise_first(found: Sequence[Mapping[str, Any]]) -> None:
    for one in found:
        if one["error_code"]:
            error = kafka_module("kafka.errors").for_code(one["error_code"])
            raise error(f"topic {one['name']}: {one.get('error_message') or error.__name__}")
