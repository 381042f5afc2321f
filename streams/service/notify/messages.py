"""One message about an alert, and its words: for people, and for programs. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec

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
