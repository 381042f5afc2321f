"""docs/SECURITY.md, made from the table of rights: ``python -m docs.pages.security > docs/SECURITY.md``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from weir.streams.checks.rights import PRINCIPALS, Principal
from weir.streams.config import topics as t
from weir.streams.service.access.roles import OF_ALL_TASKS, ROLES, SCOPES


@dataclass(frozen=True, slots=True)
class Danger:
    """What somebody who may write something could do, and what stops it."""

    could: str
    stops: str


DANGERS: Final[Mapping[str, Danger]] = {
    t.USER_EVENTS: Danger(
        "send events of any entity: garbage, bombs, extremes, wrong times, ids that repeat, random new entities",
        "limits before and after decoding ([limits], docs/LIMITS.md), dead letters, a pause of that partition alone; "
        "a time is taken from the broker and the worker; weir_new_rows_total and weir_store_used_bytes show a flood "
        "of ids, and a store that is nearly full keeps no rows of new ones",
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
    t.CASE_EVENTS: Danger(
        "close, claim or annotate any alert in anybody's name",
        "nothing is learned from it: labels are records of their own. Give it to `weir serve` alone",
    ),
    t.DECISIONS: Danger(
        "answer for a host of tasks: tell whoever asked for a decision anything",
        "no task reads decisions; bounds are checked. Give it to workers alone",
    ),
    t.AUDIT: Danger(
        "write down what nobody did, or hide what somebody did among it",
        "each record holds the digest of the one before, and the database where a chain has come to: weir audit "
        "verify. Give it to `weir serve` alone",
    ),
    t.NOTIFICATIONS: Danger(
        "have messages sent to the targets of the settings, or hide alerts from them",
        "a target's address is in the settings alone. Give it to `weir serve` alone",
    ),
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


def page() -> str:
    """docs/SECURITY.md."""
    return "\n".join([*_HEAD, *_matrix(), "", *_writers(), *_TAIL, *_SERVICE, *_roles(), *_SERVICE_TAIL])


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


def _roles() -> Sequence[str]:
    rows = [
        [f"`{scope}`", what, *("x" if scope in scopes else "" for scopes in ROLES.values())]
        for scope, what in SCOPES.items()
    ]
    return _table(["scope", "allows to", *ROLES], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


_HEAD: Final = (
    "# Who may do what",
    "",
    "Made by `python -m docs.pages.security > docs/SECURITY.md` from `streams/checks/rights.py`; a test holds the two",
    "together. `weir acl kafka` and `weir acl redis` print the table as commands, with the names of your settings.",
    "r reads, w writes, m makes topics and changes their configuration.",
    "",
)
_TAIL: Final = (
    "",
    "A reader sees every value: events, features and scores are data of your users. Give `reader` to those who may.",
    "",
    "What no right of Kafka or Redis gives: code. Settings and task files are files of the machine; a task file holds",
    "whitelisted expressions, records hold data, snapshots numbers (`online/learners/state.py`), models are ONNX",
    "graphs. The trainer hands work to its own child by pickle, in `[trainer] work`, which only its user can enter.",
    "",
    "What is said at the start, by `weir doctor` and by `--check`: passwords in clear, certificates that are not",
    "checked, versions of Redis with known holes, a Redis that drops keys by itself or is nearly full.",
    "",
)
_SERVICE: Final = (
    "## The HTTP service",
    "",
    "Each route of `weir serve` needs one scope. A role is a set of them, of a key (`weir keys create NAME --role`) or",
    "of a group of the identity provider (`[serve.access.oidc.groups]`); a key may also have single scopes. From",
    "`streams/service/access/roles.py`:",
    "",
)
_OF_ALL_TASKS: Final = ", ".join(f"`{scope}`" for scope in sorted(OF_ALL_TASKS))
_SERVICE_TAIL: Final = (
    "",
    "A key or group may be limited to tasks. It sees alerts, models and records of those alone, and never has the",
    f"scopes that are of all tasks: {_OF_ALL_TASKS}. Events are of no task: who may send them sends them to all.",
    "Of several groups of a person the strongest role counts, for the tasks of the groups that have it.",
    "",
    "Where only this machine reaches the service and nobody is set up, a link with a token is printed; the token is",
    "in `[serve] directory`, readable by its user alone. Any other address needs users, unless `[serve.access]",
    "open`. Keys and sessions are kept as digests. A browser's session is a cookie that no script reads; its",
    "changes need a token that only our pages know. `/health`, `/ready` and `/metrics` are for everybody who",
    "reaches the port, and name no entity.",
    "",
    "Every change, every look at an alert, an entity or a refused record, every search among alerts, and every",
    "refusal of these to somebody known is in the topic `audit`, with who, what, when, from where and how it ended;",
    "what programs send is counted by the minute. Records are a chain of digests for each process;",
    "`weir audit verify` names the first that was changed, added or removed. Who may write the topic and the",
    "database, and reads no log of the service, can make a chain anew: the last digest is logged each day for that.",
    "The topic is kept for 400 days on Kafka, and without it as long as `[serve] alerts_kept` says: write",
    "`weir audit show --json` to a file before.",
    "",
)

if __name__ == "__main__":
    print(page(), end="")
