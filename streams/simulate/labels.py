"""Labels that arrive late: chargebacks, reviews, technicians. It knows their delays, not the merge."""

from __future__ import annotations

import numpy as np

from weir.streams.simulate.activity import PURCHASE, UserEvents
from weir.streams.simulate.config import DAY_S, FAILURE_TASK, FRAUD_TASK, HOUR_S, SimulationConfig
from weir.streams.simulate.fraud import NONE
from weir.streams.simulate.machines import Machines, down_or_worn
from weir.streams.simulate.population import Floats, Ints, Users
from weir.streams.simulate.wire import Records, concatenate, encode_labels, user_event_id

_INSPECTION_EVERY_S = 5.0 * DAY_S


def fraud_labels(config: SimulationConfig, users: Users, events: UserEvents, day: int) -> Records:
    """Chargebacks of a day's frauds, withdrawals of some of them, reviews that clear honest purchases."""
    rng = config.rng("labels", day)
    frauds = np.flatnonzero(events.pattern != NONE)
    known = events.ts[frauds] + delays(rng, config.label_delay_days * DAY_S, len(frauds))
    withdrawn = rng.random(len(frauds)) < config.correction_share
    again = known[withdrawn] + delays(rng, 2.0 * DAY_S, int(withdrawn.sum()))
    honest = np.flatnonzero((events.kind == PURCHASE) & (events.pattern == NONE))
    reviewed = honest[rng.random(len(honest)) < config.review_share]
    cleared = events.ts[reviewed] + delays(rng, 6.0 * HOUR_S, len(reviewed))
    return concatenate(
        [
            _about_events(users, events, day, frauds, known, 1, "chargeback"),
            _about_events(users, events, day, frauds[withdrawn], again, 0, "withdrawal"),
            _about_events(users, events, day, reviewed, cleared, 0, "review"),
        ]
    )


def failure_labels(config: SimulationConfig, machines: Machines) -> Records:
    """Technicians' verdicts on all failures (value 1) and inspections of machines in order (value 0)."""
    rng = config.rng("failure labels")
    failed = machines.failure_ts + delays(rng, 8.0 * HOUR_S, len(machines.failure_ts))
    rounds = max(int((config.end_ts - config.start_ts) // _INSPECTION_EVERY_S), 0)
    machine = np.repeat(np.arange(len(machines.name)), rounds)
    ts = config.start_ts + _INSPECTION_EVERY_S * (
        np.tile(np.arange(rounds), len(machines.name)) + rng.random(len(machine))
    )
    fine = ~down_or_worn(machines, machine, ts)
    machine, ts = machine[fine], ts[fine]
    return concatenate(
        [
            _about_machines(machines, machines.failure_machine, machines.failure_ts, failed, 1, "technician"),
            _about_machines(machines, machine, ts, ts + delays(rng, HOUR_S, len(ts)), 0, "inspection"),
        ]
    )


def delays(rng: np.random.Generator, median_s: float, n: int) -> Floats:
    """Log-normal delays ``(n,)`` in seconds with the given median, between a quarter and four times of it."""
    return median_s * np.clip(np.exp(rng.normal(0.0, 0.45, n)), 0.25, 4.0)


def _about_events(
    users: Users, events: UserEvents, day: int, rows: Ints, known: Floats, value: int, source: str
) -> Records:
    ids = [user_event_id(day, row) for row in rows.tolist()]
    labels, names = [f"{source}-{name}" for name in ids], users.name[events.user[rows]].tolist()
    return encode_labels(known, labels, FRAUD_TASK, names, ids, events.ts[rows], value, source)


def _about_machines(machines: Machines, machine: Ints, ts: Floats, known: Floats, value: int, source: str) -> Records:
    ids = [f"{source}-{number:07d}" for number in range(len(machine))]
    names = machines.name[machine].tolist()
    return encode_labels(known, ids, FAILURE_TASK, names, None, ts, value, source)
