"""Takes samples of the service and its tasks: by the one process that writes the database, every ten seconds.

They are kept for charts: every few seconds for a day, every minute for two weeks, and every hour after that. They
follow from no records, so that a rebuild leaves them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from sqlalchemy import BigInteger, Connection, cast, delete, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from weir.online.codec.decision_blocks import decode_decisions
from weir.streams.config import topics
from weir.streams.errors import WeirError, in_words
from weir.streams.ops.instruments import Histogram
from weir.streams.service.parts import Part, ended
from weir.streams.service.ports import every_record
from weir.streams.service.store.tables import alerts, samples, upsert

if TYPE_CHECKING:
    from weir.streams.service.service import Service

log = logging.getLogger(__name__)
_SELDOM: Final = 6
"""What asks much of the brokers is measured with every so-manieth sample."""
MAIN: Final = ("average_precision", "roc_auc", "brier")
"""Metrics of a task that are kept over time: those between 0 and 1 that no threshold changes."""
_RATES: Final = {
    "events/s": (topics.USER_EVENTS, topics.DEVICE_EVENTS),
    "decisions/s": (topics.PREDICTIONS,),
    "labels/s": (topics.LABELS,),
    "dead letters/s": (topics.DEAD_LETTERS,),
}
_BLOCKS: Final = 50
"""Newest blocks of decisions of each partition in which the thresholds in force are looked for."""


class Sampling(Part):
    """A part of the service; see the module."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._running: asyncio.Task[None] | None = None
        self._before: tuple[float, dict[str, int]] | None = None
        self._latencies: Sequence[int] = ()
        self._taken = 0

    async def start(self) -> None:
        """Take the first sample after one interval: rates are of the time between two."""
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Take no more."""
        await ended(self._running)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SAMPLED_S)
            try:
                await self.take(time.time())
            except (WeirError, SQLAlchemyError, OSError) as error:  # what is away is told by /ready
                log.debug("no sample: %s", in_words(error))

    async def take(self, now: float) -> None:
        """Measure, and keep what was found; nothing where another process does."""
        store = self._service.store
        if not store.projector.leads:
            # Else the first rate after a change of the writer would be of all the time of the other one.
            self._before = None
            return
        values = {("", name): value for name, value in (await self._rates(now) | self._latency()).items()}
        if self._taken % _SELDOM == 0 and (lag := await self._service.serving.lag()) is not None:
            values["", "lag"] = float(lag)
        for task in self._service.tasks:
            found = (await self._service.serving.metrics(task.name))["rolling"]
            values |= {(task.name, name): found[name] for name in MAIN if name in found}
        values |= {(task, "threshold"): value for task, value in (await self._thresholds()).items()}
        self._taken += 1
        await store.cases.ask(add_samples, int(now), values, self._service.settings.serve.alerts_kept)

    async def _rates(self, now: float) -> dict[str, float]:
        """Records a second since the last sample, by how far the topics have grown."""
        ends = {}
        for name, of in _RATES.items():
            spans = [span for topic in of for span in (await self._service.log.spans(topic)).values()]
            ends[name] = sum(span.end for span in spans)
        before, self._before = self._before, (now, ends)
        # A clock that was set back gives no rate.
        if before is None or now <= before[0]:
            return {}
        # A topic that was made anew ends earlier than before: nothing, and not less than nothing.
        return {name: max(ends[name] - before[1][name], 0) / (now - before[0]) for name in ends}

    def _latency(self) -> dict[str, float]:
        """Median and 99 % of the decisions that were answered since the last sample, in milliseconds."""
        held = [h for h in self._service.metrics.children("weir_decision_seconds").values() if isinstance(h, Histogram)]
        if not held:
            return {}
        counts = np.sum([histogram.counts for histogram in held], axis=0)
        fresh = counts - (self._latencies if len(self._latencies) else 0)
        self._latencies = counts
        if not fresh.any():
            return {}
        # Taken as even within a bucket, and as the last bound beyond it.
        up_to, bounds = np.append(0, fresh.cumsum()), (0.0, *held[0].bounds, held[0].bounds[-1])
        return {f"p{p} ms": float(np.interp(p / 100 * up_to[-1], up_to, bounds)) * 1e3 for p in (50, 99)}

    async def _thresholds(self) -> dict[str, float]:
        """What each task's newest decision was held against."""
        newest: dict[str, tuple[float, float]] = {}
        async for placed in every_record(self._service.log, topics.DECISIONS, newest=_BLOCKS):
            with suppress(ValueError):  # somebody else writes to the topic: nothing of it counts
                block = decode_decisions(placed.record.value)
                newest[block.task] = max(
                    newest.get(block.task, (0.0, 0.0)), (block.made_at, float(block.batch.threshold[-1]))
                )
        return {task: threshold for task, (_, threshold) in newest.items() if np.isfinite(threshold)}


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
