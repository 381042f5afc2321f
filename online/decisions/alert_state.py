"""An alert as it is after a change: what leaves the alert book and what the wire's ``Alert`` is made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Status = Literal["open", "escalated", "resolved"]
Severity = Literal["low", "medium", "high", "critical"]
Verdict = Literal["confirmed", "false_alarm", "quiet", "displaced"]
"""Why an alert was resolved: by a label (the first two), by quiet time, or to make room."""

SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")


class Reason(msgspec.Struct, frozen=True, array_like=True):
    """One feature's part in a score."""

    feature: str
    value: float
    contribution: float
    """What it adds to the log-odds."""
    text: str
    """The same for a person."""


class AlertState(msgspec.Struct, frozen=True, array_like=True):
    """One state of one alert; the newest of an ``alert_id`` counts."""

    alert_id: str
    task: str
    entity_id: str
    status: Status
    severity: Severity
    score: float
    """The highest score so far."""
    threshold: float
    """The threshold that this score was over."""
    reasons: tuple[Reason, ...]
    """Those of the highest score."""
    opened_at: float
    updated_at: float
    event_ids: tuple[str, ...]
    """The first events, up to the policy's bound."""
    events: int = 1
    """All events over the threshold."""
    verdict: Verdict | None = None
    amount: float | None = None
    """What is at stake: of the event with the highest score, where the model sees it."""

    def to_wire_dict(self) -> dict[str, Any]:
        """Return the fields of the wire's ``Alert``; ``verdict`` stays inside."""
        held = msgspec.structs.asdict(self)
        inside = {
            "reasons": [msgspec.structs.asdict(reason) for reason in self.reasons],
            "event_ids": [*self.event_ids],
        }
        return {name: value for name, value in (held | inside).items() if name != "verdict"}

    @classmethod
    def of_wire_dict(cls, told: Mapping[str, Any]) -> AlertState:
        """The state of which ``told`` is the wire's ``Alert``; ``verdict`` is not in it."""
        inside = {
            "reasons": tuple(Reason(**reason) for reason in told["reasons"]),
            "event_ids": tuple(told["event_ids"]),
        }
        return cls(**{name: told[name] for name in cls.__struct_fields__ if name in told} | inside)
