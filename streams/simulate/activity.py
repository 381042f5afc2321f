"""What users do on one day: sessions of logins, views and purchases. It knows columns, not the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weir.streams.simulate.config import DAY_S, HOUR_S, SimulationConfig
from weir.streams.simulate.fraud import NONE, OWN_DEVICE, STOLEN, FraudPlan
from weir.streams.simulate.population import CHANNELS, OWN_DEVICES, Floats, Ints, Merchants, Users, draw_by_cumulative

LOGIN, VIEW, PURCHASE = range(3)
_MEAN_SESSION: Final = 3.2
_LOGIN_FIRST: Final = 0.55
_BUYS: Final = 0.45
PURCHASE_SHARE: Final = (_MEAN_SESSION - 1.0) * _BUYS / _MEAN_SESSION
"""Expected share of purchases among the events of honest users."""
# Relative activity by hour of the day: asleep until 6, a bump at lunch, the peak at 20.
_HOURS: Final = np.array(
    [2.0, 1.0, 0.6, 0.4, 0.4, 0.7, 2, 4, 6, 7, 7.5, 8.5, 10, 9, 7.5, 7, 7.5, 9, 11, 13, 13.5, 11, 7, 4]
)


@dataclass(frozen=True, slots=True)
class UserEvents:
    """Events of users ordered by time; every array has one entry per event."""

    ts: Floats
    kind: Ints
    user: Ints
    amount: Floats
    """0 where the event is not a purchase."""
    merchant: Ints
    device: Ints
    session: Ints
    channel: Ints
    country: Ints
    detail: Floats
    """Items bought, or seconds spent on what was viewed."""
    pattern: Ints
    """The fraud pattern a purchase belongs to, 0 for none."""

    def __len__(self) -> int:
        return len(self.ts)


def user_day(
    config: SimulationConfig, users: Users, merchants: Merchants, plan: FraudPlan, day: int, n: int
) -> UserEvents:
    """Draw exactly ``n`` events of day ``day``: the planned frauds, and honest sessions for the rest.

    A session that starts before midnight may end after it, so ``ts`` may reach a little into the next day.
    """
    rng = config.rng("activity", day)
    start = config.start_ts + day * DAY_S
    rows = plan.between(start, start + DAY_S)
    # Frauds are planned by what is expected: a day of a small stream may hold fewer events than its plan has frauds.
    frauds = _fraud_events(rng, users, plan, slice(rows.start, min(rows.stop, rows.start + n)))
    honest = _honest_events(config, rng, users, merchants, day, n - len(frauds))
    order = np.argsort(np.concatenate([honest.ts, frauds.ts]), kind="stable")
    return UserEvents(
        *(
            np.concatenate([getattr(honest, name), getattr(frauds, name)])[order]
            for name in UserEvents.__dataclass_fields__
        )
    )


def _honest_events(
    config: SimulationConfig, rng: np.random.Generator, users: Users, merchants: Merchants, day: int, n: int
) -> UserEvents:
    start = config.start_ts + day * DAY_S
    session, first, who = _sessions(config, rng, users, day, n)
    kind = np.where(rng.random(n) < _BUYS, PURCHASE, VIEW)
    kind[first] = np.where(rng.random(int(first.sum())) < _LOGIN_FIRST, LOGIN, VIEW)
    user = who[session]
    ts = start + _session_start(rng, users, who, config.weekday(day) >= 5)[session]
    ts += _time_in_session(rng, first)
    favourite = users.favourites[user, rng.integers(0, users.favourites.shape[1], n)]
    merchant = np.where(rng.random(n) < 0.75, favourite, merchants.draw(rng, n))
    noise = np.exp(rng.normal(0.0, 0.45, n))
    amount = np.maximum(np.round(users.amount[user] * merchants.price[merchant] * noise, 2), 0.5)
    travelling = (users.trip_start[user] <= ts) & (ts < users.trip_end[user])
    # Drawn once a session: nobody changes the device in the middle of one.
    device = _own_device(users, user, ts, rng.random(len(who))[session])
    channel = np.where(rng.random(len(who)) < 0.8, users.channel[who], rng.integers(0, len(CHANNELS), len(who)))
    return UserEvents(
        ts=np.round(ts, 3),
        kind=kind,
        user=user,
        amount=np.where(kind == PURCHASE, amount, 0.0),
        merchant=merchant,
        device=device,
        session=session,
        channel=channel[session],
        country=np.where(travelling, users.trip_country[user], users.country[user]),
        detail=_detail(rng, kind),
        pattern=np.full(n, NONE),
    )


def _fraud_events(rng: np.random.Generator, users: Users, plan: FraudPlan, rows: slice) -> UserEvents:
    user, ts = plan.user[rows], plan.ts[rows]
    n = len(ts)
    own = plan.device[rows] == OWN_DEVICE
    kind = np.full(n, PURCHASE)
    return UserEvents(
        ts=ts,
        kind=kind,
        user=user,
        amount=plan.amount[rows],
        merchant=plan.merchant[rows],
        device=np.where(own, _own_device(users, user, ts, rng.random(n)), plan.device[rows]),
        # Thieves open a session for each purchase; the numbers are far from those of honest sessions.
        session=1_000_000_000 + np.arange(rows.start, rows.start + n),
        channel=np.where(plan.pattern[rows] == STOLEN, rng.integers(0, 2, n), users.channel[user]),
        country=np.where(own, users.country[user], plan.country[rows]),
        detail=_detail(rng, kind),
        pattern=plan.pattern[rows],
    )


def _sessions(
    config: SimulationConfig, rng: np.random.Generator, users: Users, day: int, n: int
) -> tuple[Ints, NDArray[np.bool_], Ints]:
    """Cut ``n`` events into sessions: each event's session, if it is the first, each session's user."""
    weight = users.rate * users.active(config.start_ts + (day + 0.5) * DAY_S)
    if config.weekday(day) >= 5:
        weight = weight * users.weekend
    # All have left, or nobody has come yet; the day has its number of events all the same.
    if not weight.any():
        weight = users.rate
    # Some more than the mean needs: the last one takes what is left in the unlikely case that they are short.
    count = min(n, int(n / _MEAN_SESSION + 6.0 * np.sqrt(n) + 10.0))
    length = 1 + rng.poisson(_MEAN_SESSION - 1.0, count)
    who = draw_by_cumulative(rng, np.cumsum(weight), count)
    ends = np.cumsum(length)
    session = np.searchsorted(ends, np.arange(n), side="right")
    session = np.minimum(session, max(count - 1, 0))
    first = np.ones(n, dtype=np.bool_)
    first[1:] = session[1:] != session[:-1]
    return session, first, who


def _session_start(rng: np.random.Generator, users: Users, who: Ints, weekend: bool) -> Floats:
    """Second of the day each session starts at ``(S,)``: the hour profile, shifted by the user's habit."""
    edges = np.concatenate([[0.0], np.cumsum(_HOURS)])
    hour = np.interp(rng.random(len(who)) * edges[-1], edges, np.arange(25.0))
    hour += users.peak_shift_h[who] + (1.0 if weekend else 0.0)
    return np.asarray(np.mod(hour, 24.0) * HOUR_S)


def _time_in_session(rng: np.random.Generator, first: NDArray[np.bool_]) -> Floats:
    """Seconds since the start of the session ``(n,)``."""
    gap = np.where(first, 0.0, 2.0 + rng.exponential(45.0, len(first)))
    total = np.cumsum(gap)
    begins = np.flatnonzero(first)
    return np.asarray(total - np.repeat(total[begins], np.diff(np.append(begins, len(first)))))


def _own_device(users: Users, user: Ints, ts: Floats, luck: Floats) -> Ints:
    """Code of one of the user's devices; the first one is another device after it was replaced."""
    # Squared: the first device is used most.
    number = np.floor(luck**2 * users.device_count[user]).astype(np.int64)
    replaced = (number == 0) & (ts >= users.new_device_ts[user])
    return user * OWN_DEVICES + np.where(replaced, OWN_DEVICES - 1, number)


def _detail(rng: np.random.Generator, kind: Ints) -> Floats:
    items = 1.0 + rng.poisson(0.8, len(kind))
    return np.where(kind == PURCHASE, items, np.round(rng.exponential(25.0, len(kind)), 1))
