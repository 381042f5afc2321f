"""The first tables: alerts with their history and verdicts, and how far the log is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Columns = Sequence[tuple[str, Any]]
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_WHOLE, _BIG = sa.Integer(), sa.BigInteger()
_REAL: Any = sa.Double()
_PLACE = [("topic", _TEXT), ("partition", _WHOLE), ("offset", _BIG)]


def upgrade() -> None:
    """Make the tables."""
    _table(
        "alerts",
        [("alert_id", _TEXT)],
        [(name, _TEXT) for name in ("task", "entity_id", "status", "reasons", "event_ids", "state")]
        + [(name, _REAL) for name in ("score", "threshold", "expected_loss", "opened_at", "updated_at")]
        + [(name, _WHOLE) for name in ("severity", "version", "generation")],
        [(name, _TEXT) for name in ("verdict", "verdict_by", "reopened", "assignee", "changed_by")]
        + [(name, _REAL) for name in ("verdict_at", "claimed_until", "snoozed_until", "changed_at")],
    )
    for sort in ("opened_at", "score", "severity", "expected_loss"):
        name = {"opened_at": "newest"}.get(sort, sort)
        columns = [sort, "score", "alert_id"] if sort == "severity" else [sort, "alert_id"]
        op.create_index(f"alerts_{name}", "alerts", list(dict.fromkeys([*columns, "score", "severity", "task"])))
        op.create_index(f"alerts_state_{name}", "alerts", ["state", *columns, "task", "verdict"])
    for column in ("task", "entity_id", "verdict"):
        op.create_index(f"alerts_{column}", "alerts", [column, "opened_at", "alert_id"])
    claimed: dict[str, Any] = {f"{name}_where": sa.text("assignee IS NOT NULL") for name in ("sqlite", "postgresql")}
    op.create_index("alerts_assignee", "alerts", ["assignee", "opened_at", "alert_id"], **claimed)
    _table("alert_events", [("event_id", _TEXT), ("alert_id", _TEXT)])
    op.create_index("ix_alert_events_alert_id", "alert_events", ["alert_id"])
    _table(
        "alert_changes",
        _PLACE,
        [("alert_id", _TEXT), ("at", _REAL), ("kind", _TEXT), ("details", _TEXT)],
        [("by", _TEXT), ("case_event_id", _TEXT), ("refused", _TEXT)],
        sa.UniqueConstraint("case_event_id", name="alert_changes_case_event_id"),
    )
    op.create_index("alert_changes_alert_id", "alert_changes", ["alert_id", "at"])
    _table(
        "verdicts",
        [("case_event_id", _TEXT)],
        [("alert_id", _TEXT), ("offset", _BIG), ("verdict", _TEXT), ("by", _TEXT), ("at", _REAL)],
        [(name, _TEXT) for name in ("reason", "note", "state", "undone_by")]
        + [("undone_at", _REAL), ("learned_at", _REAL), ("examples_before", _BIG), ("learned_version", _BIG)],
    )
    op.create_index("ix_verdicts_alert_id", "verdicts", ["alert_id"])
    _table("happenings", _PLACE, [("task", _TEXT), ("at", _REAL), ("record", _TEXT)])
    op.create_index("happenings_topic", "happenings", ["topic", "at"])
    _table("examples", [("task", _TEXT)], [], [("version", _BIG)])
    _table("positions", _PLACE[:2], [("next_offset", _BIG)])
    _table("projection_state", [("id", _WHOLE)], [("epoch", _TEXT)], [("writer", _TEXT), ("writer_until", _REAL)])


def _table(
    name: str, key: _Columns, needed: _Columns = (), optional: _Columns = (), *more: sa.UniqueConstraint
) -> None:
    columns = [sa.Column(column, kind, primary_key=True) for column, kind in key]
    columns += [sa.Column(column, kind, nullable=False) for column, kind in needed]
    columns += [sa.Column(column, kind) for column, kind in optional]
    op.create_table(name, *columns, *more)
