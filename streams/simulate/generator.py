"""The stream as it would arrive: blocks of encoded records ordered by the time they become available.

Run it from the shell with ``weir simulate``. It draws one day at a time, so memory holds a day of records and
what is still on its way (labels not due yet, late records), whatever the length of the simulation.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from weir.streams.config.topics import DEVICE_EVENTS, LABELS, USER_EVENTS
from weir.streams.simulate.activity import PURCHASE, PURCHASE_SHARE, UserEvents, user_day
from weir.streams.simulate.config import DAY_S, FAILURE_TASK, FRAUD_TASK, HOUR_S, TOPICS, SimulationConfig
from weir.streams.simulate.fraud import NONE, plan_frauds
from weir.streams.simulate.machines import DeviceEvents, Machines, down_or_worn, machine_day, make_machines
from weir.streams.simulate.population import Floats, Ints, Users, device_names, make_merchants, make_users
from weir.streams.simulate.wire import (
    DeviceEventEncoder,
    Records,
    UserEventEncoder,
    concatenate,
    encode_labels,
    no_records,
    user_event_id,
)

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


Record = tuple[bytes, bytes, float]
"""Key, value and the event time at which the record can be read."""


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """The records that become available in ``[start, end)``, for each topic in that order."""

    start: float
    end: float
    topics: dict[str, list[Record]]

    def __len__(self) -> int:
        return sum(map(len, self.topics.values()))

    def merged(self) -> Iterator[tuple[str, bytes, bytes, float]]:
        """All records as (topic, key, value, available), by the time they become available."""
        lanes = ([(topic, *record) for record in records] for topic, records in self.topics.items())
        # Each topic is in order already.
        return heapq.merge(*lanes, key=lambda record: record[3])


class World:
    """Everything drawn once for a simulation, and the days drawn from it."""

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config
        self.merchants = make_merchants(config)
        self.users = make_users(config, self.merchants)
        self.machines = make_machines(config)
        purchases = config.events * (1.0 - config.effective_device_share) * PURCHASE_SHARE
        self.plan = plan_frauds(config, self.users, self.merchants, purchases)

    def day(self, day: int) -> tuple[UserEvents, DeviceEvents]:
        """Events of one day; users make up for what silent machines do not send."""
        total = self.config.day_events(day)
        readings = machine_day(self.config, self.machines, day, round(total * self.config.effective_device_share))
        return user_day(self.config, self.users, self.merchants, self.plan, day, total - len(readings)), readings


def simulate(config: SimulationConfig) -> Iterator[RecordBlock]:
    """Yield the stream in blocks of ``config.block_s`` of event time.

    All events are delivered, the last block may reach past ``config.end_ts`` for the late ones; labels that
    become known after the end are not.

    Examples
    --------
    >>> blocks = list(simulate(SimulationConfig(seed=1, events=1_000, days=2, users=50, devices=5)))
    >>> len(blocks)
    48
    >>> key, value, ts = blocks[20].topics["user-events"][0]
    >>> value[:30]
    b'{"v":1,"event_id":"u0000-00002'
    """
    world = World(config)
    users = UserEventEncoder(world.users, world.merchants, device_names(config, world.plan.victims))
    devices = DeviceEventEncoder(world.machines)
    waiting = {topic: no_records(topic) for topic in TOPICS}
    # All at once: failures are drawn for the whole time, not by day.
    waiting[LABELS] = failure_labels(config, world.machines)
    for day in range(config.days):
        events, readings = world.day(day)
        new = {
            USER_EVENTS: make_dirty(config, users.encode(events, day), day),
            DEVICE_EVENTS: make_dirty(config, devices.encode(readings, day), day),
            LABELS: fraud_labels(config, world.users, events, day),
        }
        last = day == config.days - 1
        due: dict[str, Records] = {}
        for topic in TOPICS:
            until = np.inf if last and topic != LABELS else config.start_ts + (day + 1) * DAY_S
            due[topic], waiting[topic] = _split(concatenate([waiting[topic], new[topic]]), until)
        yield from _blocks(config, due, day, last)


def _split(records: Records, until: float) -> tuple[Records, Records]:
    """What is available before ``until``, ordered by time, and the rest."""
    due = records.available < until
    now = records.take(due)
    return now.take(np.argsort(now.available, kind="stable")), records.take(~due)


def _blocks(config: SimulationConfig, due: dict[str, Records], day: int, last: bool) -> Iterator[RecordBlock]:
    start = config.start_ts + day * DAY_S
    count = int(np.ceil(DAY_S / config.block_s))
    edges = np.minimum(start + config.block_s * np.arange(count + 1), start + DAY_S)
    if last:
        latest = max((records.available[-1] for records in due.values() if len(records)), default=0.0)
        # A block ends before its edge, and the last one is to hold the latest record.
        edges[-1] = max(edges[-1], np.nextafter(latest, np.inf))
    cuts = {topic: np.searchsorted(records.available, edges).tolist() for topic, records in due.items()}
    for block in range(count):
        topics: dict[str, list[Record]] = {}
        for topic, records in due.items():
            rows = slice(cuts[topic][block], cuts[topic][block + 1])
            columns = (records.key[rows], records.value[rows], records.available[rows])
            topics[topic] = list(zip(*(column.tolist() for column in columns), strict=True))
        yield RecordBlock(float(edges[block]), float(edges[block + 1]), topics)


_TS: Final = re.compile(rb'"ts":[0-9.]+')
_ID: Final = re.compile(rb'"event_id":"[^"]*"')


def make_dirty(config: SimulationConfig, records: Records, day: int) -> Records:
    """Delay, repeat and break a share of ``records``; the broken ones are additional, none is lost."""
    rng = config.rng(f"dirt of {records.topic}", day)
    n = len(records)
    late = np.flatnonzero(rng.random(n) < config.late_share)
    available = records.available.copy()
    # Mostly minutes; one in ten comes later than any sensible allowed lateness.
    scale = np.where(rng.random(len(late)) < 0.1, 3.0 * DAY_S, 1_200.0)
    available[late] += rng.exponential(1.0, len(late)) * scale
    arrived = Records(records.topic, available, records.key, records.value)
    return concatenate(
        [
            arrived,
            _delayed(rng, arrived.take(rng.random(n) < config.duplicate_share)),
            _broken(rng, records.take(rng.random(n) < config.malformed_share)),
        ]
    )


def _delayed(rng: np.random.Generator, records: Records) -> Records:
    return replace(records, available=records.available + rng.exponential(600.0, len(records)))


def _broken(rng: np.random.Generator, records: Records) -> Records:
    # Filled, not made of the list: NumPy would make texts of one width of it, and drop zero bytes at their ends.
    value = np.empty(len(records), dtype=object)
    ways = rng.integers(0, len(BREAKAGES), len(records)).tolist()
    value[:] = [BREAKAGES[way](raw) for way, raw in zip(ways, records.value.tolist(), strict=True)]
    return Records(records.topic, records.available, records.key, value)


# What is no record of wire format v1 any more: half of one, bytes that are no UTF-8, another version, no id, a long id,
# a time far ahead, a time that is no number, and an array instead of an object.
BREAKAGES: Final[tuple[Callable[[bytes], bytes], ...]] = (
    lambda raw: raw[: len(raw) // 2],
    lambda raw: raw.replace(b'"event_id":"', b'"event_id":"\xff\xfe', 1),
    lambda raw: raw.replace(b'"v":1', b'"v":99', 1),
    lambda raw: _ID.sub(b'"comment":""', raw),
    lambda raw: _ID.sub(b'"event_id":"' + b"x" * 500 + b'"', raw),
    lambda raw: _TS.sub(b'"ts":99999999999999', raw),
    lambda raw: _TS.sub(b'"ts":NaN', raw),
    lambda raw: b"[" + raw + b"]",
)
"""The ways in which a record is broken; none leaves a record that wire format v1 accepts."""
