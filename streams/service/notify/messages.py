"""Messages about alerts: who is told of what happened and when, and the words for people and for programs.

Pure: time and state are arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec

from weir.online.decisions.alert_state import SEVERITIES, Severity
from weir.streams.config.notify_settings import NotifyRule
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.text import printable

What = Literal["opened", "escalated", "resolved", "judged", "reopened", "test"]
_LINES: Final = 30
"""Of a digest for people; programs get all of it."""
_TITLES: Final[dict[str, str]] = {
    "opened": "[{severity}] {task}: {entity}",
    "escalated": "[{severity}] {task}: {entity}: escalated",
    "resolved": "{task}: {entity}: resolved",
    "judged": "{task}: {entity}: {verdict}, says {by}",
    "test": "Test of weir notify: nothing has happened",
    "reopened": "{task}: {entity}: open again, {by} took a verdict back",
}


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one receiver is to be told of one alert; it never changes, so that it is the same when it is sent again."""

    id: str
    """Follows from rule, target, alert and what happened: a receiver knows a repeat by it."""
    rule: str
    target: str
    what: What
    alert_id: str
    task: str
    entity_id: str
    severity: str
    score: float
    threshold: float
    expected_loss: float
    opened_at: float
    at: float
    """When it happened, epoch seconds."""
    due: float
    """When it is to go out."""
    thread: str
    """Id of the message that told of the alert first; its own where it is that one."""
    reasons: tuple[str, ...] = ()
    by: str | None = None
    verdict: str | None = None
    gathered: bool = False
    """Whether it waits for others that go out at the same time, as one message."""
    left_out: bool = False
    """Whether it is only counted: somebody has snoozed the alert, or holds it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes out at once: one message, or a digest of several of one rule."""

    messages: tuple[Message, ...]
    since: float = 0.0
    """When it could go out first, or somebody asked for it again."""
    left_out: int = 0
    """How many more the digest would have."""

    @property
    def id(self) -> str:
        """The same for the same messages."""
        ids = [message.id for message in self.messages]
        return ids[0] if len(ids) == 1 else id_of(*ids)


def id_of(*parts: str) -> str:
    """An id that follows from ``parts``."""
    # No name holds this character, so that two lists of parts never are one text.
    return f"ntf_{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}"


def title_of(message: Message) -> str:
    """One line for people."""
    verdict = (message.verdict or "").replace("_", " ")
    who = {"entity": _shown(message.entity_id), "by": _shown(message.by or ""), "verdict": verdict}
    return _TITLES[message.what].format(task=message.task, severity=message.severity, **who)


def text_of(delivery: Delivery, base: str | None) -> tuple[str, str]:
    """Title and body for people; ``base`` is the address of the service, for links."""
    first, *others = delivery.messages
    left = [f"{delivery.left_out} more are left out: snoozed or on hold"] if delivery.left_out else []
    if others:
        lines = [title_of(message) for message in delivery.messages[:_LINES]]
        lines += [f"and {len(others) + 1 - _LINES} more"] if len(others) >= _LINES else []
        every = f"{base}/console/alerts" if base else ""
        return f"{len(others) + 1} messages of {first.rule}", "\n".join([*lines, *left, every])
    about = f"score {first.score:.3f}, threshold {first.threshold:.3f}"
    if first.thread != first.id:
        about = f"This is about the alert of {moment(first.opened_at)}, {_shown(first.alert_id)}"
    return title_of(first), "\n".join([*map(_shown, first.reasons), about, *left, link_of(first, base)])


def document_of(delivery: Delivery, base: str | None) -> dict[str, Any]:
    """The same for programs: the body of a webhook."""
    inside = {"what", "target", "due", "gathered", "left_out"}
    told: list[dict[str, Any]] = []
    for message in delivery.messages:
        facts = {name: value for name, value in msgspec.to_builtins(message).items() if name not in inside}
        told.append({"type": f"alert.{message.what}", "timestamp": moment(message.at), "data": facts})
        facts["url"] = link_of(message, base)
    if len(told) == 1:
        return told[0]
    data = {"rule": delivery.messages[0].rule, "messages": told, "left_out": delivery.left_out}
    return {"type": "alerts.digest", "timestamp": moment(delivery.messages[0].due), "data": data}


def link_of(message: Message, base: str | None) -> str:
    """Where a person looks at the alert; empty where nobody knows the service's address."""
    return f"{base}/console/alerts/{quote(message.alert_id, safe='')}" if base else ""


