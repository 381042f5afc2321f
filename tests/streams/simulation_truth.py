"""What a simulation knows and the wire does not say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weir.streams.simulate import SimulationConfig
from weir.streams.simulate.fraud import PATTERNS
from weir.streams.simulate.generator import World
from weir.streams.simulate.wire import user_event_id


@dataclass(frozen=True, slots=True)
class SimulationTruth:
    """All of it."""

    churned: dict[str, float]
    """When the last activity of each user who left had died out."""
    failures: list[tuple[str, float]]
    frauds: dict[str, str]
    """Pattern of each fraudulent event."""
    drift_ts: float


def truth(config: SimulationConfig) -> SimulationTruth:
    """What :func:`simulate` does not tell; draws the whole simulation again.

    Examples
    --------
    >>> known = truth(SimulationConfig(seed=1, events=20_000, days=5, users=100, devices=5))
    >>> sorted(set(known.frauds.values()))
    ['large', 'merchant', 'stolen']
    """
    world = World(config)
    frauds: dict[str, str] = {}
    for day in range(config.days):
        events, _ = world.day(day)
        for row in np.flatnonzero(events.pattern).tolist():
            frauds[user_event_id(day, row)] = PATTERNS[events.pattern[row]]
    gone = np.flatnonzero(world.users.churn_ts < config.end_ts)
    return SimulationTruth(
        churned=dict(zip(world.users.name[gone].tolist(), world.users.churn_ts[gone].tolist(), strict=True)),
        failures=list(
            zip(
                world.machines.name[world.machines.failure_machine].tolist(),
                world.machines.failure_ts.tolist(),
                strict=True,
            )
        ),
        frauds=frauds,
        drift_ts=config.drift_ts,
    )
