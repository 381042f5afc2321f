"""What a stream accepts, as the settings say it. ``weir.online.stages.admission`` goes by it.

This module imports nothing heavy.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from weir.online.durations import Seconds
from weir.online.frozen import FrozenModel

MAX_STEP: Final = 3600.0
"""How far one event moves the time, in seconds, unless told otherwise."""


class IntakePolicy(FrozenModel):
    """What a stream accepts."""

    dedupe_window: Seconds = Field(default=7 * 86_400.0, ge=0.0)
    """A repeated ``event_id`` of the same user or device within this much event time is dropped."""
    dedupe_capacity: int | None = Field(default=None, ge=2)
    """At least so many ids of a partition are remembered where memory is short, and no more than half as many again;
    unless given, as many as ``[worker] dedupe_bytes`` has room for. What is older than ``dedupe_window`` and
    ``allowed_lateness`` goes in any case."""
    allowed_lateness: Seconds = Field(default=86_400.0, ge=0.0)
    """An event older than the newest one by more than this is side-lined: windows that held it may have moved on."""
    max_ahead: Seconds = Field(default=3600.0, ge=0.0)
    """An event or a label further ahead of its arrival (by the broker's clock where it stamps records, else by the
    worker's own) has a broken clock."""
    max_step: Seconds = Field(default=MAX_STEP, gt=0.0)
    """How far one event moves the newest time, by which labels, alerts and timers go, too; to be believed further than
    this takes three entities that say so."""
