"""Timers of silence say how much memory they hold: an operator sees it in a gauge before the machine is full."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from weir.online.batch import FloatVector
from weir.online.labels.repeated_silence import EVENT_MARK, AnyTimers, timers_of
from weir.online.labels.silence import SilencePolicy

ENTITIES, BATCH = 1_000, 250


def batches(rounds: int, each: bool) -> Iterator[tuple[list[str], FloatVector]]:
    for n in range(0, rounds * ENTITIES, BATCH):
        ids = [f"user-{i % ENTITIES:09d}" for i in range(n, n + BATCH)]
        if each:
            ids = [f"{entity}{EVENT_MARK}event-{i:012d}" for i, entity in enumerate(ids, start=n)]
        yield ids, np.arange(n, n + BATCH, dtype=np.float64) * 10.0


def filled(policy: SilencePolicy, rounds: int) -> AnyTimers:
    timers = timers_of(policy)
    for ids, ts in batches(rounds, policy.score == "each event"):
        timers.advance(ids, ts)
    return timers


@pytest.mark.parametrize(
    ("policy", "rounds"),
    [
        ({"observe_s": 5.0, "horizon_s": "90d"}, 1),
        ({"observe_s": 5.0, "horizon_s": "90d"}, 3),
        ({"score": "each event", "horizon_s": "90d"}, 1),
        ({"score": "each event", "horizon_s": "90d"}, 6),
        ({"score": "after 3d", "horizon_s": "90d"}, 1),
        ({"score": "daily 18:00", "horizon_s": "90d"}, 12),
    ],
)
def test_what_it_says_is_about_what_it_takes(policy: dict[str, Any], rounds: int) -> None:
    filled(SilencePolicy(**policy), 1)  # what is made once
    gc.collect()
    tracemalloc.start()
    timers = filled(SilencePolicy(**policy), rounds)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken > 100 * ENTITIES
    assert taken / 1.25 < timers.nbytes < taken * 1.25
    again = timers_of(SilencePolicy(**policy))
    again.restore(timers.snapshot())
    assert again.nbytes == timers.nbytes


def test_what_is_over_takes_nothing() -> None:
    once = SilencePolicy(observe_s=5.0, horizon_s=60.0, remember_s=1.0)
    for policy in (once, SilencePolicy(score="each event", horizon_s=60.0)):
        timers = filled(policy, 1)
        held = timers.nbytes
        timers.flush(1e9)
        assert timers.nbytes < held / 50
