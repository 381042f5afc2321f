"""What goes wrong on the way: records that arrive late, twice or broken. It knows encoded records only."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import numpy as np

from weir.streams.simulate.config import DAY_S, SimulationConfig
from weir.streams.simulate.wire import Records, concatenate

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
            _delayed(rng, arrived.take(rng.random(n) < config.duplicate_share), 600.0),
            _broken(rng, records.take(rng.random(n) < config.malformed_share)),
        ]
    )


def _delayed(rng: np.random.Generator, records: Records, mean_s: float) -> Records:
    available = records.available + rng.exponential(mean_s, len(records))
    return Records(records.topic, available, records.key, records.value)


def _broken(rng: np.random.Generator, records: Records) -> Records:
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
