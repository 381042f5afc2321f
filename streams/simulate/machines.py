"""Machines that send metrics, wear out, fail and are repaired. It knows columns of readings, not the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weir.streams.simulate.config import DAY_S, HOUR_S, SimulationConfig
from weir.streams.simulate.population import Floats, Ints, Names

METRICS: Final = ("temperature", "vibration", "load", "pressure")
STATUSES: Final = ("ok", "warn")
MODELS: Final = ("P2", "P3", "K7")
_MISSING_SHARE: Final = 0.004
_SUDDEN_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Machines:
    """Traits of the machines, one entry each, and their failures, ordered by machine and time."""

    name: Names
    site: Ints
    model: Ints
    base: Floats
    """``(devices, 4)`` usual level of each metric."""
    phase: Floats
    """``(devices, 3)`` phases of the daily, the weekly and a slow rhythm, radians."""
    failure_machine: Ints
    """``(F,)`` which machine fails."""
    failure_ts: Floats
    """``(F,)`` when it fails."""
    wear_s: Floats
    """``(F,)`` how long before the failure it shows; 0 for a sudden one."""
    repaired_ts: Floats
    """``(F,)`` when it is back; between failure and repair the machine is silent."""


@dataclass(frozen=True, slots=True)
class DeviceEvents:
    """Readings ordered by time; every array has one entry per reading."""

    ts: Floats
    machine: Ints
    metrics: Floats
    """``(n, 4)``, NaN where missing."""
    status: Ints

    def __len__(self) -> int:
        return len(self.ts)


def make_machines(config: SimulationConfig) -> Machines:
    """Machines with their levels, rhythms and all failures of the simulation."""
    rng = config.rng("machines")
    n = config.devices
    level = np.array([58.0, 2.2, 55.0, 6.0])
    spread = np.array([0.1, 0.2, 0.12, 0.08])
    machine, failure, wear, repaired = _failures(config, rng)
    width = len(str(max(n - 1, 0)))
    return Machines(
        name=np.array([f"machine-{i:0{width}d}" for i in range(n)], dtype=object),
        site=rng.integers(0, max(n // 10, 1), n),
        model=rng.integers(0, len(MODELS), n),
        base=level * np.exp(spread * rng.normal(0.0, 1.0, (n, len(METRICS)))),
        phase=rng.uniform(0.0, 2.0 * np.pi, (n, 3)) * np.array([0.2, 0.2, 1.0]),
        failure_machine=machine,
        failure_ts=failure,
        wear_s=wear,
        repaired_ts=repaired,
    )


def machine_day(config: SimulationConfig, machines: Machines, day: int, n: int) -> DeviceEvents:
    """Draw the readings of a day: ``n`` spread over the machines, less those of machines that are down."""
    rng = config.rng("readings", day)
    devices = len(machines.name)
    number = np.arange(n)
    machine = (number + rng.integers(0, max(devices, 1))) % max(devices, 1)
    # The readings of a machine are a regular interval apart, with a little jitter.
    ts = np.round(config.start_ts + (day + (number + 0.5 * rng.random(n)) / max(n, 1)) * DAY_S, 3)
    wear, down = _wear(machines, machine, ts)
    up = ~down
    ts, machine, wear = ts[up], machine[up], wear[up]
    order = np.argsort(ts, kind="stable")
    ts, machine, wear = ts[order], machine[order], wear[order]
    metrics = _metrics(rng, machines, machine, ts, wear)
    warns = rng.random(len(ts)) < np.where(wear > 0.6, 0.35, 0.01)
    return DeviceEvents(ts=ts, machine=machine, metrics=metrics, status=warns.astype(np.int64))


def down_or_worn(machines: Machines, machine: Ints, ts: Floats) -> NDArray[np.bool_]:
    """Whether each ``machine (n,)`` is down or wearing out at ``ts (n,)``."""
    wear, down = _wear(machines, machine, ts)
    return down | (wear > 0.0)


def _failures(config: SimulationConfig, rng: np.random.Generator) -> tuple[Ints, Floats, Floats, Floats]:
    """Alternate running times and repairs until the end; rows by machine and time."""
    clock = np.full(config.devices, config.start_ts)
    machine = np.arange(config.devices)
    rows: list[tuple[Ints, Floats, Floats, Floats]] = []
    mean_s = config.days_between_failures * DAY_S
    while len(machine):
        running = np.maximum(rng.gamma(2.0, mean_s / 2.0, len(machine)), 0.05 * mean_s)
        failure = clock + running
        repaired = failure + rng.uniform(2.0, 10.0, len(machine)) * HOUR_S
        wear = np.minimum(rng.uniform(14.0, 60.0, len(machine)) * HOUR_S, 0.8 * running)
        wear[rng.random(len(machine)) < _SUDDEN_SHARE] = 0.0
        before_end = failure < config.end_ts
        rows.append((machine[before_end], failure[before_end], wear[before_end], repaired[before_end]))
        machine, clock = machine[before_end], repaired[before_end]
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0)
    fields = [np.concatenate(column) for column in zip(*rows, strict=True)]
    order = np.lexsort((fields[1], fields[0]))
    return fields[0][order], fields[1][order], fields[2][order], fields[3][order]


def _wear(machines: Machines, machine: Ints, ts: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """How worn ``(n,)`` in [0, 1] each machine is towards its next failure, and whether it is down."""
    if not len(machines.failure_ts):
        return np.zeros(len(ts)), np.zeros(len(ts), np.bool_)
    # One sorted axis for all machines: each machine's times are shifted into a range of their own.
    gap = 5e9  # beyond every time of the wire format, which ends in 2099
    after = np.searchsorted(machines.failure_machine * gap + machines.failure_ts, machine * gap + ts, side="right")
    following = np.minimum(after, len(machines.failure_ts) - 1)
    same = (after < len(machines.failure_ts)) & (machines.failure_machine[following] == machine)
    left = np.where(same, machines.failure_ts[following] - ts, np.inf)
    # A sudden failure has no wear to divide by: it shows in its last second.
    span = np.maximum(machines.wear_s[following], 1.0)
    previous = np.maximum(after - 1, 0)
    down = (after > 0) & (machines.failure_machine[previous] == machine) & (ts < machines.repaired_ts[previous])
    return np.clip(1.0 - left / span, 0.0, 1.0), down


def _metrics(rng: np.random.Generator, machines: Machines, machine: Ints, ts: Floats, wear: Floats) -> Floats:
    """Readings ``(n, 4)``: level, rhythms, noise, and what wear adds."""
    n = len(ts)
    phase = machines.phase[machine]
    daily = np.sin(2.0 * np.pi * ts / DAY_S - 1.9 + phase[:, 0])
    weekly = np.sin(2.0 * np.pi * ts / (7.0 * DAY_S) + phase[:, 1])
    slow = np.sin(2.0 * np.pi * ts / (17.0 * DAY_S) + phase[:, 2])
    busy = 0.22 * daily + 0.10 * weekly + 0.04 * slow
    noise = rng.normal(0.0, 1.0, (n, len(METRICS)))
    spike = (rng.random(n) < 0.002 + 0.12 * wear**2) * rng.gamma(2.0, 0.35, n)
    factor = np.empty((n, len(METRICS)))
    factor[:, 0] = 1.0 + 0.12 * busy + 0.015 * noise[:, 0] + 0.18 * wear**1.5 + 0.10 * spike
    factor[:, 1] = 1.0 + 0.30 * busy + 0.07 * noise[:, 1] + 1.10 * wear**2 + 1.20 * spike
    factor[:, 2] = 1.0 + 1.00 * busy + 0.05 * noise[:, 2]
    factor[:, 3] = 1.0 + 0.05 * busy + 0.012 * noise[:, 3] - 0.14 * wear**2 - 0.05 * spike
    metrics = np.round(machines.base[machine] * factor, 3)
    metrics[rng.random((n, len(METRICS))) < _MISSING_SHARE] = np.nan
    return metrics
