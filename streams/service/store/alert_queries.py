"""Asks the tables: lists of alerts, one alert with its history, and what stands beside them."""

from __future__ import annotations

import base64
import binascii
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, cast

import msgspec
from sqlalchemy import Connection, Select, func, literal, or_, select, tuple_

from weir.online.decisions.alert_cap import DAY_S
from weir.online.decisions.alert_state import SEVERITIES
from weir.online.decisions.threshold_policy import BudgetThreshold
from weir.online.task.spec import TaskSpec
from weir.streams.service.parts import Problem
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.store.tables import SORTS, alert_changes, alerts, examples, happenings, verdicts

Sort = Literal["newest", "score", "severity", "expected_loss"]
COUNTED: Final = 10_000
"""A list says how many alerts there are up to this number."""
_SHOWN_CHANGES: Final = 1_000
_A: Final = alerts.c


@dataclass(frozen=True, slots=True)
class ListPart:
    """A part of a list."""

    rows: list[AlertRow]
    next: str | None
    """Where the next one begins; ``None`` at the end."""
    total: int | None
    """Of the whole list, at most ``COUNTED``; told with its first page only."""


def list_alerts(c: Connection, of: AlertFilter, sort: Sort, cursor: str | None, limit: int, now: float) -> ListPart:
    """A page of a list, the largest first.

    It begins after the last row of the page before, not at a number: alerts that come meanwhile move nothing. Raises
    ``Problem`` (422) for a cursor that is none of this list's.
    """
    where = of.where(c, now)
    columns = [_A[name] for name in (*SORTS[sort], "alert_id")]
    order = [column.desc() for column in columns]
    # One more than is shown: whether there is a next page is known without a count.
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
    return ListPart(rows[:limit], more, total)


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


def find_rows(c: Connection, ids: Collection[str], tasks: frozenset[str] | None = None) -> dict[str, AlertRow]:
    """Rows by id; those that the caller may not see are as if they were not there."""
    found = (AlertRow(**row) for row in c.execute(select(alerts).where(_A.alert_id.in_(ids))).mappings())
    return {row.alert_id: row for row in found if tasks is None or row.task in tasks}


def history_of(c: Connection, alert_id: str) -> dict[str, list[dict[str, Any]]]:
    """What happened to an alert, the newest first, and its verdicts with when they were learned."""
    h, v = alert_changes.c, verdicts.c
    changes = select(h.at, h.kind, h.by, h.refused, h.details).where(h.alert_id == alert_id)
    changes = changes.order_by(h.at.desc(), h.topic.desc(), h.offset.desc()).limit(_SHOWN_CHANGES)
    chosen = [column for column in verdicts.c if column.name not in ("alert_id", "offset", "state", "examples_before")]
    judged = select(*chosen).where(v.alert_id == alert_id).order_by(v.offset.desc())
    return {
        "history": [{**row, "details": msgspec.Raw(row["details"].encode())} for row in c.execute(changes).mappings()],
        "verdicts": [dict(row) for row in c.execute(judged).mappings()],
    }


def standing_values(c: Connection, alert_ids: Sequence[str]) -> dict[str, list[str]]:
    """By alert, its verdicts that were not undone, the newest first; alerts without one are absent."""
    v, found = verdicts.c, dict[str, list[str]]()
    standing = select(v.alert_id, v.verdict).where(v.alert_id.in_(alert_ids), v.undone_at.is_(None))
    for row in c.execute(standing.order_by(v.alert_id, v.offset.desc())):
        found.setdefault(row.alert_id, []).append(row.verdict)
    return found


def outcomes_of(c: Connection, case_event_ids: list[str]) -> dict[str, str | None]:
    """Of case events that are in the tables, why each did not count; ``None`` where it did."""
    h = alert_changes.c
    found = c.execute(select(h.case_event_id, h.refused).where(h.case_event_id.in_(case_event_ids)))
    return {row.case_event_id: row.refused for row in found}


def shown(row: AlertRow, now: float) -> dict[str, Any]:
    """An alert as the API shows it."""
    facts = vars(row) | {"severity": SEVERITIES[row.severity]}
    facts |= {name: msgspec.Raw(facts[name].encode()) for name in ("reasons", "event_ids")}
    if row.claimed_until is not None and row.claimed_until <= now:
        facts |= {"assignee": None, "claimed_until": None}
    return {name: value for name, value in facts.items() if name not in ("generation", "reopened")}


def happenings_of(
    c: Connection, tasks: frozenset[str] | None, task: str | None, limit: int, topic: str | None = None
) -> list[dict[str, Any]]:
    """Model updates, retrain requests and what takes examples back that a caller may see, the newest first."""
    h = happenings.c
    query = select(h.topic, h.task, h.at, h.record).order_by(h.at.desc(), h.topic, h.offset.desc()).limit(limit)
    query = query if tasks is None else query.where(h.task.in_(sorted(tasks)))
    query = query if task is None else query.where(h.task == task)
    query = query if topic is None else query.where(h.topic == topic)
    return [{**row, "record": msgspec.Raw(row["record"].encode())} for row in c.execute(query).mappings()]


