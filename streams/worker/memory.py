"""The memory that ids of events may take in this worker: shared out among its partitions, measured, and told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from weir.online.durations import format_duration
from weir.streams.ops.metrics import Metrics

if TYPE_CHECKING:
    from weir.streams.worker.scoring.event_partition import ScoreLane

log = logging.getLogger(__name__)

WARN_EVERY_S: Final = 600.0
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
    now : seconds of a clock that does not jump.
    """

    def __init__(self, dedupe_bytes: int, metrics: Metrics, now: Callable[[], float] = time.monotonic) -> None:
        self._dedupe_bytes, self._metrics, self._now = dedupe_bytes, metrics, now
        self._warned_at: dict[str, float] = {}

    def look(self, lanes: Sequence[ScoreLane], reserved: int) -> None:
        """Share out, measure and warn; every few seconds."""
        share = share_of(self._dedupe_bytes, reserved, len(lanes))
        by_topic: dict[str, list[ScoreLane]] = {}
        for lane in lanes:
            lane.intake.limit(share)
            by_topic.setdefault(lane.lane[0], []).append(lane)
        for topic, of in by_topic.items():
            shortest = min(of, key=lambda lane: lane.intake.window_s)
            self._metrics.set("weir_dedupe_window_seconds", shortest.intake.window_s, topic=topic)
            self._warn(topic, shortest)

    def _warn(self, topic: str, lane: ScoreLane) -> None:
        intake, now = lane.intake, self._now()
        wanted_s = intake.policy.dedupe_window
        if intake.window_s >= wanted_s or now - self._warned_at.get(topic, -WARN_EVERY_S) < WARN_EVERY_S:
            return
        self._warned_at[topic] = now
        log.warning(
            "%s: event ids are remembered for %s, not %s (dedupe_window): %d ids, about %.3g a second, fill the %d MB "
            "that a partition has of [worker] dedupe_bytes = %d; a repeat that comes later counts again. Make it more, "
            "start more workers, or make dedupe_window less",
            lane.name, format_duration(round(intake.window_s)), format_duration(wanted_s), len(intake.ids),
            len(intake.ids) / max(intake.window_s, 1.0), intake.ids.most_bytes >> 20, self._dedupe_bytes,
        )  # fmt: skip
