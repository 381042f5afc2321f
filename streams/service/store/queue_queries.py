"""What stands beside a list of alerts: counts to narrow it by, and how many of it can still be looked at today."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, func, literal, select

from weir.online.decisions.alert_cap import DAY_S
from weir.online.decisions.alert_state import SEVERITIES
from weir.online.decisions.threshold_policy import BudgetThreshold
from weir.online.task.spec import TaskSpec
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.tables import alerts

_A: Final = alerts.c
_COUNTED: Final = (_A.task, _A.severity, _A.state, _A.verdict)
Facets = dict[str, dict[str, int]]


def facets_of(c: Connection, of: AlertFilter, now: float) -> Facets:
    """How many alerts there are of each task, severity, state, verdict and assignee.

    Each is counted under all filters but its own, so that it says what another choice would show. ``none`` are alerts
    without a verdict, the empty assignee those of nobody.
    """
    where = replace(of, task=None, severity=None, state=None, verdict=None, assignee=None).where(c, now)
    # Two queries: in one, the claims that run would have to be told from all that ever were, by sorting every row.
    free = select(*_COUNTED, literal("").label("assignee"), func.count())
    free = free.where(*where, func.coalesce(_A.claimed_until, 0.0) <= now).group_by(*_COUNTED)
    held = select(*_COUNTED, _A.assignee, func.count()).where(*where, _A.claimed_until > now)
    cells = [*c.execute(free), *c.execute(held.group_by(*_COUNTED, _A.assignee))]
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
                found[name][_shown(name, getattr(cell, name))] += cell[-1]
    return {name: dict(counts) for name, counts in found.items()}


def _shown(name: str, value: Any) -> str:
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
