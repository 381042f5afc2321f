"""What is known around one alert: when it got its score, and alerts like it."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, or_, select

from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.store.tables import alert_changes, alerts

COUNTED: Final = 200
"""Similar alerts that are counted, the newest: what is long ago tells little of today."""
_SHOWN: Final = 8


class _Status(msgspec.Struct):
    score: float


def scored_at(c: Connection, alert_id: str, score: float) -> float | None:
    """When the stream first said that an alert has this score, epoch seconds; ``None`` where that is not kept."""
    h = alert_changes.c
    changes = select(h.at, h.details).where(h.alert_id == alert_id, h.kind == "status").order_by(h.at)
    said = ((row.at, msgspec.json.decode(row.details, type=_Status).score) for row in c.execute(changes))
    # The very same float: the row has it from one of these records.
    return next((at for at, found in said if found == score), None)


class SimilarAlerts(NamedTuple):
    """Alerts like one, and how they ended."""

    total: int
    confirmed: int
    false_alarms: int
    unjudged: int
    """Nobody has judged them, or who did was unsure."""
    rows: list[AlertRow]
    """The newest of them."""


def similar_alerts(c: Connection, row: AlertRow) -> SimilarAlerts:
    """Other alerts of the same task, of the same entity or with the same strongest reason."""
    a = alerts.c
    alike = or_(a.entity_id == row.entity_id, a.reason == row.reason) if row.reason else a.entity_id == row.entity_id
    found = select(alerts).where(a.task == row.task, alike, a.alert_id != row.alert_id)
    newest = c.execute(found.order_by(a.opened_at.desc(), a.alert_id.desc()).limit(COUNTED)).mappings()
    rows = [AlertRow(**one) for one in newest]
    confirmed, false_alarms = (sum(one.verdict == said for one in rows) for said in ("confirmed", "false_alarm"))
    return SimilarAlerts(len(rows), confirmed, false_alarms, len(rows) - confirmed - false_alarms, rows[:_SHOWN])
