"""Tables of the service's database: the projection, who may do what, and notifications.

Each row of the projection is made of records, and can be made again from them. Keys, sessions and the
rules for notifications that people made are nowhere else. Rows are put into all of them, and read, by the functions at
the end.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Connection, Double, Engine, Index, Integer, Select, String, Table
from sqlalchemy import Text as AnyText
from sqlalchemy.dialects import postgresql, sqlite

from weir.streams.service.store.case_rules import AlertRow, SnoozeRow

metadata: Final = sa.MetaData()
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
UNRESOLVED: Final[sa.ColumnElement[bool]] = alerts.c.state != sa.literal_column("'resolved'")
"""Written out, not a parameter: else SQLite would not know that the index below holds them all."""
_waiting: Final[dict[str, Any]] = {f"{name}_where": UNRESOLVED for name in ("sqlite", "postgresql")}
Index("alerts_queue", alerts.c.expected_loss, alerts.c.alert_id, **_waiting)
# Nearly all alerts have no assignee: without those, the database sees how few each one has.
_claimed: Final[dict[str, Any]] = {f"{name}_where": alerts.c.assignee.is_not(None) for name in ("sqlite", "postgresql")}
Index("alerts_assignee", alerts.c.assignee, alerts.c.opened_at, alerts.c.alert_id, **_claimed)


def _keys(**kinds: Any) -> list[Column[Any]]:
    """The columns of a table's key."""
    return [Column(name, kind, primary_key=True) for name, kind in kinds.items()]


def _facts(**kinds: Any) -> list[Column[Any]]:
    """Columns that every row fills."""
    return [Column(name, kind, nullable=False) for name, kind in kinds.items()]


def _perhaps(**kinds: Any) -> list[Column[Any]]:
    """Columns that a row may leave empty."""
    return [Column(name, kind) for name, kind in kinds.items()]


alert_events: Final = Table(
    "alert_events", metadata, *_keys(event_id=Text), Column("alert_id", Text, primary_key=True, index=True)
)
"""Which alerts list an event."""

alert_changes: Final = Table(
    "alert_changes",
    metadata,
    *_keys(topic=Text, partition=Integer, offset=BigInteger),
    # The kind is status, or the action of a case event; details are JSON.
    *_facts(alert_id=Text, at=Double, kind=Text, details=Text),
    *_perhaps(by=Text, case_event_id=Text),
    Column("refused", Text),  # why it did not count
    sa.UniqueConstraint("case_event_id", name="alert_changes_case_event_id"),
    Index("alert_changes_alert_id", "alert_id", "at"),
)
"""History of every alert."""

verdicts: Final = Table(
    "verdicts",
    metadata,
    *_keys(case_event_id=Text),
    Column("alert_id", Text, nullable=False, index=True),
    *_facts(offset=BigInteger, verdict=Text, by=Text, at=Double),  # the offset is their order
    # The state is that of the alert before; the version that of the online model, NULL also where earlier examples are
    # not kept.
    *_perhaps(reason=Text, note=Text, state=Text, examples_before=BigInteger, undone_by=Text, undone_at=Double),
    *_perhaps(learned_at=Double, learned_version=BigInteger),
)

happenings: Final = Table(
    "happenings",
    metadata,
    *_keys(topic=Text, partition=Integer, offset=BigInteger),
    *_facts(task=Text, at=Double, record=Text),  # the record is JSON
    Index("happenings_topic", "topic", "at"),
)
"""Model updates and retrain requests, as they are in their topics."""

# The version is of its online model; NULL where the first examples are no longer kept.
examples: Final = Table("examples", metadata, *_keys(task=Text), *_perhaps(version=BigInteger))
"""How far each task's model has learned, as far as ``examples`` was read."""

positions: Final = Table("positions", metadata, *_keys(topic=Text, partition=Integer), *_facts(next_offset=BigInteger))
"""Up to where each partition is in the projection; written together with what its records made."""

snoozes: Final = Table(
    "snoozes",
    metadata,
    *(_column(f.name, str(f.type)) for f in fields(SnoozeRow)),
    Index("snoozes_entity_id", "entity_id", "task", "until"),
    Index("snoozes_feature", "feature", "task", "until"),
)
"""Which alerts nobody wants to see for a while, and who said so."""