def moment(at: float) -> str:
    """A time as RFC 3339, UTC, whole seconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shown(text: str) -> str:
    """Text of others that mentions nobody: a user called ``<!here>`` must not wake a whole channel."""
    return printable(text, 300).replace("@", "@\u200b").replace("<", "\u2039").replace(">", "\u203a")


@dataclass(frozen=True, slots=True)
class Happening:
    """What happened to an alert."""

    what: Literal["open", "escalated", "resolved", "judged", "reopened"]
    alert: AlertRow
    """As it was then."""
    at: float
    """When, epoch seconds; event time of what the stream says."""
    case_event_id: str | None = None
    """Of what a person did."""
    by: str | None = None
    verdict: str | None = None
    hidden: bool = False
    """Whether somebody has snoozed the alert, or holds it."""
    over: bool = False
    """Whether its task has a number of alerts a day, and had them before this one."""


Told = dict[str, bool]
"""Ids of the messages about some alerts, and whether each was left out."""


def decide(happening: Happening, rules: Sequence[NotifyRule], told: Told, now: float) -> list[Message]:
    """The messages that follow from a happening; each is added to ``told``, and is never made again."""
    found = []
    for rule in rules:
        if rule.paused or (rule.tasks and happening.alert.task not in rule.tasks):
            continue
        for message in _messages(happening, rule, told, now):
            if message.id not in told:
                told[message.id] = message.left_out
                found.append(message)
    return found


def _messages(happening: Happening, rule: NotifyRule, told: Told, now: float) -> Iterator[Message]:
    a = happening.alert
    severity: Severity = SEVERITIES[a.severity]
    reasons: list[dict[str, Any]] = msgspec.json.decode(a.reasons)
    # Cut: a record holds up to 200 messages, and brokers take a MiB.
    texts = tuple(reason["text"][:300] for reason in reasons[:3])
    for target in rule.targets:
        known = [i for what in ("escalated", "opened") if (i := id_of(rule.name, target, a.alert_id, what)) in told]
        thread = next((i for i in known if not told[i]), None)
        if (what := _what(happening, rule, known, thread)) is None:
            continue
        opens, due = what in ("opened", "escalated"), due_at(rule, severity, now)
        # Opened or escalated it is told once; each verdict is news.
        own = id_of(rule.name, target, a.alert_id, what, *([] if opens else [happening.case_event_id or ""]))
        yield Message(
            own, rule.name, target, what, a.alert_id, a.task, a.entity_id, severity, a.score, a.threshold,
            a.expected_loss, a.opened_at, happening.at, due, thread or own, texts, happening.by, happening.verdict,
            due > now, happening.hidden and opens,
        )  # fmt: skip


def _what(happening: Happening, rule: NotifyRule, known: Sequence[str], thread: str | None) -> What | None:
    """What a receiver is to be told; ``None`` for nothing.

    An alert may come to match a rule later, when its score rises: it is told then, once.
    """
    opens = {"opened", "escalated"} & {*rule.states}
    if happening.what == "open" or happening.what == "escalated":
        if not _matches(happening, rule):
            return None
        if happening.what in opens:
            return "escalated"
        return "opened" if "opened" in opens and not known else None
    wanted = "resolved" if happening.what == "resolved" else "verdict"
    # Who was not told of an alert is not told how it ended, unless that is all that they want to know.
    silent = thread is None if opens else not _matches(happening, rule)
    return None if wanted not in rule.states or silent else happening.what


def _matches(happening: Happening, rule: NotifyRule) -> bool:
    alert = happening.alert
    return (
        alert.severity >= SEVERITIES.index(rule.severity)
        and alert.score >= rule.min_score
        and alert.expected_loss >= rule.min_loss
        and rule.budget != ("within" if happening.over else "over")
    )


def due_at(rule: NotifyRule, severity: Severity, now: float) -> float:
    """When a message goes out that is decided now: ``now``, the end of its digest, or the end of quiet hours."""
    if rule.urgent is not None and SEVERITIES.index(severity) >= SEVERITIES.index(rule.urgent):
        return now
    # At multiples since 1970, not so long after the first alert: whoever decides, all of a digest have one time.
    at = now if rule.digest is None else (now // rule.digest + 1) * rule.digest
    if rule.quiet is None or not _is_quiet(rule.quiet, rule.time_zone, at):
        return at
    return _end_of_quiet(rule.quiet, rule.time_zone, int(at // 60))


@lru_cache(maxsize=1024)
def _end_of_quiet(quiet: str, time_zone: str, minute: int) -> float:
    """The first minute that is not quiet. Looked for one by one, so that no change of clocks needs a rule."""
    # 50 hours, which are longer than any day, also one on which the clocks are changed.
    return next(60.0 * at for at in range(minute + 1, minute + 3000) if not _is_quiet(quiet, time_zone, 60.0 * at))


def _is_quiet(quiet: str, time_zone: str, at: float) -> bool:
    local = datetime.fromtimestamp(at, ZoneInfo(time_zone)).strftime("%H:%M")
    start, end = quiet.split("-")
    return start <= local < end if start < end else local >= start or local < end
