"""Asks the tables: lists of alerts, one alert with its history."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, Select, exists, func, or_, select, tuple_

from weir.online.decisions.alert_state import SEVERITIES, Severity
from weir.streams.service.problems import Problem
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.store.tables import SORTS, alert_changes, alert_events, alerts, happenings, verdicts

Sort = Literal["newest", "score", "severity", "expected_loss"]
COUNTED: Final = 10_000
"""A list says how many alerts there are up to this number."""
SEARCHED: Final = 10_000
"""Reasons are searched in so many of the newest alerts; ids, in all of them."""
_SHOWN_CHANGES: Final = 1_000
_A: Final = alerts.c


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts a list has; ``None`` leaves a thing open."""

    tasks: frozenset[str] | None = None
    """What the caller may see."""
    task: str | None = None
    state: str | None = None
    severity: Severity | None = None
    """At least."""
    entity: str | None = None
    assignee: str | None = None
    """Empty for alerts of nobody."""
    since: float | None = None
    until: float | None = None
    min_score: float | None = None
    verdict: str | None = None
    """``none`` for those without one."""
    q: str | None = None
    """An id, whole, or a part of a reason or of an entity's id."""

    def conditions(self, now: float) -> list[ColumnElement[bool]]:
        """The same for the database; a claim counts until it ends."""
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
        return found


@dataclass(frozen=True, slots=True)
class AlertPage:
    """A part of a list."""

    rows: list[AlertRow]
    next: str | None
    """Where the next one begins; ``None`` at the end."""
    total: int | None
    """Of the whole list, at most ``COUNTED``; told with its first page only."""


def list_alerts(c: Connection, of: AlertFilter, sort: Sort, cursor: str | None, limit: int, now: float) -> AlertPage:
    """A page of a list, the largest first.

    It begins after the last row of the page before, not at a number: alerts that come meanwhile move nothing. Raises
    ``Problem`` (422) for a cursor that is none of this list's.
    """
    where = of.conditions(now)
    if of.q:
        where.append(_matching(c, of.q))
    columns = [_A[name] for name in (*SORTS[sort], "alert_id")]
    order = [column.desc() for column in columns]
    page: Select[Any] = select(alerts).where(*where).order_by(*order).limit(limit + 1)
    if cursor is not None:
        page = page.where(tuple_(*columns) < tuple_(*_place(cursor, sort)))
    rows = [AlertRow(**cast(Mapping[str, Any], row)) for row in c.execute(page).mappings()]
    total = len(rows) if cursor is None else None
    if cursor is None and len(rows) > limit:
        # In the same order, so that the database takes the same index as for the page.
        some = select(_A.alert_id).where(*where).order_by(*order).limit(COUNTED).subquery()
        total = c.execute(select(func.count()).select_from(some)).scalar_one()
    more = _cursor(rows[limit - 1], sort) if len(rows) > limit else None
    return AlertPage(rows[:limit], more, total)


def _matching(c: Connection, q: str) -> ColumnElement[bool]:
    """A search that never reads the whole table: ids are looked up; only where there is no such id, texts are read."""
    listed = select(alert_events.c.alert_id).where(alert_events.c.event_id == q)
    ids = or_(_A.alert_id == q, _A.entity_id == q, _A.alert_id.in_(listed))
    if c.execute(select(exists().where(ids))).scalar_one():
        return ids
    oldest = select(_A.opened_at).order_by(_A.opened_at.desc(), _A.alert_id.desc()).offset(SEARCHED - 1).limit(1)
    since = c.execute(oldest).scalar()
    found = or_(*(func.lower(column).contains(q.lower(), autoescape=True) for column in (_A.entity_id, _A.reasons)))
    return found if since is None else (_A.opened_at >= since) & found


def _cursor(row: AlertRow, sort: Sort) -> str:
    values = [sort, *(vars(row)[name] for name in SORTS[sort]), row.alert_id]
    return base64.urlsafe_b64encode(msgspec.json.encode(values)).decode().rstrip("=")


def _place(cursor: str, sort: Sort) -> list[float | str]:
    numbers = len(SORTS[sort])
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        found = msgspec.json.decode(text, type=list[float | str])
        if found[0] == sort and [type(value) is str for value in found[1:]] == [False] * numbers + [True]:
            return found[1:]
    except (binascii.Error, ValueError, IndexError):
        pass
    raise Problem(
        422, "Not valid", f"cursor: none of a list sorted by {sort}; take `next` of the page before, or leave it out",
        parameter="cursor", value=cursor,
    )  # fmt: skip


def find_rows(c: Connection, ids: list[str], tasks: frozenset[str] | None) -> dict[str, AlertRow]:
    """Rows by id; those that the caller may not see are as if they were not there."""
    found = (AlertRow(**row) for row in _mappings(c, select(alerts).where(_A.alert_id.in_(ids))))
    return {row.alert_id: row for row in found if tasks is None or row.task in tasks}


def history_of(c: Connection, alert_id: str) -> dict[str, list[dict[str, Any]]]:
    """What happened to an alert, the newest first, and its verdicts with when they were learned."""
    h, v = alert_changes.c, verdicts.c
    changes = select(h.at, h.kind, h.by, h.refused, h.details).where(h.alert_id == alert_id)
    changes = changes.order_by(h.at.desc(), h.topic.desc(), h.offset.desc()).limit(_SHOWN_CHANGES)
    chosen = [column for column in verdicts.c if column.name not in ("alert_id", "offset", "state", "examples_before")]
    judged = select(*chosen).where(v.alert_id == alert_id).order_by(v.offset.desc())
    return {
        "history": [{**row, "details": msgspec.Raw(row["details"].encode())} for row in _mappings(c, changes)],
        "verdicts": [dict(row) for row in _mappings(c, judged)],
    }


def standing_values(c: Connection, alert_id: str) -> list[str]:
    """Verdicts of an alert that were not undone, the newest first."""
    v = verdicts.c
    standing = select(v.verdict).where(v.alert_id == alert_id, v.undone_at.is_(None)).order_by(v.offset.desc())
    return list(c.execute(standing).scalars())


def outcomes_of(c: Connection, case_event_ids: list[str]) -> dict[str, str | None]:
    """Of case events that are in the tables, why each did not count; ``None`` where it did."""
    h = alert_changes.c
    found = c.execute(select(h.case_event_id, h.refused).where(h.case_event_id.in_(case_event_ids)))
    return {row.case_event_id: row.refused for row in found}


def _mappings(c: Connection, query: Select[Any]) -> list[RowMapping]:
    return list(c.execute(query).mappings())


def shown(row: AlertRow, now: float) -> dict[str, Any]:
    """An alert as the API shows it."""
    facts = vars(row) | {"severity": SEVERITIES[row.severity]}
    facts |= {name: msgspec.Raw(facts[name].encode()) for name in ("reasons", "event_ids")}
    if row.claimed_until is not None and row.claimed_until <= now:
        facts |= {"assignee": None, "claimed_until": None}
    return {name: value for name, value in facts.items() if name not in ("generation", "reopened")}


def happenings_of(c: Connection, tasks: frozenset[str] | None, task: str | None, limit: int) -> list[dict[str, Any]]:
    """Model updates and retrain requests that a caller may see, the newest first."""
    h = happenings.c
    query = select(h.topic, h.task, h.at, h.record).order_by(h.at.desc(), h.topic, h.offset.desc()).limit(limit)
    query = query if tasks is None else query.where(h.task.in_(sorted(tasks)))
    query = query if task is None else query.where(h.task == task)
    return [{**row, "record": msgspec.Raw(row["record"].encode())} for row in _mappings(c, query)]
