"""Case work: alerts on hold, snoozes, saved views, and who has an alert open."""

from __future__ import annotations

from sqlalchemy import Connection, text

from weir.streams.service.store.tables import alerts

_INDEXES = ("alerts_reason", "alerts_judged", "alerts_claimed", "alerts_facets", "alerts_queue")


def upgrade(c: Connection) -> None:
    """Fill what is new in alerts as a rebuild would."""
    c.execute(text("ALTER TABLE alerts RENAME COLUMN snoozed_until TO held_until"))
    kind = alerts.c.reason.type.compile(c.dialect)
    c.execute(text(f"ALTER TABLE alerts ADD COLUMN reason {kind} DEFAULT '' NOT NULL"))
    lite = c.dialect.name == "sqlite"
    strongest = "json_extract(reasons, '$[0].feature')" if lite else "reasons::json -> 0 ->> 'feature'"
    c.execute(text(f"UPDATE alerts SET reason = {strongest} WHERE reasons <> '[]'"))
    unpriced = """reasons NOT LIKE '%"feature":"amount"%'"""
    c.execute(text(f"UPDATE alerts SET expected_loss = score * (severity + 1) WHERE {unpriced}"))
    for index in alerts.indexes:
        if index.name in _INDEXES:
            index.create(c)