# The owner is the id of a caller, and ``by`` their name.
saved_views: Final = Table(
    "saved_views", metadata, *_keys(owner=Text, name=Text), *_facts(query=Text, by=Text, shared=sa.Boolean)
)
"""Lists that people have named. They follow from no records, so that a rebuild leaves them."""

presence: Final = Table("presence", metadata, *_keys(alert_id=Text, person=Text), *_facts(until=Double))
"""Who has an alert open; in the database, so that people at two replicas see each other."""

# A value is the mean of ``step`` seconds that begin ``at``; the task is empty for the service.
samples: Final = Table(
    "samples", metadata, *_keys(step=Integer, at=BigInteger, task=Text, name=Text), *_facts(value=Double)
)
"""Figures over time, which follow from no records either."""

# The epoch is of the log.
projection_state: Final = Table(
    "projection_state", metadata, *_keys(id=Integer), *_facts(epoch=Text), *_perhaps(writer=Text, writer_until=Double)
)
"""One row: which log this is the projection of, and which process writes it now."""

PROJECTED: Final = (alerts, alert_events, alert_changes, verdicts, snoozes, happenings, examples, positions)
"""What a rebuild empties."""

API_KEYS = Table(
    "api_keys",
    metadata,
    *_keys(id=String(12)),
    *_facts(name=String(200), secret_sha256=String(64), scopes=sa.JSON, created_at=Double, created_by=String(200)),
    *_perhaps(role=String(20), tasks=sa.JSON(none_as_null=True), requests_per_s=Double, records_per_s=Double),
    *_perhaps(expires_at=Double, revoked_at=Double),
)
"""With `SESSIONS`: who may do what."""
SESSIONS = Table(
    "sessions",
    metadata,
    *_keys(token_sha256=String(64)),
    *_facts(subject=String(300), name=String(300), via=String(20), groups=sa.JSON, created_at=Double),
    Column("expires_at", Double, nullable=False, index=True),
)
AUDIT_ANCHORS = Table(
    "audit_anchors", metadata, *_keys(writer=String(300)), *_facts(seq=BigInteger, hash=String(64), at=Double)
)
AUDIT_OUTBOX = Table("audit_outbox", metadata, *_keys(id=Integer), *_facts(body=sa.JSON))
"""What commands did beside the service, which alone writes the audit: it takes them from here."""

owed_labels: Final = Table(
    "owed_labels", metadata, *_keys(case_event_id=Text), *_facts(alert_id=Text, at=Double, labels=sa.JSON)
)
"""Labels of verdicts that are on their way to the log. A rebuild leaves them."""

notifications: Final = Table(
    "notifications",
    metadata,
    *_keys(id=Text),
    *(Column(name, kind, nullable=False, index=True) for name, kind in (("place", BigInteger), ("alert_id", Text))),
    *_facts(rule=Text, target=Text, task=Text, what=Text, status=Text, answer=Text, message=Text),  # JSON, the last
    *_facts(due_at=Double, changed_at=Double, gathered=Integer),
    Index("notifications_waiting", "status", "target", "due_at", "place"),
)
"""Every message in its place, and its status: waiting, sent, failed, left_out. Made of the topic ``notifications``, so
that a rebuild empties it."""

notify_rules: Final = Table("notify_rules", metadata, *_keys(name=Text), *_facts(rule=Text, by=Text, at=Double))
"""Rules that people made (JSON), and rules of the settings that they paused. A rebuild leaves them."""


def upsert(connection: Connection, table: Table, rows: list[dict[str, Any]], *, replace: bool = True) -> None:
    """Insert rows; of a key that is there already, replace the row, or leave it as it is."""
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    made = insert(table)
    key = [column.name for column in table.primary_key]
    others = {name: made.excluded[name] for name in rows[0] if name not in key}
    if replace and others:
        connection.execute(made.on_conflict_do_update(index_elements=key, set_=others), rows)
    else:
        connection.execute(made.on_conflict_do_nothing(), rows)


def execute(engine: Engine, *statements: sa.Executable) -> int:
    """Run statements in one transaction; how many rows the last of them changed."""
    with engine.begin() as connection:
        return [connection.execute(each).rowcount for each in statements][-1]


def fetched(engine: Engine, query: Select[Any]) -> list[Any]:
    """The rows of a query."""
    with engine.connect() as connection:
        return list(connection.execute(query))
