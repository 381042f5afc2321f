"""Tables of the service's database. Each row of the projection is made of records, and can be made again from them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy import Text as AnyText
from sqlalchemy import literal_column as literal

from weir.streams.service.store.case_rules import AlertRow, SnoozeRow

metadata: Final = MetaData()
Text: Final = AnyText().with_variant(AnyText(collation="C"), "postgresql")
"""By bytes, as SQLite compares it: the same order and the same search in both, whatever the database's language."""
_TYPES: Final[dict[str, Any]] = {"str": Text, "float": Double(), "int": Integer()}


def _column(name: str, kind: str) -> Column[Any]:
    base, _, optional = kind.partition(" | ")
    return Column(name, _TYPES[base], primary_key=name in ("alert_id", "snooze_id"), nullable=bool(optional))


alerts: Final = Table("alerts", metadata, *(_column(f.name, str(f.type)) for f in fields(AlertRow)))
SORTS: Final = {
    "newest": ("opened_at",),
    "score": ("score",),
    "severity": ("severity", "score"),
    "expected_loss": ("expected_loss",),
}
"""Columns by which a list may be sorted, all descending; the id is the last of them."""
for _sort, _columns in SORTS.items():
    # What else a list is filtered by stands at the end of its index: a row that does not match is never looked up.
    _also = dict.fromkeys((*_columns, "alert_id", "score", "severity", "task"))
    Index(f"alerts_{_sort}", *(alerts.c[name] for name in _also))
    Index(f"alerts_state_{_sort}", *(alerts.c[name] for name in ("state", *_columns, "alert_id", "task", "verdict")))
for _filter in ("task", "entity_id", "verdict"):
    Index(f"alerts_{_filter}", alerts.c[_filter], alerts.c.opened_at, alerts.c.alert_id)
Index("alerts_reason", *(alerts.c[name] for name in ("reason", "task", "opened_at", "verdict")))
Index("alerts_judged", alerts.c.verdict_at, alerts.c.task)
Index("alerts_claimed", alerts.c.claimed_until)
_FACETS: Final = (
    "task", "severity", "state", "verdict", "assignee", "claimed_until", "held_until", "entity_id", "reason",
    "opened_at", "score",
)  # fmt: skip
# The first four are what is counted, in this order; with the others no row is looked up, whatever the filter.
Index("alerts_facets", *(alerts.c[name] for name in _FACETS))
UNRESOLVED: Final[ColumnElement[bool]] = alerts.c.state != literal("'resolved'")
"""Written out, not a parameter: else SQLite would not know that the index below holds them all."""
_waiting: Final[dict[str, Any]] = {f"{name}_where": UNRESOLVED for name in ("sqlite", "postgresql")}
Index("alerts_queue", alerts.c.expected_loss, alerts.c.alert_id, **_waiting)
# Nearly all alerts have no assignee: without those, the database sees how few each one has.
_claimed: Final[dict[str, Any]] = {f"{name}_where": alerts.c.assignee.is_not(None) for name in ("sqlite", "postgresql")}
Index("alerts_assignee", alerts.c.assignee, alerts.c.opened_at, alerts.c.alert_id, **_claimed)

alert_events: Final = Table(
    "alert_events",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("alert_id", Text, primary_key=True, index=True),
)
"""Which alerts list an event."""

alert_changes: Final = Table(
    "alert_changes",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("alert_id", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),  # status, or the action of a case event
    Column("by", Text),
    Column("case_event_id", Text),
    Column("refused", Text),  # why it did not count
    Column("details", Text, nullable=False),  # JSON
    UniqueConstraint("case_event_id", name="alert_changes_case_event_id"),
    Index("alert_changes_alert_id", "alert_id", "at"),
)
"""History of every alert."""

