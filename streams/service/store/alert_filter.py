"""Which alerts a list has, as conditions of the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import ColumnElement, Connection, exists, false, func, or_, select

from weir.online.decisions.alert_state import SEVERITIES, Severity
from weir.streams.service.store.tables import UNRESOLVED, alert_events, alerts, snoozes

SEARCHED: Final = 10_000
"""Reasons are searched in so many of the newest alerts; ids, in all of them."""
Aside = Literal["include", "only", "exclude"]
"""What a list does with alerts that somebody has put aside."""
_A: Final = alerts.c


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts a list has; ``None`` leaves a thing open.

    Parameters
    ----------
    tasks : what the caller may see.
    severity : at least.
    assignee : empty for alerts of nobody.
    since, until : when it was opened, epoch seconds; the latter is not included.
    verdict : ``none`` for those without one.
    q : an id, whole, or a part of a reason or of an entity's id.
    waits_for : a person: alerts that are not resolved, and that nobody else has claimed. That is the queue.
    held : alerts on hold.
    snoozed : alerts whose entity or strongest reason is snoozed.
    """

    tasks: frozenset[str] | None = None
    task: str | None = None
    state: str | None = None
    severity: Severity | None = None
    entity: str | None = None
    assignee: str | None = None
    since: float | None = None
    until: float | None = None
    min_score: float | None = None
    verdict: str | None = None
    q: str | None = None
    waits_for: str | None = None
    held: Aside = "include"
    snoozed: Aside = "include"

    def _of_columns(self, now: float) -> list[ColumnElement[bool]]:
        """What the columns of ``alerts`` alone can tell; a claim counts until it ends."""
        equal = {_A.task: self.task, _A.state: self.state, _A.entity_id: self.entity}
        found: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value is not None]
        if self.tasks is not None:
            found.append(_A.task.in_(sorted(self.tasks)))
        if self.severity is not None:
            found.append(_A.severity >= SEVERITIES.index(self.severity))
        if self.assignee:
            found += [_A.assignee == self.assignee, or_(_A.claimed_until.is_(None), _A.claimed_until > now)]
        elif self.assignee is not None:
            found.append(or_(_A.assignee.is_(None), _A.claimed_until <= now))
        if self.verdict is not None:
            found.append(_A.verdict.is_(None) if self.verdict == "none" else _A.verdict == self.verdict)
        found += [_A.opened_at >= self.since] if self.since is not None else []
        found += [_A.opened_at < self.until] if self.until is not None else []
        found += [_A.score >= self.min_score] if self.min_score is not None else []
        if self.waits_for is not None:
            nobody_elses = or_(_A.assignee.is_(None), _A.assignee == self.waits_for, _A.claimed_until <= now)
            found += [UNRESOLVED, nobody_elses]
        return found + _aside(self.held, func.coalesce(_A.held_until, 0.0) > now)

    def where(self, c: Connection, now: float) -> list[ColumnElement[bool]]:
        """All of it as conditions of the database, at ``now`` (epoch seconds)."""
        found = [*self._of_columns(now), *([_matching(c, self.q)] if self.q else [])]
        if self.snoozed == "include":
            return found
        # To look for the snoozes of every alert is most of the time that a count takes; mostly there are none at all.
        running = c.execute(select(exists().where(snoozes.c.until > now))).scalar_one()
        return found + _aside(self.snoozed, _is_snoozed(now) if running else false())


def _aside(what: Aside, is_so: ColumnElement[bool]) -> list[ColumnElement[bool]]:
    return {"include": [], "only": [is_so], "exclude": [~is_so]}[what]


def _is_snoozed(now: float) -> ColumnElement[bool]:
    s = snoozes.c
    matches = or_(s.entity_id == _A.entity_id, s.feature == _A.reason)
    return exists().where(s.task == _A.task, s.until > now, matches)


def _matching(c: Connection, q: str) -> ColumnElement[bool]:
    """A search that never reads the whole table: ids are looked up; only where there is no such id, texts are read."""
    listed = select(alert_events.c.alert_id).where(alert_events.c.event_id == q)
    ids = or_(_A.alert_id == q, _A.entity_id == q, _A.alert_id.in_(listed))
    if c.execute(select(exists().where(ids))).scalar_one():
        return ids
    oldest = select(_A.opened_at).order_by(_A.opened_at.desc(), _A.alert_id.desc()).offset(SEARCHED - 1).limit(1)
    since = c.execute(oldest).scalar()
    # As the databases lower a text: SQLite, and PostgreSQL by bytes, know the letters of ASCII alone.
    part = q.encode().lower().decode()
    found = or_(*(func.lower(column).contains(part, autoescape=True) for column in (_A.entity_id, _A.reasons)))
    return found if since is None else (_A.opened_at >= since) & found
