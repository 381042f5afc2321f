"""What labels said of alerts by the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.decisions.alert_state import AlertState
from weir.streams.backtest.outcomes import Outcomes


@dataclass(frozen=True, slots=True)
class AlertOutcome:
    """An alert, what came of it, and whether that is good, bad or not known."""

    alert: AlertState
    outcome: str
    look: str


def alert_outcomes(alerts: Sequence[AlertState], outcomes: Outcomes) -> list[AlertOutcome]:
    """What the labels of each alert's listed events say; a positive one counts most."""
    wanted = pa.array(sorted({event for alert in alerts for event in alert.event_ids}), pa.string())
    some = outcomes.take(np.asarray(pc.is_in(outcomes.event_ids, value_set=wanted), np.bool_))
    said = dict(zip(zip(some.entity_id, some.event_id, strict=True), some.label.tolist(), strict=True))
    return [_outcome(a, [said.get((a.entity_id, each), np.nan) for each in a.event_ids]) for a in alerts]


def _outcome(alert: AlertState, labels: list[float]) -> AlertOutcome:
    known = [label for label in labels if not np.isnan(label)]
    if not known:
        return AlertOutcome(alert, "not known yet", "soft")
    if not any(known):
        return AlertOutcome(alert, "false alarm", "good")
    of = f" ({int(sum(known))} of {len(known)} labels)" if len(known) > 1 else ""
    return AlertOutcome(alert, f"positive{of}", "bad")
