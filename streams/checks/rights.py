"""Who may do what on which topic and key: the one table behind `weir acl` and docs/SECURITY.md.

It knows Weir's own names. What topics, groups and keys are called on a cluster comes from the settings.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from weir.streams.config import topics as t

if TYPE_CHECKING:
    from weir.streams.config.settings import Settings

Store = Literal["none", "read", "all"]
"""What a principal may do with keys that begin with the prefix of ``[redis]``."""


@dataclass(frozen=True, slots=True)
class Principal:
    """One kind of user.

    Parameters
    ----------
    name : what `weir acl --role` calls it.
    what : who that is.
    reads, writes : topics, by Weir's own names.
    group : key of the group's name in `groups_of`; none reads without a group.
    manages : makes topics, compares and changes their configuration, reads offsets of all groups.
    store : rights in Redis.
    registry : rights on the registry of models, a directory or bucket that has rights of its own.
    """

    name: str
    what: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    group: str = ""
    manages: bool = False
    store: Store = "none"
    registry: Literal["none", "read", "write"] = "none"


_SCORE_READS: Final = (
    t.USER_EVENTS, t.DEVICE_EVENTS, t.ENTITY_UPDATES, t.PREDICTIONS, t.LABELS, t.EXAMPLES, t.MODEL_UPDATES,
    t.INFERENCE_RESULTS,
)  # fmt: skip
_SCORE_WRITES: Final = (
    t.PREDICTIONS, t.ENTITY_UPDATES, t.DEAD_LETTERS, t.INFERENCE_REQUESTS, t.USER_EVENTS, t.DEVICE_EVENTS, t.LABELS,
)  # fmt: skip
_LABEL_READS: Final = (t.PREDICTIONS, t.LABELS, t.EXAMPLES, t.MODEL_UPDATES)
_LABEL_WRITES: Final = (
    t.EXAMPLES, t.ALERTS, t.DECISIONS, t.RETRAIN_REQUESTS, t.ENTITY_UPDATES, t.DEAD_LETTERS, t.LABELS,
)  # fmt: skip

PRINCIPALS: Final = (
    Principal("events", "producers of events", writes=(t.USER_EVENTS, t.DEVICE_EVENTS)),
    Principal("labels", "producers of labels", writes=(t.LABELS,)),
    Principal(
        "score", "`weir worker --role score`", _SCORE_READS, _SCORE_WRITES, "score", store="all", registry="read"
    ),
    Principal("label", "`weir worker --role label`", _LABEL_READS, _LABEL_WRITES, "label", store="all"),
    Principal(
        "all", "`weir worker`",
        tuple(dict.fromkeys((*_SCORE_READS, *_LABEL_READS))), tuple(dict.fromkeys((*_SCORE_WRITES, *_LABEL_WRITES))),
        "all", store="all", registry="read",
    ),
    Principal(
        "inference", "`weir inference`", (t.INFERENCE_REQUESTS, t.MODEL_UPDATES),
        (t.INFERENCE_RESULTS, t.DEAD_LETTERS), "inference", store="all", registry="read",
    ),
    Principal(
        "trainer", "`weir trainer`",
        (t.RETRAIN_REQUESTS, t.EXAMPLES, t.PREDICTIONS, t.USER_EVENTS, t.DEVICE_EVENTS), (t.MODEL_UPDATES,),
        "trainer", registry="write",
    ),
    Principal(
        "serve", "`weir serve --kafka`", t.ALL,
        (
            *t.INPUTS, t.CASE_EVENTS, t.AUDIT, t.NOTIFICATIONS, t.RETRAIN_REQUESTS, t.MODEL_UPDATES,
            t.DEAD_LETTERS_DONE,
        ), store="read", registry="write",
    ),
    Principal("reader", "dashboards, `weir tail`, `weir archive`, who acts on alerts", t.ALL, store="read"),
    Principal(
        "operator", "people with `weir topics`, `dlq`, `examples`, `retrain`, `models`, `features`",
        t.ALL, (*t.INPUTS, t.EXAMPLES, t.RETRAIN_REQUESTS, t.MODEL_UPDATES, t.DEAD_LETTERS_DONE),
        manages=True, store="all", registry="write",
    ),
)  # fmt: skip
"""All kinds of users. Workers write events and labels, too: they pass on what is in a wrong partition, and silence is a
label."""


def groups_of(settings: Settings) -> dict[str, str]:
    """Names of the consumer groups by role."""
    roles = {role: f"{settings.worker.group}-{role}" for role in ("score", "label", "all", "inference")}
    return {**roles, "trainer": settings.trainer.group}


def kafka_commands(
    settings: Settings, principals: Iterable[Principal] = PRINCIPALS, users: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Lines for a shell: ``kafka-acls.sh`` adding each principal's rights.

    Parameters
    ----------
    users : Kafka's name of each principal; ``User:weir-NAME`` for those that are not in it.
    """
    bootstrap = ",".join(settings.kafka.bootstrap)
    head = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--command-config", "admin.properties", "--add"]
    for p in principals:
        who = [*head, "--allow-principal", (users or {}).get(p.name, f"User:weir-{p.name}")]
        for operations, words in grants(settings, p):
            yield shlex.join([*who, *(part for op in operations for part in ("--operation", op)), *words])


def grants(settings: Settings, p: Principal) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Operations of Kafka, and on which resources, as ``kafka-acls.sh`` names them. Read and Write bring Describe."""
    if p.reads:
        yield ("Read",), _topics(settings, p.reads)
    if p.writes:
        yield ("Write",), _topics(settings, p.writes)
    if p.manages:
        yield ("Create", "Alter", "DescribeConfigs", "AlterConfigs", "Delete"), _topics(settings, t.ALL)
        yield ("Describe", "Delete"), ["--group", "*"]
        yield ("Describe",), ["--cluster"]
    elif p.group:
        yield ("DescribeConfigs",), _topics(settings, dict.fromkeys((*p.reads, *p.writes)))  # for --check
        yield ("Read",), ["--group", groups_of(settings)[p.group]]


def _topics(settings: Settings, own: Iterable[str]) -> list[str]:
    return [word for name in own for word in ("--topic", settings.topics.name(name))]


def redis_user(p: Principal, user: str, prefix: str, password: str = "><password>") -> str:
    """A principal as a line of an ACL file, without the word ``user``; empty where it needs no Redis."""
    from weir.streams.redis.client import COMMANDS

    if p.store == "none":
        return ""
    # `%R~` lets keys be read and no more; Redis has it from 7.0 on, the oldest version that is tested.
    keys, commands = ("~", COMMANDS) if p.store == "all" else ("%R~", READ_COMMANDS)
    return f"{user} on {password} resetkeys resetchannels {keys}{prefix}:* -@all {' '.join(f'+{c}' for c in commands)}"


READ_COMMANDS: Final = ("info", "ping", "time", "scan", "cluster|slots", "get", "mget", "getrange", "exists", "lrange",
                        "llen", "hget", "hgetall", "hmget", "zrange", "zrevrangebyscore")  # fmt: skip
"""Of a principal that may only read."""


def redis_commands(
    settings: Settings, principals: Iterable[Principal] = PRINCIPALS, users: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Lines for ``redis-cli``; each password is to be put for ``<password>``."""
    for p in principals:
        if line := redis_user(p, (users or {}).get(p.name, f"weir-{p.name}"), settings.redis.prefix):
            yield f"ACL SETUSER {line}"