def examples_learned(c: Connection) -> dict[str, int | None]:
    """How many examples the online model of each task has learned: its version; ``None`` where that is not known."""
    return {row.task: row.version for row in c.execute(select(examples))}


_FACETS: Final = (_A.task, _A.severity, _A.state, _A.verdict)
Facets = dict[str, dict[str, int]]


def facets_of(c: Connection, of: AlertFilter, now: float) -> Facets:
    """How many alerts there are of each task, severity, state, verdict and assignee.

    Each is counted under all filters but its own, so that it says what another choice would show. ``none`` are alerts
    without a verdict, the empty assignee those of nobody.
    """
    where = replace(of, task=None, severity=None, state=None, verdict=None, assignee=None).where(c, now)
    # Two queries: in one, the claims that run would have to be told from all that ever were, by sorting every row.
    free = select(*_FACETS, literal("").label("assignee"), func.count())
    free = free.where(*where, func.coalesce(_A.claimed_until, 0.0) <= now).group_by(*_FACETS)
    held = select(*_FACETS, _A.assignee, func.count()).where(*where, _A.claimed_until > now)
    cells = [*c.execute(free), *c.execute(held.group_by(*_FACETS, _A.assignee))]
    fits: dict[str, Callable[[Any], bool]] = {
        "task": lambda cell: of.task in (None, cell.task),
        "severity": lambda cell: of.severity is None or cell.severity >= SEVERITIES.index(of.severity),
        "state": lambda cell: of.state in (None, cell.state),
        "verdict": lambda cell: of.verdict in (None, cell.verdict or "none"),
        "assignee": lambda cell: of.assignee in (None, cell.assignee),
    }
    found: dict[str, Counter[str]] = {name: Counter() for name in fits}
    for cell in cells:
        unfit = [name for name, fit in fits.items() if not fit(cell)]
        for name in fits:
            if unfit in ([], [name]):
                found[name][_facet(name, getattr(cell, name))] += cell[-1]
    return {name: dict(counts) for name, counts in found.items()}


def _facet(name: str, value: Any) -> str:
    if name == "severity":
        return str(SEVERITIES[value])
    return "none" if value is None else str(value)


def budget_left(c: Connection, tasks: Iterable[TaskSpec], now: float) -> dict[str, int]:
    """By task with a budget, how many alerts the team can still look at: what a day allows, less what was judged."""
    judged = select(_A.task, func.count()).where(_A.verdict_at > now - DAY_S).group_by(_A.task)
    done: dict[str, int] = {row[0]: row[1] for row in c.execute(judged)}
    budgets = {task.name: task.threshold for task in tasks}
    return {
        name: max(math.ceil(budget.most_a_day) - done.get(name, 0), 0)
        for name, budget in budgets.items() if isinstance(budget, BudgetThreshold)
    }  # fmt: skip


SIMILAR: Final = 200
"""Similar alerts that are counted, the newest: what is long ago tells little of today."""
_SHOWN_SIMILAR: Final = 8


class _Status(msgspec.Struct):
    score: float


def scored_at(c: Connection, alert_id: str, score: float) -> float | None:
    """When the stream first said that an alert has this score, epoch seconds; ``None`` where that is not kept."""
    h = alert_changes.c
    changes = select(h.at, h.details).where(h.alert_id == alert_id, h.kind == "status").order_by(h.at)
    said = ((row.at, msgspec.json.decode(row.details, type=_Status).score) for row in c.execute(changes))
    # The very same float: the row has it from one of these records.
    return next((at for at, found in said if found == score), None)


class SimilarAlerts(NamedTuple):
    """Alerts like one, and how they ended."""

    total: int
    confirmed: int
    false_alarms: int
    unjudged: int
    """Nobody has judged them, or who did was unsure."""
    rows: list[AlertRow]
    """The newest of them."""


def similar_alerts(c: Connection, row: AlertRow) -> SimilarAlerts:
    """Other alerts of the same task, of the same entity or with the same strongest reason."""
    a = alerts.c
    alike = or_(a.entity_id == row.entity_id, a.reason == row.reason) if row.reason else a.entity_id == row.entity_id
    found = select(alerts).where(a.task == row.task, alike, a.alert_id != row.alert_id)
    newest = c.execute(found.order_by(a.opened_at.desc(), a.alert_id.desc()).limit(SIMILAR)).mappings()
    rows = [AlertRow(**one) for one in newest]
    confirmed, false_alarms = (sum(one.verdict == said for one in rows) for said in ("confirmed", "false_alarm"))
    return SimilarAlerts(
        len(rows), confirmed, false_alarms, len(rows) - confirmed - false_alarms, rows[:_SHOWN_SIMILAR]
    )
