"""What a record makes of the row of an alert or a snooze, and when it may not: pure functions of row and record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import msgspec

from weir.online.codec.wire import Alert, CaseEvent
from weir.online.decisions.alert_state import SEVERITIES

VALUES: Final = {"confirmed": 1, "false_alarm": 0}
"""The label of each verdict; who is unsure says nothing that could be learned."""


@dataclass
class AlertRow:
    """A row of ``alerts``.

    Fields before ``version`` come from the topic ``alerts``, those from there on from ``case-events``: the two topics
    have no common order, and what a row becomes must not depend on which one was read first.
    """

    alert_id: str
    task: str
    entity_id: str
    status: str = "open"
    """As the stream says."""
    severity: int = 0
    """Its place in ``SEVERITIES``, so that "at least" is a comparison."""
    score: float = 0.0
    threshold: float = 0.0
    expected_loss: float = 0.0
    opened_at: float = 0.0
    updated_at: float = 0.0
    reasons: str = "[]"
    """JSON, as ``event_ids``."""
    reason: str = ""
    """Feature of the strongest of them; a snooze of a reason goes by it."""
    event_ids: str = "[]"
    version: int = 0
    """Of the case: how many events counted."""
    state: str = "open"
    """``status``, unless people say otherwise."""
    verdict: str | None = None
    verdict_by: str | None = None
    verdict_at: float | None = None
    generation: int = 0
    """How often the verdict changed: part of the ids of its labels."""
    reopened: str | None = None
    """The state that a person set: an undo brought it back, or somebody has escalated the alert."""
    assignee: str | None = None
    claimed_until: float | None = None
    held_until: float | None = None
    changed_by: str | None = None
    changed_at: float | None = None

    def settle(self) -> None:
        """Set the state: what a person said counts before what the stream says."""
        self.state = "resolved" if self.verdict in VALUES else self.reopened or self.status


def take_alert(row: AlertRow, alert: Alert) -> None:
    """Make ``row`` what the stream says of its alert now."""
    row.status, row.severity = alert.status, SEVERITIES.index(alert.severity)
    row.score, row.threshold = alert.score, alert.threshold
    row.expected_loss = expected_loss(alert)
    row.reason = alert.reasons[0].feature if alert.reasons else ""
    row.opened_at, row.updated_at = alert.opened_at, alert.updated_at
    row.reasons = msgspec.json.encode([reason.model_dump() for reason in alert.reasons]).decode()
    row.event_ids = msgspec.json.encode(alert.event_ids).decode()
    row.settle()


def expected_loss(alert: Alert) -> float:
    """What is lost on average where nobody looks: the score, a probability, times what is at stake.

    At stake is the amount of the event with the highest score, in the currency of the task: the alert tells it where
    ``amount`` is an input of the model, and alerts of before where their reasons name it. Of other alerts no sum is
    known, and none is made up: each step of severity counts as one (low 1, critical 4), which puts those of a task into
    an order among themselves.
    """
    named = next((reason.value for reason in alert.reasons if reason.feature == "amount"), None)
    amount = named if alert.amount is None else alert.amount
    return alert.score * (SEVERITIES.index(alert.severity) + 1 if amount is None else max(amount, 0.0))


def refusal(row: AlertRow, event: CaseEvent) -> str | None:
    """Why an event may not count; only what earlier case events made of the row matters."""
    if event.expects is not None and event.expects != row.version:
        return f"{row.changed_by or 'nobody'} has changed it: it is at version {row.version}, not {event.expects}"
    others = row.assignee not in (None, event.by) and (row.claimed_until or 0.0) > event.at
    if event.action in ("assign", "release") and others:
        return f"{row.assignee} has claimed it"
    if event.action == "undo" and row.verdict is None:
        return "it has no verdict that could be undone"
    if event.action == "escalate" and row.verdict in VALUES:
        return f"{row.verdict_by} has judged it; undo the verdict first"
    return None


def take_case_event(row: AlertRow, event: CaseEvent, before: tuple[str | None, str | None] = (None, None)) -> None:
    """Make ``row`` what a person did.

    Parameters
    ----------
    before : of an undo, the verdict that counts again (none where it was the only one), and the state before the one
        that is undone.
    """
    match event.action:
        # The same verdict again changes nothing, so that its labels have the ids that they had.
        case "verdict" if event.verdict != row.verdict:
            row.verdict, row.verdict_by, row.verdict_at = event.verdict, event.by, event.at
            row.generation += 1
        case "undo":
            if row.verdict in VALUES:
                # The stream has resolved the alert by the label, and does not open it again: the person does.
                row.reopened = before[1]
            row.verdict, row.generation = before[0], row.generation + 1
            row.verdict_by, row.verdict_at = (event.by, event.at) if before[0] else (None, None)
        case "assign":
            row.assignee, row.claimed_until = event.assignee, event.until
        case "release":
            row.assignee = row.claimed_until = None
        case "escalate":
            # Somebody else is to look at it, so that it is nobody's from now on.
            row.reopened, row.assignee, row.claimed_until = "escalated", None, None
        case "hold" | "snooze":  # the latter in records of before
            row.held_until = event.until
    row.version += 1
    row.changed_by, row.changed_at = event.by, event.at
    row.settle()


@dataclass(frozen=True, slots=True)
class SnoozeRow:
    """A row of ``snoozes``: the newest snooze of one thing.

    Parameters
    ----------
    entity_id, feature : whose alerts, or those with which strongest reason; one of the two is ``None``.
    by, at, note : who said so, when, and why.
    until : when it ends, or was ended.
    ended_by : who ended it before its time.
    """

    snooze_id: str
    task: str
    entity_id: str | None
    feature: str | None
    by: str
    at: float
    until: float
    note: str | None = None
    ended_by: str | None = None


def snooze_id(task: str, kind: Literal["entity", "reason"], of: str) -> str:
    """The name of a snooze, at most 256 characters: the same thing snoozed again has the same one."""
    return f"snooze:{task}:{kind}:{of}"


def snooze_refusal(row: SnoozeRow | None, event: CaseEvent) -> str | None:
    """Why an event may not count."""
    ended = event.action == "unsnooze" and (row is None or row.until <= event.at)
    return "it is not snoozed" if ended else None


def take_snooze(row: SnoozeRow | None, event: CaseEvent) -> SnoozeRow:
    """The row after an event that counts."""
    if row is not None and event.action == "unsnooze":
        return replace(row, until=event.at, ended_by=event.by)
    entity, until = (event.entity_id if event.snoozes == "entity" else None), event.until or event.at
    return SnoozeRow(event.alert_id, event.task, entity, event.feature, event.by, event.at, until, event.note)
