"""Who may do what on which topic and key: the one table behind `weir acl` and docs/SECURITY.md.

It knows Weir's own names. What topics, groups and keys are called on a cluster comes from the settings.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from streams import topics as t
from streams.settings import Settings
from streams.stores.link import COMMANDS

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
_LABEL_WRITES: Final = (t.EXAMPLES, t.ALERTS, t.RETRAIN_REQUESTS, t.ENTITY_UPDATES, t.DEAD_LETTERS, t.LABELS)

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
    Principal("reader", "dashboards, `weir tail`, `weir archive`, who acts on alerts", t.ALL, store="read"),
    Principal(
        "operator", "people with `weir topics`, `dlq`, `examples`, `retrain`, `models`, `features`",
        t.ALL, (*t.INPUTS, t.EXAMPLES, t.RETRAIN_REQUESTS, t.MODEL_UPDATES, t.DEAD_LETTERS_DONE),
        manages=True, store="all", registry="write",
    ),
)  # fmt: skip
"""All kinds of users. Workers write events and labels, too: they pass on what is in a wrong partition, and silence is a
label."""


@dataclass(frozen=True, slots=True)
class Danger:
    """What somebody who may write something could do, and what stops it."""

    could: str
    stops: str


DANGERS: Final[Mapping[str, Danger]] = {
    t.USER_EVENTS: Danger(
        "send events of any entity: garbage, bombs, extremes, wrong times, ids that repeat, random new entities",
        "limits before and after decoding ([limits], docs/LIMITS.md), dead letters, a pause of that partition alone; "
        "a time is taken from the broker and the worker; weir_new_rows_total and weir_store_used_bytes show a flood",
    ),
    t.LABELS: Danger(
        "label any prediction falsely, so that online models learn it",
        "bounded weights and steps; a row that would make a model non-finite is not learned; weir examples quarantine "
        "takes examples back on all replicas; a full model is gated, and compared before it is promoted",
    ),
    t.PREDICTIONS: Danger(
        "have false features and scores joined with labels and learned, and false alerts opened",
        "the same bounds as for labels; no code and no address is taken from a record. Give it to workers alone",
    ),
    t.ENTITY_UPDATES: Danger(
        "change windows of any entity",
        "a layout has to be one of the task's, numbers are bounded; the rows can be rebuilt (weir features rebuild)",
    ),
    t.EXAMPLES: Danger(
        "teach every online model anything, or take examples back",
        "as for labels; all replicas learn the same, and weir examples quarantine undoes it. Give it to workers alone",
    ),
    t.ALERTS: Danger("raise or resolve alerts before whoever acts on them", "nothing in Weir reads alerts"),
    t.RETRAIN_REQUESTS: Danger(
        "have the trainer train again and again",
        "one job at a time and the gate; the cooldown of each task, unless the request says force, as a person's may; "
        "its text is printed without control characters",
    ),
    t.MODEL_UPDATES: Danger(
        "choose which registered version serves, or have none serve",
        "a version has to lie in our registry (or one of [models] trusted), to have the digest of its manifest, and to "
        "have been moved to a stage by the registry's own log; others are refused. weir_full_version shows what serves",
    ),
    t.INFERENCE_REQUESTS: Danger(
        "use up the time of inference workers, and change states of entities", "widths are checked; states expire"
    ),
    t.INFERENCE_RESULTS: Danger(
        "answer for an inference worker: false scores of a full model",
        "only answers to open requests are taken, of their widths and finite; the deadline passes without them",
    ),
    t.DEAD_LETTERS: Danger(
        "have an operator replay a forged record",
        "a replay goes to inputs only (user-events, device-events, labels), where it is judged as any record is",
    ),
    t.DEAD_LETTERS_DONE: Danger("hide dead letters", "weir dlq list --done shows them"),
}
"""By topic. device-events is as user-events."""
STORE: Final = Danger(
    "change rows, positions, thresholds and online models, or delete them; pause partitions",
    "snapshots are numbers, checked one by one: nothing in them is imported or called; what does not fit is refused "
    "and rebuilt from Kafka. Whoever may write here is a worker: give it to workers and operators alone",
)
REGISTRY: Final = Danger(
    "serve any model, which sees all features and decides alerts",
    "versions never change and have digests; a graph is checked, has operators of ONNX only, no files of its own and "
    "limited time to try it; the log of stages tells who moved what. Give it to trainers and operators alone",
)


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
    if p.store == "none":
        return ""
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


def page() -> str:
    """docs/SECURITY.md."""
    return "\n".join([*_HEAD, *_matrix(), "", *_writers(), *_TAIL])


def _matrix() -> Sequence[str]:
    head = ["topic", *(p.name for p in PRINCIPALS)]
    rows = [[f"`{own}`", *(_rights(p, own) for p in PRINCIPALS)] for own in t.ALL]
    rows.append(["consumer group", *(f"`{p.group}`" if p.group else "" for p in PRINCIPALS)])
    rows.append(["Redis, `weir:*`", *({"none": "", "read": "r", "all": "rw"}[p.store] for p in PRINCIPALS)])
    rows.append(["registry of models", *({"none": "", "read": "r", "write": "rw"}[p.registry] for p in PRINCIPALS)])
    return [*_table(head, rows), "", *_table(["principal", "who"], [[p.name, p.what] for p in PRINCIPALS])]


def _rights(p: Principal, own: str) -> str:
    return ("r" if own in p.reads else "") + ("w" if own in p.writes else "") + ("m" if p.manages else "")


def _writers() -> Sequence[str]:
    rows = [[f"`{own}`", danger.could, danger.stops] for own, danger in DANGERS.items()]
    rows += [["Redis", STORE.could, STORE.stops], ["registry", REGISTRY.could, REGISTRY.stops]]
    return _table(["who may write", "could", "what stops it"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


_HEAD: Final = (
    "# Who may do what",
    "",
    "Made by `python -m streams.admin.rights > docs/SECURITY.md` from the table in that module; a test holds the two",
    "together. `weir acl kafka` and `weir acl redis` print the table as commands, with the names of your settings.",
    "r reads, w writes, m makes topics and changes their configuration.",
    "",
)
_TAIL: Final = (
    "",
    "A reader sees every value: events, features and scores are data of your users. Give `reader` to those who may.",
    "",
    "What no right of Kafka or Redis gives: code. Settings and task files are files of the machine; a task file holds",
    "whitelisted expressions, records hold data, snapshots numbers (`online/learners/riverstate.py`), models are ONNX",
    "graphs. The trainer hands work to its own child by pickle, in `[trainer] work`, which only its user can enter.",
    "",
    "What is said at the start, by `weir doctor` and by `--check`: passwords in clear, certificates that are not",
    "checked, versions of Redis with known holes, a Redis that drops keys by itself or is nearly full.",
    "",
)

if __name__ == "__main__":
    print(page(), end="")
