"""What stands beside a list of alerts: counts to narrow it by, and how many of it can still be looked at today."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, func, select

from weir.online.decisions.alert_state import SEVERITIES
from weir.online.decisions.threshold import DAY_S, BudgetThreshold
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
    open_ = replace(of, task=None, severity=None, state=None, verdict=None)
    cells = c.execute(select(*_COUNTED, func.count()).where(*open_.where(c, now)).group_by(*_COUNTED)).all()
    fits: dict[str, Callable[[Any], bool]] = {
        "task": lambda cell: of.task in (None, cell.task),
        "severity": lambda cell: of.severity is None or cell.severity >= SEVERITIES.index(of.severity),
        "state": lambda cell: of.state in (None, cell.state),
        "verdict": lambda cell: of.verdict in (None, cell.verdict or "none"),
    }
    found: dict[str, Counter[str]] = {name: Counter() for name in fits}
    for cell in cells:
        unfit = [name for name, fit in fits.items() if not fit(cell)]
        for name in fits:
            if unfit in ([], [name]):
                value = SEVERITIES[cell.severity] if name == "severity" else getattr(cell, name) or "none"
                found[name][value] += cell[-1]
    return {**found, "assignee": _assignees(c, of, now)}


def _assignees(c: Connection, of: AlertFilter, now: float) -> dict[str, int]:
    """Claims that run are few: those are counted, and the others are what is left."""
    where = replace(of, assignee=None).where(c, now)
    total = c.execute(select(func.count()).select_from(alerts).where(*where)).scalar_one()
    claimed = select(_A.assignee, func.count()).where(*where, _A.assignee.is_not(None), _A.claimed_until > now)
    counts: dict[str, int] = {row[0]: row[1] for row in c.execute(claimed.group_by(_A.assignee))}
    return {"": total - sum(counts.values()), **counts}


def budget_left(c: Connection, tasks: Iterable[TaskSpec], now: float) -> dict[str, int]:
    """By task with a budget, how many alerts the team can still look at: what a day allows, less what was judged."""
    judged = select(_A.task, func.count()).where(_A.verdict_at > now - DAY_S).group_by(_A.task)
    done: dict[str, int] = {row[0]: row[1] for row in c.execute(judged)}
    budgets = {task.name: task.threshold for task in tasks}
    return {
        name: max(math.ceil(budget.alerts_per_day) - done.get(name, 0), 0)
        for name, budget in budgets.items() if isinstance(budget, BudgetThreshold)
    }  # fmt: skip