verdicts: Final = Table(
    "verdicts",
    metadata,
    Column("case_event_id", Text, primary_key=True),
    Column("alert_id", Text, nullable=False, index=True),
    Column("offset", BigInteger, nullable=False),  # their order
    Column("verdict", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("reason", Text),
    Column("note", Text),
    Column("state", Text),  # of the alert, before
    Column("examples_before", BigInteger),
    Column("undone_by", Text),
    Column("undone_at", Double),
    Column("learned_at", Double),
    Column("learned_version", BigInteger),  # of the online model; NULL also where earlier examples are not kept
)

happenings: Final = Table(
    "happenings",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("task", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("record", Text, nullable=False),  # JSON
    Index("happenings_topic", "topic", "at"),
)
"""Model updates and retrain requests, as they are in their topics."""

examples: Final = Table(
    "examples",
    metadata,
    Column("task", Text, primary_key=True),
    Column("version", BigInteger),  # of its online model; NULL where the first examples are no longer kept
)
"""How far each task's model has learned, as far as ``examples`` was read."""

positions: Final = Table(
    "positions",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
)
"""Up to where each partition is in the projection; written together with what its records made."""

snoozes: Final = Table(
    "snoozes",
    metadata,
    *(_column(f.name, str(f.type)) for f in fields(SnoozeRow)),
    Index("snoozes_entity_id", "entity_id", "task", "until"),
    Index("snoozes_feature", "feature", "task", "until"),
)
"""Which alerts nobody wants to see for a while, and who said so."""

saved_views: Final = Table(
    "saved_views",
    metadata,
    Column("owner", Text, primary_key=True),  # id of the caller
    Column("name", Text, primary_key=True),
    Column("query", Text, nullable=False),
    Column("by", Text, nullable=False),  # name of the owner
    Column("shared", Boolean, nullable=False),
)
"""Lists that people have named. They follow from no records, so that a rebuild leaves them."""

presence: Final = Table(
    "presence",
    metadata,
    Column("alert_id", Text, primary_key=True),
    Column("person", Text, primary_key=True),
    Column("until", Double, nullable=False),
)
"""Who has an alert open; in the database, so that people at two replicas see each other."""

samples: Final = Table(
    "samples",
    metadata,
    Column("step", Integer, primary_key=True, autoincrement=False),  # seconds that a value is the mean of
    Column("at", BigInteger, primary_key=True, autoincrement=False),  # where they begin, epoch seconds
    Column("task", Text, primary_key=True),  # empty for the service
    Column("name", Text, primary_key=True),
    Column("value", Double, nullable=False),
)
"""Figures over time, which follow from no records either."""

projection_state: Final = Table(
    "projection_state",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("epoch", Text, nullable=False),  # of the log
    Column("writer", Text),
    Column("writer_until", Double),
)
"""One row: which log this is the projection of, and which process writes it now."""

PROJECTED: Final = (alerts, alert_events, alert_changes, verdicts, snoozes, happenings, examples, positions)
"""What a rebuild empties."""


# Tables of the database that say who may do what.

API_KEYS = Table(
    "api_keys",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("role", String(20)),
    Column("scopes", JSON, nullable=False),
    Column("tasks", JSON(none_as_null=True)),
    Column("requests_per_s", Double),
    Column("records_per_s", Double),
    Column("created_at", Double, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)
SESSIONS = Table(
    "sessions",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("subject", String(300), nullable=False),
    Column("name", String(300), nullable=False),
    Column("via", String(20), nullable=False),
    Column("groups", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
)
AUDIT_ANCHORS = Table(
    "audit_anchors",
    metadata,
    Column("writer", String(300), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("at", Double, nullable=False),
)
AUDIT_OUTBOX = Table(
    "audit_outbox", metadata, Column("id", Integer, primary_key=True), Column("body", JSON, nullable=False)
)
"""What commands did beside the service, which alone writes the audit: it takes them from here."""


# Tables of notifications: what the topic ``notifications`` says, and rules that people made.

_TEXTS: Final = ("rule", "target", "task", "what", "status", "answer", "message")
notifications: Final = Table(
    "notifications",
    metadata,
    Column("id", Text, primary_key=True),
    Column("place", BigInteger, nullable=False, index=True),  # their order
    Column("alert_id", Text, nullable=False, index=True),
    *(Column(name, Text, nullable=False) for name in _TEXTS),  # the message is JSON
    *(Column(name, Double, nullable=False) for name in ("due_at", "changed_at")),
    Column("gathered", Integer, nullable=False),
    Index("notifications_waiting", "status", "target", "due_at", "place"),
)
"""Every message, and its status: waiting, sent, failed, left_out. Made of the topic, so that a rebuild empties it."""

notify_rules: Final = Table(
    "notify_rules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("rule", Text, nullable=False),  # JSON
    Column("by", Text, nullable=False),
    Column("at", Double, nullable=False),
)
"""Rules that people made, and rules of the settings that they paused. A rebuild leaves them."""
