"""How long a worker remembers: ids of events for dedupe, and predictions that wait for labels.

Each shares one budget of memory out among the partitions, measures what that makes of the time that the policy asks
for, and warns where it is too short.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from weir.online.durations import format_duration
from weir.online.labels.join import LabelJoiner
from weir.streams.ops.metrics import Metrics

if TYPE_CHECKING:
    from weir.streams.worker.scoring.event_partition import ScoreLane


log = logging.getLogger(__name__)

IDS_WARN_EVERY_S: Final = 600.0
LEAST: Final = 1 << 20
"""Bytes of one partition, however many there are."""


def share_of(dedupe_bytes: int, reserved: int, lanes: int) -> int:
    """What the ids of one score lane may take, where other lanes have ``reserved`` some of the memory.

    >>> share_of(1 << 30, 1 << 28, 24)
    33554432
    """
    return max((dedupe_bytes - reserved) // max(lanes, 1), LEAST)


class IdMemory:
    """Tells for how long ids are remembered: as long as the policy says, or less where memory is short.

    Parameters
    ----------
    dedupe_bytes : the memory.
    metrics : where gauges go.
    """

    def __init__(self, dedupe_bytes: int, metrics: Metrics) -> None:
        self._dedupe_bytes, self._metrics = dedupe_bytes, metrics
        self._warned_at: dict[str, float] = {}

    def look(self, lanes: Sequence[ScoreLane], reserved: int) -> None:
        """Share out, measure and warn; every few seconds."""
        share = share_of(self._dedupe_bytes, reserved, len(lanes))
        by_topic: dict[str, list[ScoreLane]] = {}
        for lane in lanes:
            # At each look: partitions come and go, and the shares of those that stay change with them.
            lane.intake.limit(share)
            by_topic.setdefault(lane.lane[0], []).append(lane)
        for topic, of in by_topic.items():
            # The worst partition is told, as repeats there count again; a mean would hide it.
            shortest = min(of, key=lambda lane: lane.intake.window_s)
            self._metrics.set("weir_dedupe_window_seconds", shortest.intake.window_s, topic=topic)
            self._warn(topic, shortest)

    def _warn(self, topic: str, lane: ScoreLane) -> None:
        intake, now = lane.intake, time.monotonic()
        wanted_s = intake.policy.dedupe_window
        if intake.window_s >= wanted_s or now - self._warned_at.get(topic, -IDS_WARN_EVERY_S) < IDS_WARN_EVERY_S:
            return
        self._warned_at[topic] = now
        log.warning(
            "%s: event ids are remembered for %s, not %s (dedupe_window): %d ids, about %.3g a second, fill the %d MB "
            "that a partition has of [worker] dedupe_bytes = %d; a repeat that comes later counts again. Make it more, "
            "start more workers, or make dedupe_window less",
            lane.name, format_duration(round(intake.window_s)), format_duration(wanted_s), len(intake.ids),
            len(intake.ids) / max(intake.window_s, 1.0), intake.ids.most_bytes >> 20, self._dedupe_bytes,
        )  # fmt: skip


WARN_EVERY_S: Final = 60.0
_CACHE_SHARE: Final = 4
"""One part in so many of the memory holds logged rows that could be read back; the rest what waits."""

Joiners = Mapping[str, Sequence[LabelJoiner]]
"""By task, one of each lane."""


class Horizon:
    """Shares the memory for labels out among the joins of a worker, and tells what that makes of ``keep_s``.

    Every join may keep the newest logged rows in an equal share of a quarter. Of predictions that wait, which no lane
    has more of than memory allows to all, the oldest leave; lanes with fewer are not touched.

    Parameters
    ----------
    label_bytes : the memory.
    metrics : where gauges and counts go.
    now : seconds of a clock that does not jump.
    """

    def __init__(self, label_bytes: int, metrics: Metrics, now: Callable[[], float] = time.monotonic) -> None:
        self._label_bytes, self._metrics, self._now = label_bytes, metrics, now
        self._warned_at: dict[str, float] = {}

    def look(self, joiners: Joiners) -> None:
        """Share out, measure and warn; every few seconds."""
        every = [joiner for of in joiners.values() for joiner in of]
        if not every:
            return
        cache = self._label_bytes // _CACHE_SHARE
        cap = most_rows([(len(j), j.row_bytes) for j in every], self._label_bytes - cache)
        for joiner in every:
            joiner.cache_bytes, joiner.cap = cache // len(every), cap
        for task, of in joiners.items():
            if of:
                self._tell(task, of)

    def _tell(self, task: str, joiners: Sequence[LabelJoiner]) -> None:
        m, horizon_s = self._metrics, min(j.horizon_s for j in joiners)
        m.set("weir_waiting_predictions", sum(map(len, joiners)), task=task)
        m.set("weir_waiting_labels", sum(j.waiting for j in joiners), task=task)
        m.set("weir_label_bytes", sum(j.nbytes for j in joiners), task=task)
        m.set("weir_label_horizon_seconds", horizon_s, task=task)
        policy, now = joiners[0].policy, self._now()
        if horizon_s >= policy.keep_s or now - self._warned_at.get(task, -WARN_EVERY_S) < WARN_EVERY_S:
            return
        self._warned_at[task] = now
        shortest = min(joiners, key=lambda j: j.horizon_s)
        rate = len(shortest) / max(horizon_s, 1.0)
        log.warning(
            "task %s: predictions wait for labels %.3g h, not %s (keep_s): a partition has %.3g of them a second, and "
            "%d wait, in %d MB, which is what %s allows; labels that come later meet nothing. Make it more, start more "
            "workers, or make keep_s less",
            task, horizon_s / 3600, format_duration(policy.keep_s), rate, len(shortest),
            shortest.index_bytes >> 20, _limit(shortest, self._label_bytes),
        )  # fmt: skip


def _limit(joiner: LabelJoiner, label_bytes: int) -> str:
    rows = joiner.policy.max_rows
    # Of two limits the lower one is to be raised.
    if rows is not None and (joiner.cap is None or rows <= joiner.cap):
        return f"max_rows = {rows} of [labels.join]"
    return f"[worker] label_bytes = {label_bytes}"


def most_rows(held: Sequence[tuple[int, int]], room: int) -> int | None:
    """How many rows each may have so that all fit into ``room`` bytes; ``None`` where nobody has to give up any.

    Parameters
    ----------
    held : rows of each, and the bytes that one takes.

    >>> most_rows([(10, 100), (300, 100), (1000, 100)], 71_000)
    400
    """
    # A cap where all fit would let old predictions leave for nothing.
    if sum(rows * size for rows, size in held) <= room:
        return None
    left, sizes = room, sum(size for _, size in held)
    # The lanes with fewest rows first: they keep all they have, and what they leave is for the others.
    for rows, size in sorted(held):
        if rows * sizes > left:
            return left // sizes
        left -= rows * size
        sizes -= size
    return None
