"""What a record makes of a snooze: a person wants no alerts of an entity, or for a reason, for a while."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from weir.online.codec.wire import CaseEvent


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
