"""What a simulated stream looks like. It knows sizes, shares and times, not how events are drawn."""

from __future__ import annotations

import zlib
from typing import Annotated, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from weir.streams.config.topics import DEVICE_EVENTS, LABELS, USER_EVENTS

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0

TOPICS: Final = (USER_EVENTS, DEVICE_EVENTS, LABELS)

FRAUD_TASK: Final = "fraud"
FAILURE_TASK: Final = "device_failure"

Share = Annotated[float, Field(ge=0.0, le=1.0)]
DirtyShare = Annotated[float, Field(ge=0.0, le=0.2)]


class SimulationConfig(BaseModel):
    """Sizes, shares and times of one simulated stream; the same configuration gives the same bytes.

    ``events`` counts the valid, distinct user and device events exactly; labels, duplicates and malformed
    records come on top of it.

    Examples
    --------
    >>> config = SimulationConfig(seed=7, events=10_000, days=10)
    >>> config.end_ts - config.start_ts == 10 * DAY_S
    True
    >>> config.day_events(0) + sum(config.day_events(day) for day in range(1, 10))
    10000
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=7, ge=0)
    users: int = Field(default=2_000, ge=1, le=5_000_000)
    merchants: int = Field(default=300, ge=4, le=1_000_000)
    devices: int = Field(default=60, ge=0, le=1_000_000)
    """Machines that send metrics (the phones and laptops of users are drawn with the users)."""
    days: int = Field(default=60, ge=1, le=3_650)
    events: int = Field(default=500_000, ge=1)
    """User and device events over the whole time."""
    device_event_share: Share = 0.35
    """Share of ``events`` that machines send; nothing when there are no ``devices``."""
    start_ts: float = Field(default=1_767_571_200.0, ge=946_684_800.0, le=3_786_000_000.0)
    """Event time at which the stream begins, epoch seconds (default: Monday 2026-01-05, midnight UTC).

    The wire format takes times of the years 2000 to 2099; a simulation lasts ten years at most."""

    fraud_share: Share = 0.01
    """Frauds among purchases."""
    drift_at: float | None = Field(default=0.6, ge=0.0, le=1.0)
    """Fraction of the time after which the fraud pattern changes; ``None`` for never."""
    label_delay_days: float = Field(default=4.0, ge=0.0, le=365.0)
    """Median time from a fraud to its chargeback."""
    review_share: Share = 0.01
    """Honest purchases that an analyst looks at and clears (a label with value 0 within hours)."""
    correction_share: Share = 0.01
    """Chargebacks that are withdrawn later (a second label with value 0 for the same event)."""
    churn_share: Share = 0.25
    """Users whose activity dies out before the end."""
    days_between_failures: float = Field(default=18.0, gt=0.0)
    """Mean time from the repair of a machine to its next failure."""

    malformed_share: DirtyShare = 0.0005
    """Records that no reader can accept, added to the event topics."""
    duplicate_share: DirtyShare = 0.001
    """Events that are delivered twice."""
    late_share: DirtyShare = 0.002
    """Events that arrive minutes to days after they happened."""
    block_s: float = Field(default=HOUR_S, gt=0.0, le=DAY_S)
    """Event time that one block covers, seconds."""

    @property
    def end_ts(self) -> float:
        """Event time at which the stream ends, epoch seconds."""
        return self.start_ts + self.days * DAY_S

    @property
    def drift_ts(self) -> float:
        """Event time of the drift, epoch seconds; infinity when there is none."""
        return np.inf if self.drift_at is None else self.start_ts + self.drift_at * self.days * DAY_S

    @property
    def effective_device_share(self) -> float:
        """``device_event_share``, or 0 without devices."""
        return self.device_event_share if self.devices else 0.0

    def day_events(self, day: int) -> int:
        """How many events day ``day`` holds; the days sum to ``events``, weekends hold more."""
        weights = np.array([1.0, 0.97, 0.98, 1.0, 1.08, 1.15, 1.02])
        first = self.weekday(0)
        share = np.concatenate([[0.0], np.cumsum(weights[(first + np.arange(self.days)) % 7])])
        # Edges are rounded, not days, so that the days add up exactly.
        edges = np.rint(share / share[-1] * self.events)
        return int(edges[day + 1] - edges[day])

    def weekday(self, day: int) -> int:
        """Day of the week of day ``day``; Monday is 0."""
        return (int(self.start_ts // DAY_S) + day + 3) % 7  # 1970 began on a Thursday

    def rng(self, name: str, day: int = 0) -> np.random.Generator:
        """Random numbers of one concern on one day: more draws in one leave the others alone."""
        # Not `hash`, which is another in each process.
        return np.random.default_rng([self.seed, zlib.crc32(name.encode()), day])
