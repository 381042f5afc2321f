"""Compiles every kernel on a small stream before the clock starts, and finds out how fast this machine is."""

from __future__ import annotations

import time
from collections.abc import Sequence

from weir.online.task.spec import TaskSpec
from weir.streams.config.topics import INPUTS
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.records import Record
from weir.streams.simulate import RecordBlock, SimulationConfig, simulate

LEAST_EVENTS, MOST_EVENTS = 60_000, 1_200_000
_SHARE, _MOST_SHARE = 0.45, 0.75
"""Part of the measured rate that a long run is planned for: models, windows and the screen cost more later."""
_TELLING = 300_000
"""Below this a drift is found late, and the model that answers it serves for the last days only: up to here a slow
machine is asked for ``_MOST_SHARE``."""


def warm_up(tasks: Sequence[TaskSpec]) -> None:
    """Run a small stream, so that all of it is compiled."""
    _run(tasks, _small_stream())


def measured_rate(tasks: Sequence[TaskSpec]) -> float:
    """Events per second of a small stream, where everything is compiled."""
    blocks = _small_stream()
    began = time.perf_counter()
    events = _run(tasks, blocks)
    return events / (time.perf_counter() - began)


def _small_stream() -> Sequence[RecordBlock]:
    world = SimulationConfig(
        seed=1, users=400, merchants=60, devices=20, days=12, events=12_000, fraud_share=0.05, label_delay_days=1.0,
        churn_share=0.6, days_between_failures=4.0, device_event_share=0.3, block_s=86_400.0 / 2,
    )  # fmt: skip
    return list(simulate(world))


def _run(tasks: Sequence[TaskSpec], blocks: Sequence[RecordBlock]) -> int:
    host = EmbeddedHost(tasks, EmbeddedLog())
    for block in blocks:
        for topic in INPUTS:
            for batch in host.log.append(topic, [Record(*record) for record in block.topics[topic]]):
                host.process(batch)
    return host.stats.events


def planned_events(rate: float, seconds: float) -> int:
    """Events of a period that this machine can show in ``seconds`` without falling behind, in two digits.

    >>> planned_events(50_000.0, 60.0), planned_events(8_000.0, 60.0), planned_events(100.0, 60.0)
    (1200000, 300000, 60000)
    """
    can = rate * seconds
    wanted = max(_SHARE * can, min(_MOST_SHARE * can, _TELLING))
    wanted = min(max(wanted, LEAST_EVENTS), MOST_EVENTS)
    digits = 10 ** max(len(str(int(wanted))) - 2, 0)
    return int(wanted // digits * digits)
