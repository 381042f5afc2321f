"""What is known around one alert: when it got its score."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from weir.streams.service.store.tables import alert_changes


class _Status(msgspec.Struct):
    score: float


def scored_at(c: Connection, alert_id: str, score: float) -> float | None:
    """When the stream first said that an alert has this score, epoch seconds; ``None`` where that is not kept."""
    h = alert_changes.c
    changes = select(h.at, h.details).where(h.alert_id == alert_id, h.kind == "status").order_by(h.at)
    said = ((row.at, msgspec.json.decode(row.details, type=_Status).score) for row in c.execute(changes))
    return next((at for at, found in said if found == score), None)
