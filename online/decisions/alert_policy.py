"""What the alert book is told, how severe alerts are by that, and what it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from weir.online.decisions.alert_state import SEVERITIES, AlertState
from weir.online.durations import Seconds
from weir.online.frozen import FrozenModel

VerdictReason = Annotated[str, Field(min_length=1, max_length=32)]
"""As long as a word of the wire may be."""
PROBABLE: Final = 0.2
"""No alert below it is critical by how far it is over the line, for lines may be very low."""


class AlertPolicy(FrozenModel):
    """How one task's alerts open, escalate and end. All times are event time."""

    resolve_after_s: Seconds = Field(default=86400.0, gt=0.0)
    """Quiet time after which an alert resolves by itself."""
    cooldown_s: Seconds = Field(default=3600.0, ge=0.0)
    """Time after a resolution during which the entity opens no new alert."""
    escalate_at: tuple[int, int, int] = (3, 10, 30)
    """Numbers of events at which an alert is at least medium, high and critical."""
    margin_step: float = Field(default=2.0, gt=0.0)
    """Log-odds over the threshold that raise the severity by one step, to critical only from a score of .2 on."""
    severity_by: Literal["events", "probability", "expected_loss"] = Field(
        default="events", exclude_if=lambda value: value == "events"
    )
    """``events``: by ``escalate_at`` and ``margin_step``; else by ``severity_at`` alone."""
    severity_at: tuple[float, float, float] | None = Field(default=None, exclude_if=lambda value: value is None)
    """From where on an alert is medium, high and critical: its probability (.2, .5 and .8 when not given), or its
    expected loss, the probability times the amount of the event."""
    told_every_events: int = Field(default=100, ge=1, exclude_if=lambda value: value == 100)
    """A record tells of repeats when their number has doubled since the last one, or by so many more at the latest; and
    of the last event that it lists."""
    told_every_s: Seconds = Field(default=3600.0, gt=0.0, exclude_if=lambda value: value == 3600.0)
    """A repeat so long after the last record is told."""
    max_event_ids: int = Field(default=20, ge=1, le=1000)
    """Events that an alert lists at most, the first ones."""
    max_open: int = Field(default=10_000, ge=1)
    """Open alerts; beyond, the one that has been quiet longest is resolved to make room."""
    remember_events: int = Field(default=100_000, ge=1)
    """How many of the last event ids over the threshold are remembered to ignore repeats."""
    # Left out of a dump where it is empty, so that task files of before have the digest of before.
    verdict_reasons: tuple[VerdictReason, ...] = Field(default=(), max_length=32, exclude_if=lambda value: not value)
    """The reasons that a verdict may have; any short text without them."""

    @model_validator(mode="after")
    def _graded(self) -> Self:
        if self.severity_by == "expected_loss" and self.severity_at is None:
            raise ValueError('severity_by = "expected_loss" needs severity_at, three losses such as [100, 1000, 10000]')
        if self.severity_at is not None and [*self.severity_at] != sorted(self.severity_at):
            raise ValueError(f"severity_at = {[*self.severity_at]} falls; give the smallest first")
        return self

    def step(self, events: int, score: float, threshold: float, amount: float | None) -> int:
        """How severe an alert is after so many events, the last one with this score: its place in ``SEVERITIES``."""
        if self.severity_by != "events":
            value = score if self.severity_by == "probability" else score * (amount or 0.0)
            return sum(value >= at for at in self.severity_at or (0.2, 0.5, 0.8))
        by_count = sum(events >= number for number in self.escalate_at)
        by_margin = int((_logit(score) - _logit(threshold)) / self.margin_step)
        return max(by_count, min(by_margin, len(SEVERITIES) - (1 if score >= PROBABLE else 2)))


@dataclass(slots=True)
class AlertStats:
    """What became of rows over the threshold since the start."""

    opened: int = 0
    repeats: int = 0
    suppressed: int = 0
    """In a cooldown."""
    repeated_events: int = 0
    resolved: int = 0
    displaced: int = 0
    refused: int = 0
    """Would have opened an alert, but the budget had none left."""


class BookDecision(NamedTuple):
    """What one call of ``AlertBook.decide_by`` made."""

    alerts: list[AlertState]
    """Every changed state, in order."""
    of_rows: dict[int, AlertState]
    """By row over its threshold, the alert that it opened or belongs to, as it was after the row. In a cooldown that is
    the resolved alert before it. A repeated event whose entity has no alert any more is left out."""


def _logit(probability: float) -> float:
    # Learners say exactly 0 and 1, whose log-odds are infinite.
    bounded = min(max(probability, 1e-9), 1.0 - 1e-9)
    return math.log(bounded / (1.0 - bounded))
