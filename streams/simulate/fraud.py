"""The frauds of a whole simulation, planned ahead. It knows three patterns and one drift, not the wire.

(a) ``large``: purchases far above a user's usual amount at merchants the user does not know. After the drift
the same thieves make bursts of small purchases at night at other merchants.
(b) ``merchant``: a compromised merchant; for some days purchases of ordinary amounts there are frauds.
(c) ``stolen``: stolen credentials; for some days a user's purchases multiply, from a new device and country.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weir.streams.simulate.config import DAY_S, HOUR_S, SimulationConfig
from weir.streams.simulate.population import COUNTRIES, OWN_DEVICES, Floats, Ints, Merchants, Users

PATTERNS: Final = ("none", "large", "merchant", "stolen")
NONE, LARGE, MERCHANT, STOLEN = range(4)
PATTERN_SHARES: Final = {LARGE: 0.45, MERCHANT: 0.25, STOLEN: 0.30}
_STOLEN_PER_VICTIM: Final = 14
_MERCHANT_CAMPAIGN: Final = 60
_BURST: Final = 5
OWN_DEVICE: Final = -1
"""Device and country codes of a fraud that uses what the user always uses."""


@dataclass(frozen=True, slots=True)
class FraudPlan:
    """Fraudulent purchases ordered by time; every array has one entry per purchase."""

    ts: Floats
    user: Ints
    merchant: Ints
    amount: Floats
    device: Ints
    country: Ints
    pattern: Ints
    victims: int
    """How many users had their credentials stolen; each comes with one device of a thief."""

    def between(self, start: float, end: float) -> slice:
        """The rows of ``[start, end)``."""
        first, last = np.searchsorted(self.ts, [start, end])
        return slice(int(first), int(last))


def plan_frauds(config: SimulationConfig, users: Users, merchants: Merchants, purchases: float) -> FraudPlan:
    """Plan the frauds among an expected number of ``purchases``."""
    total = config.fraud_share * purchases
    count = {pattern: round(total * share) for pattern, share in PATTERN_SHARES.items()}
    rng = config.rng("fraud")
    stolen, victims = _stolen(config, rng, users, merchants, count[STOLEN])
    parts = (
        _large(config, rng, users, merchants, count[LARGE]),
        _compromised(config, rng, users, merchants, count[MERCHANT]),
        stolen,
    )
    order = np.argsort(np.concatenate([part[0] for part in parts]), kind="stable")
    columns: list[Any] = [np.concatenate(column)[order] for column in zip(*parts, strict=True)]
    ts, user, merchant, amount, device, country, pattern = columns
    return FraudPlan(np.round(ts, 3), user, merchant, np.round(amount, 2), device, country, pattern, victims)


_Rows = tuple[Floats, Ints, Ints, Floats, Ints, Ints, Ints]


def _large(config: SimulationConfig, rng: np.random.Generator, users: Users, shops: Merchants, n: int) -> _Rows:
    ts = np.sort(config.start_ts + (config.end_ts - config.start_ts) * rng.random(n))
    user = _victims(rng, users, ts)
    amount = users.amount[user] * np.exp(rng.normal(np.log(8.0), 0.45, n))
    late = ts >= config.drift_ts
    bursts = np.arange(n) // _BURST * _BURST
    # After the drift rows share their burst's user and night, seconds to minutes apart.
    night = np.floor(ts / DAY_S) * DAY_S + 4.5 * HOUR_S * rng.random(n)
    night = night[bursts] + 240.0 * (np.arange(n) - bursts) * rng.uniform(0.3, 1.0, n)
    # The night of a fraud soon after the drift began before it, and the last burst would reach past the end.
    same_night = np.where(late, np.clip(night, config.drift_ts, config.end_ts - 1.0), ts)
    user = np.where(late, user[bursts], user)
    amount = np.where(late, np.exp(rng.normal(np.log(4.0), 0.4, n)), amount)
    half = len(shops.name) // 2
    # Of the other half of the merchants: what was learned of those before the drift says nothing of these.
    merchant = np.where(late, half + rng.integers(0, max(half // 4, 1), n), rng.integers(0, half, n))
    return same_night, user, merchant, amount, _own(n), _own(n), np.full(n, LARGE)


def _compromised(config: SimulationConfig, rng: np.random.Generator, users: Users, shops: Merchants, n: int) -> _Rows:
    campaigns = max(round(n / _MERCHANT_CAMPAIGN), 1)
    span = config.end_ts - config.start_ts
    # Long enough that its first chargebacks arrive while it still runs.
    length = np.minimum(rng.uniform(1.5, 3.5, campaigns) * max(config.label_delay_days, 2.0) * DAY_S, span)
    begins = config.start_ts + (span - length) * (np.arange(campaigns) + rng.random(campaigns)) / campaigns
    shop = shops.draw(rng, campaigns)
    campaign = np.arange(n) % campaigns
    ts = begins[campaign] + length[campaign] * rng.random(n)
    user = _victims(rng, users, ts)
    amount = users.amount[user] * shops.price[shop[campaign]] * np.exp(rng.normal(0.0, 0.45, n))
    return ts, user, shop[campaign], amount, _own(n), _own(n), np.full(n, MERCHANT)


def _stolen(
    config: SimulationConfig, rng: np.random.Generator, users: Users, shops: Merchants, n: int
) -> tuple[_Rows, int]:
    victims = max(round(n / _STOLEN_PER_VICTIM), 1)
    span = config.end_ts - config.start_ts
    length = np.minimum(rng.uniform(0.5, 3.0, victims) * DAY_S, span)
    begins = config.start_ts + (span - length) * rng.random(victims)
    stolen_from = _victims(rng, users, begins)
    away = (users.country[stolen_from] + rng.integers(1, len(COUNTRIES), victims)) % len(COUNTRIES)
    victim = np.arange(n) % victims
    ts = begins[victim] + length[victim] * rng.random(n)
    user = stolen_from[victim]
    amount = users.amount[user] * np.exp(rng.normal(np.log(1.8), 0.5, n))
    device = len(users.name) * OWN_DEVICES + victim
    return (ts, user, shops.draw(rng, n), amount, device, away[victim], np.full(n, STOLEN)), victims


def _victims(rng: np.random.Generator, users: Users, ts: Floats) -> Ints:
    """Draw one user for each time, redrawing those who have left or not yet joined."""
    user = rng.integers(0, len(users.name), len(ts))
    # So often at most: where many churn there may be nobody left for the last times.
    for _ in range(30):
        away = (users.joined_ts[user] > ts) | (users.churn_ts[user] - 0.5 * users.churn_decay_s[user] < ts)
        if not away.any():
            break
        user[away] = rng.integers(0, len(users.name), int(away.sum()))
    return user


def _own(n: int) -> Ints:
    return np.full(n, OWN_DEVICE)
