"""Figures over time, for charts: every few seconds, after a day every minute, after two weeks every hour.

They follow from no records, so that a rebuild leaves them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from sqlalchemy import BigInteger, Connection, cast, delete, func, insert, select

from weir.streams.service.store.tables import alerts, samples

Series = Mapping[tuple[str, str], Mapping[int, float]]
"""Values by time (epoch seconds), by task (empty for the service) and name."""
DAY_S: Final = 86_400
_THINNED: Final = ((DAY_S, 60), (14 * DAY_S, 3_600))
"""What is older than the first, in seconds, has one value for each of the second."""
_S: Final = samples.c


def add_samples(c: Connection, at: int, values: Mapping[tuple[str, str], float]) -> None:
    """Keep the figures of a moment; what was kept of it before is replaced."""
    c.execute(delete(samples).where(_S.at == at))
    rows = [{"at": at, "task": task, "name": name, "value": value} for (task, name), value in values.items()]
    if rows:
        c.execute(insert(samples), rows)


def thin_samples(c: Connection, now: int, kept_s: float) -> None:
    """Make what is old coarser by means, an hour of samples at a time, and drop what is older than ``kept_s``."""
    c.execute(delete(samples).where(_S.at < now - kept_s))
    for age_s, step_s in _THINNED:
        slot = _S.at // step_s
        # Whole hours only: the present one of either kind would be thinned again and again.
        old = _S.at < (now - age_s) // 3_600 * 3_600
        crowded = select(_S.at // 3_600).where(old).group_by(_S.at // 3_600, _S.task, _S.name, slot)
        for hour in sorted(set(c.execute(crowded.having(func.count() > 1)).scalars())):
            within = _S.at // 3_600 == hour
            means = select(func.min(_S.at).label("at"), _S.task, _S.name, func.avg(_S.value).label("value"))
            rows = [dict(row) for row in c.execute(means.where(within).group_by(_S.task, _S.name, slot)).mappings()]
            c.execute(delete(samples).where(within))
            c.execute(insert(samples), rows)


def series_since(c: Connection, since: int, step_s: int) -> Series:
    """Every figure since a moment, as means over steps; a step's time is where it begins."""
    slot = (_S.at // step_s).label("slot")
    means = select(slot, _S.task, _S.name, func.avg(_S.value)).where(_S.at >= since)
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for at, task, name, value in c.execute(means.group_by(slot, _S.task, _S.name).order_by(slot)):
        found[task, name][at * step_s] = value
    return found


def alerts_by_day(c: Connection, days: int) -> dict[str, dict[int, int]]:
    """Alerts of each task that were opened on each of its last days (UTC), by the day's beginning in epoch seconds.

    The last day is that of a task's newest alert: streams that are replayed have a time of their own.
    """
    day = (cast(alerts.c.opened_at, BigInteger) // DAY_S).label("day")
    newest = select(alerts.c.task, func.max(alerts.c.opened_at).label("at")).group_by(alerts.c.task).subquery()
    counts = select(alerts.c.task, day, func.count()).join(newest, newest.c.task == alerts.c.task)
    counts = counts.where(alerts.c.opened_at > newest.c.at - days * DAY_S).group_by(alerts.c.task, day)
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for task, at, count in c.execute(counts):
        found[task][at * DAY_S] = count
    return {task: _whole(held, days) for task, held in found.items()}


def _whole(held: Mapping[int, int], days: int) -> dict[int, int]:
    """With the days that had none."""
    last = max(held)
    return {at: held.get(at, 0) for at in range(last - (days - 1) * DAY_S, last + 1, DAY_S)}
