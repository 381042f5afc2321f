"""Figures over time, for charts: every few seconds for a day, every minute for two weeks, and every hour after that.

They follow from no records, so that a rebuild leaves them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from sqlalchemy import BigInteger, Connection, cast, delete, func, insert, select

from weir.streams.service.store.database import upsert
from weir.streams.service.store.tables import alerts, samples

Series = Mapping[tuple[str, str], Mapping[int, float]]
"""Values by time (epoch seconds), by task (empty for the service) and name."""
DAY_S: Final = 86_400
SAMPLED_S: Final = 10
_KEPT: Final = {SAMPLED_S: DAY_S, 60: 14 * DAY_S}
"""For how long samples of a step are kept, seconds; those of an hour as long as alerts are."""
_STEPS: Final = (SAMPLED_S, 60, 3_600)
"""Each step but the first has the means of the one before."""
_S: Final = samples.c


def add_samples(c: Connection, now: int, values: Mapping[tuple[str, str], float], kept_s: float) -> None:
    """Keep the figures of a moment, and the means of each minute and hour that is over; drop what is too old."""
    at = now // SAMPLED_S * SAMPLED_S
    rows = [{"step": SAMPLED_S, "at": at, "task": t, "name": n, "value": value} for (t, n), value in values.items()]
    upsert(c, samples, rows)
    rolled = [_roll_up(c, finer, step, now) for finer, step in pairwise(_STEPS)]
    # Once a minute, and not with each sample.
    if any(rolled):
        for step in _STEPS:
            c.execute(delete(samples).where(_S.step == step, _S.at < now - _KEPT.get(step, kept_s)))


def _roll_up(c: Connection, finer: int, step: int, now: int) -> bool:
    """Write the means of what is over and has none yet; whether there was something."""
    newest = c.execute(select(func.max(_S.at)).where(_S.step == step)).scalar()
    since, until = 0 if newest is None else newest + step, now // step * step
    if since >= until:
        return False
    slot = (_S.at // step).label("slot")
    means = select(slot, _S.task, _S.name, func.avg(_S.value).label("value"))
    means = means.where(_S.step == finer, _S.at >= since, _S.at < until).group_by(slot, _S.task, _S.name)
    rows = [{"step": step, "at": r.slot * step, "task": r.task, "name": r.name, "value": r.value}
            for r in c.execute(means)]  # fmt: skip
    if rows:
        c.execute(insert(samples), rows)
    return bool(rows)


def series_since(c: Connection, since: int, points_s: int) -> Series:
    """Every figure since a moment, as means over ``points_s`` seconds each; a point's time is where it begins."""
    # The coarsest that is fine enough: months are read as fast as an hour.
    step = max((step for step in _STEPS if step <= points_s), default=SAMPLED_S)
    slot = (_S.at // points_s).label("slot")
    means = select(slot, _S.task, _S.name, func.avg(_S.value)).where(_S.step == step, _S.at >= since)
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for at, task, name, value in c.execute(means.group_by(slot, _S.task, _S.name).order_by(slot)):
        found[task, name][at * points_s] = value
    return found


def alerts_by_day(c: Connection, tasks: Sequence[str], days: int) -> dict[str, dict[int, int]]:
    """Alerts of each task that were opened on each of its last days (UTC), by the day's beginning in epoch seconds.

    The last day is that of a task's newest alert: streams that are replayed have a time of their own.
    """
    a, found = alerts.c, dict[str, dict[int, int]]()
    day = (cast(a.opened_at, BigInteger) // DAY_S).label("day")
    for task in tasks:
        newest = c.execute(select(func.max(a.opened_at)).where(a.task == task)).scalar()
        if newest is not None:
            last = int(newest) // DAY_S
            recent = (a.task == task) & (a.opened_at >= (last - days + 1) * DAY_S)
            counted = c.execute(select(day, func.count()).where(recent).group_by(day))
            counts: dict[int, int] = dict(counted.all())
            found[task] = {at * DAY_S: counts.get(at, 0) for at in range(last - days + 1, last + 1)}
    return found
