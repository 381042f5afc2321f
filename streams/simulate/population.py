"""Who takes part: users with habits, merchants with prices. It knows lasting traits, not single events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weir.streams.simulate.config import SimulationConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Names = NDArray[np.object_]

COUNTRIES: Final = ("DE", "FR", "SE", "ES", "IT", "NL", "PL", "GB", "US", "BR", "IN", "JP")
CHANNELS: Final = ("web", "app", "pos")
CATEGORIES: Final = ("grocery", "fashion", "travel", "electronics", "games", "home", "fuel", "dining")
FAVOURITES: Final = 6
OWN_DEVICES: Final = 3


@dataclass(frozen=True, slots=True)
class Merchants:
    """Columns of the merchants; every array has one entry per merchant."""

    name: Names
    category: Ints
    price: Floats
    """What this merchant's prices multiply a user's usual amount by."""
    cumulative_popularity: Floats

    def draw(self, rng: np.random.Generator, n: int) -> Ints:
        """Draw ``(n,)`` merchants by popularity."""
        return draw_by_cumulative(rng, self.cumulative_popularity, n)


@dataclass(frozen=True, slots=True)
class Users:
    """Columns of the users; every array has one entry per user."""

    name: Names
    rate: Floats
    """Relative activity, log-normal."""
    weekend: Floats
    """What weekends multiply the activity by."""
    peak_shift_h: Floats
    """How many hours later than average this user's day runs."""
    amount: Floats
    """Usual (median) amount of a purchase."""
    favourites: Ints
    """``(users, FAVOURITES)`` merchants."""
    channel: Ints
    country: Ints
    device_count: Ints
    new_device_ts: Floats
    """When the user replaces the first device; infinity for never."""
    trip_start: Floats
    trip_end: Floats
    trip_country: Ints
    joined_ts: Floats
    churn_ts: Floats
    """When the last activity has died out; infinity for users who stay."""
    churn_decay_s: Floats
    """Over what time the activity of a churner falls to nothing."""

    def active(self, ts: float) -> Floats:
        """Activity ``(users,)`` in [0, 1] at ``ts``: 0 before joining, falling to 0 towards the churn."""
        falling = np.clip((self.churn_ts - ts) / self.churn_decay_s, 0.0, 1.0)
        return np.where(self.joined_ts <= ts, falling, 0.0)


def draw_by_cumulative(rng: np.random.Generator, cumulative: Floats, n: int) -> Ints:
    """Draw ``(n,)`` indices with probabilities given by their running sum."""
    # The product may round up to the sum itself, hence the minimum below.
    drawn = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
    return np.asarray(np.minimum(drawn, len(cumulative) - 1), dtype=np.int64)


def make_merchants(config: SimulationConfig) -> Merchants:
    """Merchants with a Zipf-like popularity and log-normal prices."""
    rng = config.rng("merchants")
    n = config.merchants
    popularity = 1.0 / (5.0 + rng.permutation(n)) ** 0.9
    width = len(str(n - 1))
    return Merchants(
        name=np.array([f"merchant-{i:0{width}d}" for i in range(n)], dtype=object),
        category=rng.integers(0, len(CATEGORIES), n),
        price=np.exp(rng.normal(0.0, 0.35, n)),
        cumulative_popularity=np.cumsum(popularity),
    )


def make_users(config: SimulationConfig, merchants: Merchants) -> Users:
    """Users with their habits; a third of them join during the simulation, ``churn_share`` leave."""
    rng = config.rng("users")
    n = config.users
    span = config.end_ts - config.start_ts
    width = len(str(n - 1))
    joined = np.where(rng.random(n) < 0.3, config.start_ts + span * 0.9 * rng.random(n), config.start_ts)
    churns = rng.random(n) < config.churn_share
    trip_start = config.start_ts + span * rng.random(n)
    country = _skewed(rng, len(COUNTRIES), n)
    return Users(
        name=np.array([f"user-{i:0{width}d}" for i in range(n)], dtype=object),
        rate=np.exp(rng.normal(0.0, 0.7, n)),
        weekend=np.exp(rng.normal(0.0, 0.4, n)),
        peak_shift_h=rng.normal(0.0, 1.8, n),
        amount=np.exp(rng.normal(np.log(32.0), 0.6, n)),
        favourites=merchants.draw(rng, n * FAVOURITES).reshape(n, FAVOURITES),
        channel=rng.integers(0, len(CHANNELS), n),
        country=country,
        device_count=rng.integers(1, OWN_DEVICES, n),
        new_device_ts=np.where(rng.random(n) < 0.25, config.start_ts + span * rng.random(n), np.inf),
        trip_start=np.where(rng.random(n) < 0.3, trip_start, np.inf),
        trip_end=trip_start + rng.uniform(2.0, 8.0, n) * 86_400.0,
        trip_country=(country + rng.integers(1, len(COUNTRIES), n)) % len(COUNTRIES),
        joined_ts=joined,
        churn_ts=np.where(churns, joined + (config.end_ts - joined) * rng.uniform(0.15, 1.0, n), np.inf),
        churn_decay_s=rng.uniform(3.0, 14.0, n) * 86_400.0,
    )


def device_names(config: SimulationConfig, strangers: int) -> Names:
    """Opaque names of the users' devices (``OWN_DEVICES`` a user), then of ``strangers`` devices of thieves.

    The names do not tell which kind a device is: they are the codes multiplied by an odd number modulo 2**40.
    """
    codes = np.arange(config.users * OWN_DEVICES + strangers, dtype=np.uint64)
    mixed = (codes * np.uint64(0x9E3779B97F4A7C15)) & np.uint64((1 << 40) - 1)
    return np.array([f"d{code:010x}" for code in mixed.tolist()], dtype=object)


def _skewed(rng: np.random.Generator, choices: int, n: int) -> Ints:
    """Draw ``(n,)`` of ``choices``, the first ones more often."""
    return draw_by_cumulative(rng, np.cumsum(1.0 / np.arange(1.0, choices + 1.0)), n)
